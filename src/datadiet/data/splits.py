"""Stratified splits: the fixed test split of sources that have none, and validation cut from training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np

from datadiet.data.checks import real
from datadiet.data.content import moments
from datadiet.data.dataset import Dataset, Noise
from datadiet.errors import DatadietError
from datadiet.seeds import stream


def stratified(
    labels: np.ndarray, fraction: float, rng: np.random.Generator, *, where: str, names: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Rows kept and rows held out, both sorted; each class gives `floor(fraction·n + ½)` rows, at least one.

    A class must keep at least one row on either side, so it needs two.
    """
    if not 0 < fraction < 1:
        raise DatadietError(f"a split of {fraction}", where=where, fix="it must lie between 0 and 1")
    out = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            name = names[label] if names else str(label)
            raise DatadietError(
                f"class {name!r} has {len(rows)} example, too few to split",
                where=where,
                fix="add examples, or merge or drop the class",
            )
        take = math.floor(Fraction(str(fraction)) * len(rows) + Fraction(1, 2))
        out.append(rows[rng.permutation(len(rows))[: min(max(take, 1), len(rows) - 1)]])
    held = np.sort(np.concatenate(out))
    kept = np.ones(len(labels), bool)
    kept[held] = False
    return np.flatnonzero(kept), held


def fixed_test_split(
    labels: np.ndarray, fraction: float, *, where: str, names: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The test split of a source that has none: a function of the labels alone, which no seed touches."""
    return stratified(labels, fraction, stream(0, "test split", 0), where=where, names=names)


def cut_validation(data: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """`data` with a part of the training examples in `data.validation`; labels stay as noisy as they were."""
    if data.validation is not None:
        raise DatadietError("a validation split was cut already", where=data.name)
    where = f"{data.name}, validation"
    fraction = real(fraction, "the fraction", where=where)
    kept, held = stratified(data.labels, fraction, stream(seed, "validation", 0), where=where, names=data.classes)
    rows = np.arange(len(data)) if data.rows is None else data.rows
    noise = data.noise
    if noise is not None:
        noise = Noise(noise.kind, noise.fraction, noise.seed, noise.chosen[kept], noise.original[kept])
    train, validation = data.train.take(kept), data.train.take(held)
    mean, std = (None, None) if isinstance(train.inputs, Mapping) else moments(train.inputs)
    cut = (fraction, int(seed))
    return replace(data, train=train, validation=validation, cut=cut, noise=noise, rows=rows[kept], mean=mean, std=std)
