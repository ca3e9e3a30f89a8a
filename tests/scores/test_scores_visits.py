"""AUM, cartography and Dyn-Unc against plain loops over each example's visits, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import datadiet as dd
from datadiet.scores import SCORES, AreaUnderMargin, Cartography, DynamicUncertainty
from datadiet.scores.dyn_unc import WINDOW

CLASSES = 3
NAMES = ("aum", "confidence", "dyn_unc")


@st.composite
def histories(draw, most=6):
    """(n, passes, cuts): a pass is a list of (example, logits, label), each example once at most."""
    n = draw(st.integers(1, 7))
    labels = draw(st.lists(st.integers(0, CLASSES - 1), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    scale = draw(st.sampled_from([0.1, 2.0, 8.0]))
    passes = []
    for _ in range(draw(st.integers(0, most))):
        rows = draw(st.permutations(range(n)))[: draw(st.integers(0, n))]
        passes.append([(row, rng.normal(0, scale, CLASSES).astype(np.float32), labels[row]) for row in rows])
    return n, passes, (draw(st.integers(1, 3)), draw(st.integers(1, 9)))


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


def _visits(n, passes):
    """Every example's visits in order, as (p_y, logit margin, correct), in Python's own floats."""
    seen = [[] for _ in range(n)]
    for visits in passes:
        for row, logits, label in visits:
            z = [float(value) for value in logits]
            powers = [math.exp(value - max(z)) for value in z]
            others = [value for k, value in enumerate(z) if k != label]
            seen[row].append((powers[label] / math.fsum(powers), z[label] - max(others), z[label] == max(z)))
    return seen


def _deviation(values, ddof):
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - ddof))


def _naive(n, passes, window=WINDOW):
    """The published definitions, one example after the other."""
    out = {name: np.full(n, np.nan) for name in ("aum", "confidence", "variability", "correctness", "dyn_unc")}
    for row, visits in enumerate(_visits(n, passes)):
        if not visits:
            continue
        p = [value for value, _, _ in visits]
        out["aum"][row] = math.fsum(m for _, m, _ in visits) / len(visits)
        out["confidence"][row] = math.fsum(p) / len(p)
        out["variability"][row] = _deviation(p, 0)
        out["correctness"][row] = sum(right for _, _, right in visits) / len(visits)
        if len(p) >= 2:
            width = min(window, len(p))
            windows = [p[start : start + width] for start in range(len(p) - width + 1)]
            out["dyn_unc"][row] = math.fsum(_deviation(w, 1) for w in windows) / len(windows)
    return out


def _results(n, passes, size):
    found = {}
    for name in NAMES:
        found |= _feed(SCORES.get(name).compute(n), passes, size).result()
    return found


@settings(max_examples=120)
@given(histories())
def test_they_equal_a_plain_loop_however_visits_are_cut_into_updates(history):
    n, passes, cuts = history
    naive, found = _naive(n, passes), [_results(n, passes, size) for size in cuts]
    assert set(found[0]) == set(naive)
    for name, want in naive.items():
        got = found[0][name]
        assert got.dtype == torch.float32
        # float32 logits give probabilities to about 1e-7. A margin is the difference of two of them, rounded to half a
        # unit of its last place; margins of either sign may leave a mean that is far smaller than they are.
        largest = max((float(np.ptp(visit[1])) for one in passes for visit in one), default=0.0)
        atol = 2.0**-23 * largest if name == "aum" else 3e-7
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-6, atol=atol)
        assert got.numpy().tobytes() == found[1][name].numpy().tobytes(), "cut another way"


@settings(max_examples=25)
@given(histories(most=16), st.integers(2, 5))
def test_windows_slide_over_all_visits(history, window):
    n, passes, (small, large) = history
    want = _naive(n, passes, window)["dyn_unc"]
    by_small, by_large = (
        _feed(DynamicUncertainty(n, window=window), passes, size).result()["dyn_unc"].numpy() for size in (small, large)
    )
    np.testing.assert_allclose(by_small, want, rtol=2e-6, atol=3e-7)
    assert by_small.tobytes() == by_large.tobytes()


def test_the_published_window_has_ten_visits_and_each_new_visit_opens_another():
    rng = np.random.default_rng(0)
    visits = [[(0, rng.normal(0, 2, CLASSES).astype(np.float32), 1)] for _ in range(14)]
    p = [v[0][0] for v in (_visits(1, [visit]) for visit in visits) for v in [v[0]]]
    for count in (2, 9, 10, 11, 14):
        got = _feed(DynamicUncertainty(1), visits[:count], 1).result()["dyn_unc"].item()
        width = min(10, count)
        want = np.mean([np.std(p[k : k + width], ddof=1) for k in range(count - width + 1)])
        assert got == pytest.approx(want, rel=1e-5)


@settings(max_examples=60)
@given(histories(most=14), st.integers(0, 14), st.sampled_from(NAMES))
def test_an_accumulator_goes_on_from_its_state_at_any_point(history, stopped, name):
    n, passes, (size, _) = history
    make = SCORES.get(name).compute
    whole, first = _feed(make(n), passes, size), _feed(make(n), passes[:stopped], size)
    first.result()
    held = {key: value.clone() for key, value in first.state().items()}
    second = make(n)
    second.load(held)
    _feed(second, passes[stopped:], size)
    for key, value in whole.state().items():
        assert torch.equal(second.state()[key], value)
    result = whole.result()
    assert set(result) == {name, *SCORES.get(name).columns}
    for key, value in result.items():
        assert second.result()[key].numpy().tobytes() == value.numpy().tobytes()


def test_an_example_never_visited_has_no_score_and_one_visit_has_no_spread():
    for accumulator in (AreaUnderMargin(3), Cartography(3), DynamicUncertainty(3)):
        accumulator.update(torch.tensor([1]), torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
        for name, values in accumulator.result().items():
            assert values[[0, 2]].isnan().all()
            assert bool(values[1].isnan()) == (name == "dyn_unc")
    assert Cartography(3).result()["variability"].isnan().all()
    assert AreaUnderMargin(0).result()["aum"].shape == DynamicUncertainty(0).result()["dyn_unc"].shape == (0,)


def test_spreads_far_below_the_mean_are_not_lost_to_rounding():
    # An example that is learned well: p_y is 1 − 1e-9 and moves by as much. 1 − p_y keeps it, squares of p_y would not.
    margins = [20.0, 21.0, 20.5, 22.0, 20.2, 21.7, 20.9, 20.1, 21.1, 20.3, 20.6]
    wrong = [1 / (1 + math.exp(m)) for m in margins]
    for accumulator in (Cartography(1), DynamicUncertainty(1)):
        for m in margins:
            accumulator.update(torch.tensor([0]), torch.tensor([[m, 0.0]]), torch.tensor([0]))
        found = accumulator.result()
        if "variability" in found:
            assert found["variability"].item() == pytest.approx(_deviation(wrong, 0), rel=1e-5)
        else:
            want = (_deviation(wrong[:10], 1) + _deviation(wrong[1:], 1)) / 2
            assert found["dyn_unc"].item() == pytest.approx(want, rel=1e-5)


def test_a_constant_probability_has_no_spread_rather_than_nan():
    for accumulator in (Cartography(4), DynamicUncertainty(4)):
        logits = torch.tensor([[0.1, 0.7], [5.3, -0.2], [-3.1, 3.3], [0.0, 0.0]])
        for _ in range(37):
            accumulator.update(torch.arange(4), logits, torch.tensor([0, 0, 0, 1]))
        found = accumulator.result()
        spread = found.get("variability", found.get("dyn_unc"))
        assert (spread >= 0).all()
        assert (spread < 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_a_network_in_training_may_carry_gradients_and_half_precision(name):
    logits, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    for kind in (torch.float32, torch.bfloat16):
        live, wide = SCORES.get(name).compute(4), SCORES.get(name).compute(4)
        for _ in range(2):
            live.update(torch.arange(4), logits.to(kind), labels)
            wide.update(torch.arange(4), logits.detach().to(kind).float(), labels)
        assert not any(value.requires_grad for value in live.state().values())
        for key, value in wide.result().items():
            assert torch.equal(live.result()[key], value)


def test_hard_examples_come_out_hardest_by_the_orientation_of_each():
    easy, hard = [6.0, 0.0, 0.0], [0.0, 6.0, 0.0]
    for name in ("aum", "confidence"):
        accumulator = SCORES.get(name).compute(2)
        accumulator.update(torch.arange(2), torch.tensor([easy, hard]), torch.zeros(2, dtype=torch.int64))
        values = SCORES.get(name).sign * accumulator.result()[name]
        assert values[1] > values[0]
        assert SCORES.get(name).harder == "lower"
    moving = SCORES.get("dyn_unc").compute(2)
    for second in (easy, hard, easy, hard):
        moving.update(torch.arange(2), torch.tensor([easy, second]), torch.zeros(2, dtype=torch.int64))
    value = SCORES.get("dyn_unc").sign * moving.result()["dyn_unc"]
    assert value[1] > value[0]


def test_a_watch_follows_them_and_keeps_every_column():
    draw, watch = torch.Generator().manual_seed(0), dd.Watch(12)
    labels, passes = torch.arange(12) % CLASSES, []
    for _ in range(12):
        order, logits = torch.randperm(12, generator=draw), torch.randn(12, CLASSES, generator=draw)
        for part in order.split(5):
            watch.update(part, logits[part], labels[part])
        watch.end_epoch()
        passes.append([(int(row), logits[row].numpy(), int(labels[row])) for row in order])
    table = watch.table()
    for epochs in (2, 12):
        for name, want in _naive(12, passes[:epochs]).items():
            np.testing.assert_allclose(table.mean(name, f"{epochs}ep"), want, rtol=2e-6, atol=3e-7)
    np.testing.assert_array_equal(table.difficulty("aum"), -table.mean("aum"))
