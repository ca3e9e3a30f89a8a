"""One rule for every claim: the side of the margin on which the 95 % interval lies."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from datadiet.studies import verdict

values = st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=2, max_size=8)


@given(values)
def test_the_interval_of_values_is_students(sample: list[float]) -> None:
    found = verdict(1, "claim", sample)
    if np.ptp(sample) < 1e-9:
        assert found.low == pytest.approx(found.high) == pytest.approx(sample[0])
        return
    low, high = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.mean == pytest.approx(np.mean(sample))


@given(values, values)
def test_the_interval_of_unpaired_groups_is_welchs(a: list[float], b: list[float]) -> None:
    found = verdict(1, "claim", a, b, paired=False)
    if np.ptp(a) < 1e-6 and np.ptp(b) < 1e-6:
        assert found.low == pytest.approx(found.high, abs=1e-5)
        return
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.runs == min(len(a), len(b))


def test_pairing_takes_differences_run_by_run() -> None:
    runs = np.array([0.0, 10.0, 20.0, 30.0])
    better = runs + np.array([1.0, 1.1, 0.9, 1.0])
    assert verdict(1, "claim", better, runs).outcome == "holds"
    assert verdict(1, "claim", better, runs, paired=False).outcome == "undecided"


@given(values, st.floats(-5, 5))
def test_the_opposite_claim_has_the_opposite_outcome(sample: list[float], margin: float) -> None:
    opposite = {"holds": "does not hold", "does not hold": "holds", "undecided": "undecided"}
    found = verdict(1, "claim", sample, margin=margin)
    other = verdict(1, "the opposite", [-v for v in sample], margin=-margin)
    assert other.outcome == opposite[found.outcome]


@pytest.mark.parametrize(
    ("sample", "margin", "outcome"),
    [
        ([1.0, 1.2, 0.9, 1.1], 0.0, "holds"),
        ([-1.0, -1.2, -0.9, -1.1], 0.0, "does not hold"),
        ([1.0, -1.2, 0.9, -1.1], 0.0, "undecided"),
        ([-0.2, -0.3, -0.25, -0.2], -1.0, "holds"),  # nothing is lost, within a tolerance of 1
        ([-1.2, -1.3, -1.25, -1.2], -1.0, "does not hold"),
        ([0.5, 0.5, 0.5], 0.0, "holds"),  # no spread: an interval of no width
        ([0.0, 0.0, 0.0], 0.0, "undecided"),
        ([5.0], 0.0, "undecided"),
        ([], 0.0, "undecided"),
        ([1.0, math.nan, 1.1], 0.0, "undecided"),
        ([1.0, math.inf, 1.1], 0.0, "undecided"),
    ],
)
def test_outcomes(sample: list[float], margin: float, outcome: str) -> None:
    found = verdict(1, "claim", sample, margin=margin)
    assert found.outcome == outcome
    if len(sample) < 2 or not np.isfinite(sample).all():
        assert found.note, "it says why"
        assert math.isnan(found.low)
    json.dumps(found.to_json(), allow_nan=False)
    assert str(found.runs) in found.measured()


def test_runs_that_cannot_be_paired_are_an_error_of_the_studys() -> None:
    with pytest.raises(ValueError, match="paired"):
        verdict(1, "claim", [1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("count", range(0, 100, 7))
def test_a_difference_of_exactly_the_margin_is_undecided_however_it_rounds(count: int) -> None:
    less, more = 100 * (count / 100), 100 * ((count + 1) / 100)
    assert verdict(1, "claim", [less] * 4, [more] * 4, margin=-1.0).outcome == "undecided"
    assert verdict(1, "claim", [more] * 4, [less] * 4, margin=1.0, paired=False).outcome == "undecided"


def test_what_is_zero_but_for_rounding_decides_nothing() -> None:
    assert verdict(1, "claim", [1e-17, 1e-17]).outcome == "undecided"
    assert verdict(1, "claim", [0.1 + 0.2] * 3, [0.3] * 3).outcome == "undecided"
    assert verdict(1, "claim", [0.1 * 3] * 3, margin=0.3).outcome == "undecided"
    assert verdict(1, "claim", [0.3001] * 3, margin=0.3).outcome == "holds"
    assert verdict(1, "claim", [1e-8, 1.1e-8, 1e-8]).outcome == "holds", "small is not rounding"
