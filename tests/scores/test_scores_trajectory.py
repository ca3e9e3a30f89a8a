"""Forgetting and online EL2N against a plain simulation of visits."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.scores import SCORES, Forgetting, OnlineEL2N, el2n

CLASSES = 3


@st.composite
def histories(draw):
    """(n, visits, cuts): visits are (pass, index, logits row, label); a pass visits no example twice."""
    n = draw(st.integers(1, 8))
    labels = draw(st.lists(st.integers(0, CLASSES - 1), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    passes = []
    for _ in range(draw(st.integers(0, 7))):
        rows = draw(st.permutations(range(n)))[: draw(st.integers(0, n))]
        passes.append([(row, rng.normal(0, 2, CLASSES).astype(np.float32), labels[row]) for row in rows])
    return n, passes, draw(st.integers(1, 4)), draw(st.integers(1, 9))


def _feed(accumulator, passes, size):
    for visits in passes:
        for start in range(0, len(visits), size):
            part = visits[start : start + size]
            accumulator.update(
                torch.tensor([row for row, _, _ in part]),
                torch.from_numpy(np.stack([logits for _, logits, _ in part])),
                torch.tensor([label for _, _, label in part]),
            )
    return accumulator


def _simulate(n, passes):
    """Toneva et al. by a dictionary and a loop; (forgetting, never learned)."""
    history = {row: [] for row in range(n)}
    for visits in passes:
        for row, logits, label in visits:
            history[row].append(int(np.argmax(logits)) == label)
    events = {row: sum(a and not b for a, b in pairwise(h)) for row, h in history.items()}
    most = max(events.values())
    scores, never = [], []
    for row, seen in history.items():
        if not seen:
            scores.append(math.nan)
            never.append(math.nan)
        elif not any(seen):
            scores.append(max(len(seen), most) + 1)
            never.append(1.0)
        else:
            scores.append(events[row])
            never.append(0.0)
    return np.array(scores), np.array(never)


@settings(max_examples=150)
@given(histories())
def test_forgetting_equals_a_plain_simulation_however_visits_are_cut_into_updates(history):
    n, passes, small, large = history
    scores, never = _simulate(n, passes)
    for size in (small, large):
        result = _feed(Forgetting(n), passes, size).result()
        assert result["forgetting"].dtype == torch.float32
        np.testing.assert_array_equal(result["forgetting"].numpy(), scores)
        np.testing.assert_array_equal(result["never_learned"].numpy(), never)


@settings(max_examples=80)
@given(histories())
def test_never_learned_is_finite_and_above_every_other_score(history):
    n, passes, size, _ = history
    counts = _feed(Forgetting(n), passes, size)
    result = counts.result()
    never = result["never_learned"] == 1
    assert torch.isfinite(result["forgetting"][counts.visits > 0]).all()
    assert (result["forgetting"][never] >= counts.visits[never] + 1).all()
    if never.any() and (result["never_learned"] == 0).any():
        assert result["forgetting"][never].min() > result["forgetting"][result["never_learned"] == 0].max()


def test_after_whole_passes_an_example_never_learned_scores_its_visits_plus_one():
    counts = Forgetting(3)
    right, wrong = [9.0, 0.0], [0.0, 9.0]
    for second in (right, wrong, right, wrong):
        counts.update(torch.arange(3), torch.tensor([wrong, second, right]), torch.zeros(3, dtype=torch.int64))
    assert counts.result()["forgetting"].tolist() == [5.0, 2.0, 0.0]
    assert counts.result()["never_learned"].tolist() == [1.0, 0.0, 0.0]


def test_an_example_never_visited_has_no_score():
    for accumulator in (Forgetting(2), OnlineEL2N(2)):
        accumulator.update(torch.tensor([1]), torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
        for values in accumulator.result().values():
            assert values[0].isnan()
            assert not values[1].isnan()
    assert Forgetting(3).result()["forgetting"].isnan().all()
    assert Forgetting(0).result()["forgetting"].shape == (0,)


@settings(max_examples=80)
@given(histories())
def test_online_el2n_is_the_mean_over_visits_however_they_are_cut(history):
    n, passes, small, large = history
    sums, counts = np.zeros(n), np.zeros(n)
    for visits in passes:
        for row, logits, label in visits:
            wide = torch.from_numpy(logits).double()[None]
            sums[row] += float(el2n(wide, torch.tensor([label])))
            counts[row] += 1
    with np.errstate(invalid="ignore"):
        naive = sums / counts
    by_small, by_large = (_feed(OnlineEL2N(n), passes, size).result()["el2n_online"] for size in (small, large))
    np.testing.assert_allclose(by_small.numpy(), naive, rtol=1e-5)
    assert by_small.numpy().tobytes() == by_large.numpy().tobytes()


@settings(max_examples=80)
@given(histories(), st.integers(0, 7))
def test_an_accumulator_goes_on_from_its_state_at_any_point(history, stopped):
    n, passes, size, _ = history
    for name in ("forgetting", "el2n_online"):
        make = SCORES.get(name).compute
        whole = _feed(make(n), passes, size)
        first = _feed(make(n), passes[:stopped], size)
        held = {key: value.clone() for key, value in first.state().items()}
        second = make(n)
        second.load(held)
        _feed(second, passes[stopped:], size)
        for key, value in whole.state().items():
            assert torch.equal(second.state()[key], value)
        for key, value in whole.result().items():
            assert second.result()[key].numpy().tobytes() == value.numpy().tobytes()
            assert key == name or key in SCORES.get(name).columns


def test_asking_for_a_result_changes_nothing():
    counts = Forgetting(2)
    counts.update(torch.arange(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    assert torch.equal(counts.result()["forgetting"], counts.result()["forgetting"])


def test_logits_of_a_network_in_training_may_carry_gradients_and_half_precision():
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    for kind in (torch.float32, torch.bfloat16):
        online = OnlineEL2N(4)
        online.update(torch.arange(4), logits.to(kind), labels)
        assert not online.total.requires_grad, "or every step's graph would be kept"
        torch.testing.assert_close(online.result()["el2n_online"], el2n(logits.to(kind).float(), labels))
