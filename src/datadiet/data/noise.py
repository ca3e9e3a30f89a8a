"""Label noise as an operation on a Dataset: `permute` (Data Diet) and `redraw` (Lottery Tickets).

Both choose `floor(fraction·N + ½)` training examples at random. `permute` shuffles the labels of the chosen among
themselves, so label counts stay and about one in `classes` keeps its label; `redraw` gives each chosen one a label
drawn uniformly from all classes, its own included. Test labels are never touched. The seed is the noise's own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from datadiet.data.checks import real
from datadiet.data.dataset import Dataset, Noise
from datadiet.errors import DatadietError, unknown
from datadiet.seeds import stream

KINDS = ("permute", "redraw")


def corrupt(data: Dataset, kind: str, fraction: float, seed: int = 0) -> Dataset:
    """`data` with noisy training labels; `data.chosen` and `data.corrupted` say which."""
    if kind not in KINDS:
        raise unknown("kind of label noise", kind, KINDS)
    fraction = real(fraction, "the fraction", where="noise")
    if not 0 < fraction <= 1:
        raise DatadietError(f"a noise fraction of {fraction}", where="noise", fix="it must lie in (0, 1]")
    if data.noise is not None:
        raise DatadietError("the labels are noisy already", where=data.name, fix="add noise once")
    if data.validation is not None:
        raise DatadietError("a validation split was cut before the noise", where=data.name, fix="call with_noise first")
    n = len(data)
    count = math.floor(Fraction(str(fraction)) * n + Fraction(1, 2))
    rng = stream(seed, "noise", 0, kind)
    rows = np.sort(rng.permutation(n)[:count])
    labels = data.labels.copy()
    if kind == "permute":
        labels[rows] = labels[rows][rng.permutation(count)]
    else:
        labels[rows] = rng.integers(0, len(data.classes), count)
    chosen = np.zeros(n, bool)
    chosen[rows] = True
    noise = Noise(kind, fraction, int(seed), chosen, data.labels.copy())
    return replace(data, train=replace(data.train, labels=labels), noise=noise)


def parse(text: str) -> tuple[str, float]:
    """`permute:0.1` as the command line writes it."""
    kind, colon, amount = text.partition(":")
    try:
        fraction = float(amount)
    except ValueError:
        fraction = math.nan
    if not colon or math.isnan(fraction):
        raise DatadietError(f"{text!r} is not label noise", where="--noise", fix='write "permute:0.1"')
    return kind, fraction
