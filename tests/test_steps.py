"""Steps: how a point in training is written, and what it means in iterations."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datadiet.errors import DatadietError
from datadiet.steps import Step, counted, describe, steps_per_epoch


@given(st.integers(0, 10**9), st.integers(0, 10**6 - 1), st.sampled_from(["it", "ep"]))
def test_a_written_step_reads_back_as_itself(whole, parts, unit):
    text = f"{whole}it" if unit == "it" else f"{whole}.{parts:06d}ep"
    step = Step.parse(text)
    assert Step.parse(str(step)) == step
    assert step.count == (whole if unit == "it" else Fraction(whole * 10**6 + parts, 10**6))


@given(st.integers(0, 10**6), st.integers(1, 5000))
def test_an_epoch_count_is_that_many_times_the_steps_of_an_epoch(epochs, per_epoch):
    assert Step.parse(f"{epochs}ep").resolve(per_epoch) == epochs * per_epoch
    assert Step.parse(f"{epochs}it").resolve(per_epoch) == epochs


@pytest.mark.parametrize(
    ("text", "per_epoch", "steps"),
    [("0", 390, 0), ("780it", 390, 780), ("2ep", 390, 780), ("0.5ep", 391, 196), ("0.5ep", 390, 195),
     ("0.001ep", 390, 0), ("0.2ep", 21, 4), (" 7 ep ", 10, 70), (12, 390, 12), (np.int64(12), 390, 12)],
)  # fmt: skip
def test_a_step_resolves_to_the_nearest_iteration_and_half_rounds_up(text, per_epoch, steps):
    assert Step.parse(text).resolve(per_epoch) == steps


@pytest.mark.parametrize(
    "text", ["", "12", "-1it", "1.5it", "ep", "2 epochs", "1e3it", "٠", ".5ep", "5.ep", "nan", None, True, 1.5, -3]
)
def test_what_is_not_a_step_is_refused_in_words(text):
    with pytest.raises(DatadietError, match=r"--at: .*(780it|0 or more)"):
        Step.parse(text, where="--at")


def test_a_step_is_written_in_decimals_never_with_an_exponent():
    assert str(Step.parse("0.00001ep")) == "0.00001ep"
    assert str(Step.parse("2.50ep")) == "2.5ep"
    assert str(Step.parse("0ep")) == str(Step.parse(0)) == "0"
    assert Step.parse("0ep") == Step.parse("0it") == Step.parse("0")


def test_a_parsed_step_is_taken_as_it_is():
    step = Step.parse("3ep")
    assert Step.parse(step) is step


@pytest.mark.parametrize(
    ("examples", "batch", "steps"), [(50_000, 128, 390), (180_000, 256, 703), (128, 128, 1), (5, 128, 1), (255, 128, 1)]
)
def test_an_epoch_drops_the_partial_batch_and_has_at_least_one_step(examples, batch, steps):
    assert steps_per_epoch(examples, batch) == steps


def test_people_read_steps_and_epochs_both():
    assert describe(780, 390) == "780 steps (2 epochs)"
    assert describe(1, 1) == "1 step (1 epoch)"
    assert describe(1000, 390) == "1,000 steps (2.56 epochs)"
    assert describe(0, 390) == "0 steps (0 epochs)"


def test_one_is_not_many() -> None:
    assert [counted(n, "run") for n in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]
