"""Barriers against closed forms, interpolation, re-estimated statistics, onsets."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from datadiet.dynamics.connectivity import (
    ESTIMATED_ON,
    Path,
    above_line,
    check_alphas,
    estimated_on,
    interpolated,
    linear_path,
    onset,
    pairs,
    reestimate,
)
from datadiet.errors import DatadietError


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)).eval()


def data(count: int = 20) -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    return torch.randn(count, 1, 6, 6), torch.randint(0, 3, (count,))


def test_a_network_and_itself_have_no_barrier_to_the_bit() -> None:
    net, (x, y) = network(0), data()
    path = linear_path(net, copy.deepcopy(net), x, y, [0.1, 0.25, 0.5, 0.9])
    assert path.error_barrier() == 0.0
    assert path.loss_barrier() == 0.0
    assert not path.per_example().any()
    assert path.error_barrier([0, 3]) == 0.0


class Quadratic:
    """A task whose loss is a quadratic of the one weight: |w − target|²; wrong where w is below the target."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits[:, 0] - labels).square()

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, 0] >= labels


class Weight(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), 1)


@settings(max_examples=40, deadline=None)
@given(
    a=st.floats(-3, 3), b=st.floats(-3, 3), targets=st.lists(st.floats(-2, 2), min_size=1, max_size=5),
    alpha=st.floats(0.05, 0.95),
)  # fmt: skip
def test_quadratic_losses_give_the_closed_form(a: float, b: float, targets: list[float], alpha: float) -> None:
    """(αa + (1−α)b − t)² − α(a−t)² − (1−α)(b−t)² = −α(1−α)(a−b)², whatever t is."""
    labels = torch.tensor(targets, dtype=torch.float64)
    path = linear_path(Weight(a), Weight(b), torch.zeros(len(targets), 1), labels, [alpha, 0.5], task=Quadratic())  # type: ignore[arg-type]
    assert np.allclose(path.per_example(), -0.25 * (a - b) ** 2, atol=1e-5)
    above = above_line(path.alphas, path.loss)
    expected = -path.alphas * (1 - path.alphas) * (a - b) ** 2
    assert np.allclose(above, expected[:, None], atol=1e-5)


def test_which_end_is_which() -> None:
    labels = torch.zeros(1, dtype=torch.float64)
    path = linear_path(Weight(3.0), Weight(1.0), torch.zeros(1, 1), labels, [0.25], task=Quadratic())  # type: ignore[arg-type]
    assert path.alphas.tolist() == [0, 0.25, 1]
    assert path.loss[:, 0].tolist() == [1.0, 2.25, 9.0]  # w = 1 at α = 0, 1.5 at ¼, 3 at 1


def test_barriers_by_hand() -> None:
    wrong = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 0]], bool)
    path = Path(np.array([0, 0.5, 1]), np.array([[0.0, 2, 4, 6], [5, 5, 5, 5], [2, 2, 2, 2]]), wrong)
    assert path.error_barrier() == pytest.approx(1 - (0.5 + 0.25) / 2)
    assert path.error_barrier([0]) == 1.0
    assert path.error_barrier(np.array([2, 3])) == pytest.approx(1 - 0.5)
    assert path.per_example().tolist() == [4, 3, 2, 1]
    assert path.loss_barrier([1, 2]) == 2.5


def test_buffers_are_interpolated_and_counters_are_not() -> None:
    a, b = network(0), network(1)
    for net, value in ((a, 2.0), (b, 4.0)):
        net[1].running_mean.fill_(value)
        net[1].num_batches_tracked.fill_(int(value))
    between = interpolated(a.state_dict(), b.state_dict(), 0.25)
    assert torch.allclose(between["1.running_mean"], torch.full((4,), 3.5))
    assert int(between["1.num_batches_tracked"]) == 2
    expected = 0.25 * a[0].weight + 0.75 * b[0].weight
    assert torch.allclose(between["0.weight"], expected)


def test_statistics_estimated_anew_are_those_of_the_batches() -> None:
    net, (x, _) = network(0), data(12)
    before = [m.training for m in net.modules()]
    reestimate(net, [x[:6], x[6:]])
    with torch.no_grad():
        maps = [net[0](part) for part in (x[:6], x[6:])]
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    var = torch.stack([m.var((0, 2, 3), unbiased=True) for m in maps]).mean(0)
    assert torch.allclose(net[1].running_mean, mean, atol=1e-6)
    assert torch.allclose(net[1].running_var, var, atol=1e-5)
    assert [m.training for m in net.modules()] == before
    assert net[1].momentum == 0.1


@given(st.integers(2, 400), st.integers(1, 40), st.integers(0, 9))
def test_statistics_are_estimated_on_whole_batches_of_different_rows(count: int, size: int, seed: int) -> None:
    rows = 7 * np.arange(count)
    cuts = estimated_on(rows, size, np.random.default_rng(seed))
    whole = min(max(size, 2), count)
    assert {len(cut) for cut in cuts} == {whole}
    assert len(cuts) == min(count // whole, ESTIMATED_ON)
    drawn = np.concatenate(cuts)
    assert len(np.unique(drawn)) == len(drawn)
    assert np.isin(drawn, rows).all()


def test_re_estimated_paths_differ_only_between_the_ends() -> None:
    a, b, (x, y) = network(0), network(1), data()
    plain = linear_path(a, b, x, y)
    anew = linear_path(a, b, x, y, statistics="re-estimated", estimate_on=[x])
    assert np.array_equal(plain.loss[[0, -1]], anew.loss[[0, -1]])
    assert not np.allclose(plain.loss[1], anew.loss[1])


def test_the_onset_is_where_it_stays_below() -> None:
    assert onset([0, 5, 10, 20], [0.3, 0.01, 0.05, 0.0]) == 20
    assert onset([0, 5, 10], [0.3, 0.01, 0.0]) == 5
    assert onset([0, 5], [0.0, 0.0]) == 0
    assert onset([0, 5], [0.0, 0.02]) is None
    assert onset([0], [float("nan")]) is None
    assert len(pairs(4)) == 6


def test_bad_input_is_said_in_words() -> None:
    x, y = data()
    with pytest.raises(DatadietError, match="two different networks"):
        linear_path(network(0), nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), x, y)
    with pytest.raises(DatadietError, match="alphas"):
        check_alphas([1.5])
    with pytest.raises(DatadietError, match="statistics"):
        linear_path(network(0), network(1), x, y, statistics="guessed")
    with pytest.raises(DatadietError, match="no batches"):
        linear_path(network(0), network(1), x, y, statistics="re-estimated")
    with pytest.raises(DatadietError, match="midpoint"):
        linear_path(network(0), network(1), x, y, [0.3]).per_example()
    with pytest.raises(DatadietError, match="ascend"):
        onset([5, 0], [0.1, 0.1])
