"""What several runs say of one quantity: the mean and the 16th-84th percentile, in percent, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from datadiet.errors import DatadietError

PERCENTILES = "16th–84th percentile"


class Spread(NamedTuple):
    """Of values (runs,): mean, 16th and 84th percentile in percent, and how many runs there were."""

    mean: float
    low: float
    high: float
    runs: int


def spread(values: Any, what: str) -> Spread:
    """Accuracies (runs,) in [0, 1] -> their `Spread`; a run without a result (NaN) is left out."""
    array = np.atleast_1d(np.asarray(values, dtype=np.float64)).ravel()
    array = array[~np.isnan(array)]
    if array.size and (array.min() < 0 or array.max() > 1):
        worst = array.max() if array.max() > 1 else array.min()
        raise DatadietError(f"an accuracy is {worst:g}", where=what, fix="give accuracies as fractions between 0 and 1")
    if not array.size:
        return Spread(np.nan, np.nan, np.nan, 0)
    low, high = np.percentile(100 * array, [16, 84])
    return Spread(float(np.mean(100 * array)), float(low), float(high), array.size)


def line(points: Mapping[Any, Any], what: str, name: str = "keep") -> dict[float, Spread]:
    """{fraction: values (runs,)} -> {fraction: Spread}, ascending; fractions without a run are left out."""
    found: dict[float, Spread] = {}
    for key, values in points.items():
        fraction = float(key)
        if not 0 <= fraction <= 1:
            raise DatadietError(f"{name} is {key}", where=what, fix=f"give {name} as a fraction from 0 to 1")
        one = spread(values, what)
        if one.runs:
            found[fraction] = one
    return dict(sorted(found.items()))


def note(spreads: list[Spread], band: str = PERCENTILES) -> str:
    """What the marks are made of: "mean and 16th–84th percentile of 4 runs"."""
    counts = sorted({one.runs for one in spreads if one.runs})
    if not counts:
        return "no finished run"
    if counts == [1]:
        return "one run each"
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return f"mean and {band} of {number} runs"


def limits(spreads: list[Spread]) -> tuple[float, float]:
    """Ends of an axis in percent that show every spread, at least one point apart and never far above 100."""
    shown = [one for one in spreads if one.runs]
    if not shown:
        return 0.0, 100.0
    low = min(min(one.low, one.mean) for one in shown)
    high = max(max(one.high, one.mean) for one in shown)
    pad = max(0.07 * (high - low), 0.25)
    if high - low + 2 * pad < 1:
        pad = (1 - (high - low)) / 2
    return max(low - pad, -1.0), min(high + pad, 100 + pad / 2)
