"""One rule for every claim: where the 95 % interval of the difference over runs lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Outcome = Literal["holds", "does not hold", "undecided"]
LEVEL = 0.95
TIE = 1e-9  # of the largest value: what is nearer than that to the margin differs from it by rounding
ROUNDING = 1e-12  # what is less is 0 but for rounding


@dataclass(frozen=True)
class Verdict:
    """What came of one claim.

    Args:
        number: the claim's number in the list of the papers' claims (docs/studies.md).
        claim: in words, with the tolerance or margin where there is one.
        outcome: "holds", "does not hold" or "undecided".
        mean: the mean over runs of what the claim is about: a difference, or a value.
        low, high: the ends of its 95 % interval (Student's t); NaN below two runs.
        margin: what the mean is claimed to exceed.
        runs: how many values the mean is of.
        values: those values, in run order; for two unpaired groups, empty.
        unit: what they are in, such as "points".
        note: what else a reader should know.
    """

    number: int
    claim: str
    outcome: Outcome
    mean: float
    low: float
    high: float
    margin: float
    runs: int
    values: tuple[float, ...] = ()
    unit: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Numbers that do not exist are null: NaN is not JSON."""
        return {name: _json(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Verdict:
        """What `to_json` gave."""
        numbers = {name: math.nan if content[name] is None else content[name] for name in ("mean", "low", "high")}
        return cls(**{**content, **numbers, "values": tuple(content["values"])})

    def measured(self) -> str:
        """The measured values for people: "+1.17 points [0.4, 1.9], 4 runs"."""
        unit = f" {self.unit}" if self.unit else ""
        ends = "" if math.isnan(self.low) else f" [{_said(self.low)}, {_said(self.high)}]"
        above = f", claimed above {self.margin:+.3g}" if self.margin else ""
        runs = f", {self.runs} run{'s' * (self.runs != 1)}"
        mean = "no value" if math.isnan(self.mean) else _said(self.mean)
        return f"{mean}{unit}{ends}{above}{runs}"


def _said(value: float) -> str:
    """Three digits with a sign; what is zero but for rounding as zero."""
    return f"{0.0 if abs(value) < ROUNDING else value:+.3g}"


def verdict(
    number: int,
    claim: str,
    first: Sequence[float] | np.ndarray | float,
    second: Sequence[float] | np.ndarray | float | None = None,
    *,
    margin: float = 0.0,
    paired: bool = True,
    unit: str = "",
    note: str = "",
    doubt: str = "",
) -> Verdict:
    """Judge the claim that the mean of `first`, less that of `second`, exceeds `margin`.

    The 95 % interval lies above the margin: the claim holds; below: it does not; across, or fewer than two runs, or a
    run without a finite value, or an end that lies at the margin but for rounding: undecided. The interval is Student's
    t of the differences where runs are paired, and Welch's where they are not. Values that are all the same have an
    interval of no width.

    Args:
        first, second: (runs,) values; without `second`, `first` are differences, or values compared with the margin.
        paired: whether run r of `first` and run r of `second` belong together.
        doubt: why these values cannot show that it holds, wherever the interval lies.
        margin: "nothing is lost" is the claim that the difference exceeds minus the tolerance; say so in `claim`.
    """
    a = np.atleast_1d(np.asarray(first, np.float64)).ravel()
    b = None if second is None else np.atleast_1d(np.asarray(second, np.float64)).ravel()
    if b is not None and paired and len(a) != len(b):
        raise ValueError(f"{claim}: {len(a)} runs cannot be paired with {len(b)}")
    largest = max([abs(margin), *np.abs(a), *(() if b is None else np.abs(b))])
    tie = max(TIE * largest, ROUNDING)
    if b is not None and paired:
        a, b = a - b, None
    finite = np.isfinite(a).all() and (b is None or np.isfinite(b).all())
    count = len(a) if b is None else min(len(a), len(b))
    values = tuple(float(v) for v in a) if b is None else ()

    def result(outcome: Outcome, mean: float, low: float, high: float, why: str = "") -> Verdict:
        words = "; ".join(part for part in (why, note) if part)
        return Verdict(number, claim, outcome, mean, low, high, margin, count, values, unit, words)

    nan = float("nan")
    if not len(a) or (b is not None and not len(b)):
        return result("undecided", nan, nan, nan, "nothing was measured")
    if not finite:
        return result("undecided", nan, nan, nan, "a run has no value")
    mean = float(a.mean() if b is None else a.mean() - b.mean())
    if count < 2:
        return result("undecided", mean, nan, nan, "one run says nothing about its spread")
    half = _half_width(a) if b is None else _half_width_welch(a, b)
    low, high = mean - half, mean + half
    outcome: Outcome = "holds" if low - margin > tie else "does not hold" if margin - high > tie else "undecided"
    if doubt and outcome == "holds":
        return result("undecided", mean, low, high, doubt)
    return result(outcome, mean, low, high)


def _half_width(values: np.ndarray) -> float:
    """Half of the 95 % interval of a mean."""
    return _quantile(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


def _half_width_welch(a: np.ndarray, b: np.ndarray) -> float:
    """Half of the 95 % interval of a difference of means, with Welch and Satterthwaite's degrees of freedom."""
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb == 0:
        return 0.0
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return _quantile(float(freedom)) * math.sqrt(va + vb)


def _quantile(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
