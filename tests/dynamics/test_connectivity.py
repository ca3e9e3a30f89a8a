"""Barriers against closed forms, interpolation, re-estimated statistics, onsets."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

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
from datadiet.errors import DatadietError, Diverged


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


@settings(max_examples=40)
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


def test_buffers_are_interpolated_and_counters_are_the_nearer_ends() -> None:
    a, b = network(0), network(1)
    for net, value in ((a, 2.0), (b, 4.0)):
        net[1].running_mean.fill_(value)
        net[1].num_batches_tracked.fill_(int(value))
    between = interpolated(a.state_dict(), b.state_dict(), 0.25)
    assert torch.allclose(between["1.running_mean"], torch.full((4,), 3.5))
    assert int(between["1.num_batches_tracked"]) == 4
    for alpha, count in ((0.0, 4), (0.5, 2), (1.0, 2)):
        assert int(interpolated(a.state_dict(), b.state_dict(), alpha)["1.num_batches_tracked"]) == count
    expected = 0.25 * a[0].weight + 0.75 * b[0].weight
    assert torch.allclose(between["0.weight"], expected)


def test_ordinary_weights_between_the_ends_are_by_the_difference_to_the_bit() -> None:
    """Barriers that are in a store were taken so."""
    a, b = network(0).state_dict(), network(1).state_dict()
    for alpha in (0.1, 0.5, 0.9):
        between = interpolated(a, b, alpha)
        assert all(torch.equal(between[n], b[n] + alpha * (a[n] - b[n])) for n in a if a[n].is_floating_point())


class Shifted(nn.Module):
    """A linear layer on inputs less a buffer."""

    def __init__(self, shift: float | Tensor, persistent: bool = True, **options: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3, **options)
        self.register_buffer("shift", torch.as_tensor(shift), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((x - self.shift.float()).to(self.linear.weight.dtype)).abs()


class Causal(nn.Module):
    """Attention under a mask of minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("mask", torch.triu(torch.full((4, 4), float("-inf")), 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(((self.query(x) @ x.transpose(1, 2) + self.mask).softmax(-1) @ x).mean(1))


def rows(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.randn(5, *shape), torch.randint(0, 3, (5,))


def large(factor: float) -> nn.Module:
    net = Shifted(0.0)
    with torch.no_grad():
        net.linear.weight.mul_(factor)
    return net


@pytest.mark.parametrize(
    "make",
    [
        lambda end: Shifted(3.0 * end, persistent=False),
        lambda end: Shifted(0.0, dtype=torch.complex64),
        lambda end: Shifted(torch.arange(6) % 2 == end),
        lambda end: large(1e7**end),
        lambda end: Causal(),
    ],
    ids=["unsaved buffer", "complex weights", "boolean buffer", "weights of very different size", "infinite buffer"],
)
def test_the_ends_of_a_line_are_the_two_networks_to_the_bit(make: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(3)
    a, b = make(0).eval(), make(1).eval()
    x, y = rows(4, 6) if isinstance(a, Causal) else rows(6)
    path = linear_path(a, b, x, y)
    with torch.no_grad():
        ends = [nn.functional.cross_entropy(net(x), y, reduction="none").numpy() for net in (b, a)]
    assert np.array_equal(path.loss[[0, -1]], np.stack(ends))
    assert not np.array_equal(path.loss[0], path.loss[-1])
    assert np.isfinite(path.loss).all()


def test_buffers_that_a_state_dict_leaves_out_are_interpolated_as_others() -> None:
    x, y = rows(6)
    paths = []
    for persistent in (True, False):
        torch.manual_seed(5)
        nets = [Shifted(shift, persistent) for shift in (0.0, 3.0)]
        paths.append(linear_path(*nets, x, y, [0.25, 0.5]))
    assert np.array_equal(paths[0].loss, paths[1].loss)


class Caching(nn.Module):
    """Makes positions on the first use: in an empty buffer, in one that is None, or in one that it registers then."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(6, 3)
        self.register_buffer("scale", torch.tensor(2.0).expand(6), persistent=False)
        if kind != "registered later":
            self.register_buffer("grid", torch.zeros(0) if kind == "empty" else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if getattr(self, "grid", None) is None or not len(self.grid):
            self.register_buffer("grid", torch.arange(6.0), persistent=False)
        return self.linear(self.scale * x + self.grid)


@pytest.mark.parametrize("used", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("kind", ["empty", "none", "registered later"])
def test_caches_that_one_network_has_filled_are_no_difference(kind: str, used: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    (x, y), nets = rows(6), [Caching(kind), Caching(kind)]
    for i in used:
        nets[i](x)
    before = [dict(net._buffers) for net in nets]
    path = linear_path(*nets, x, y, [0.25, 0.5])
    assert [list(net._buffers) for net in nets] == [list(held) for held in before]
    for alpha, loss in zip(path.alphas, path.loss, strict=True):
        ends = [(alpha, nets[0].linear), (1 - alpha, nets[1].linear)]
        weight, bias = (sum(share * getattr(net, n) for share, net in ends) for n in ("weight", "bias"))
        logits = (2 * x + torch.arange(6.0)) @ weight.T + bias
        assert np.allclose(loss, nn.functional.cross_entropy(logits, y, reduction="none").detach(), atol=1e-5)


def test_networks_that_differ_in_what_is_saved_are_refused_whichever_has_more() -> None:
    x, y = rows(6)
    more, less = Shifted(0.0), nn.Sequential()
    less.linear = nn.Linear(6, 3)
    for nets in ((more, less), (less, more)):
        with pytest.raises(DatadietError, match="two different networks: they differ in shift"):
            linear_path(*nets, x, y)


def test_complex_weights_are_interpolated() -> None:
    a, b = ({"w": torch.tensor(value)} for value in (2 + 4j, 4 - 4j))
    assert complex(interpolated(a, b, 0.25)["w"]) == 3.5 - 2j


def test_infinities_on_one_end_or_on_both_are_infinite_between() -> None:
    ends = ({"m": torch.tensor([-np.inf, -np.inf, 1.0, 2.0])}, {"m": torch.tensor([-np.inf, 1.0, -np.inf, 4.0])})
    assert interpolated(*ends, 0.5)["m"].tolist() == [-np.inf, -np.inf, -np.inf, 3.0]


def test_losses_that_are_no_numbers_are_no_barrier() -> None:
    x, y = rows(6)
    for nets, alpha in (((Shifted(np.nan), Shifted(0.0)), 0.5), ((Shifted(0.0), Shifted(np.nan)), 0)):
        with pytest.raises(Diverged, match=rf"not finite at alpha {alpha};"):
            linear_path(*nets, x, y)


class Extra(nn.Linear):
    """Has a state that is no tensor, and matters to its outputs."""

    def __init__(self, count: int) -> None:
        super().__init__(6, 3)
        self.seen = {"count": count}

    def get_extra_state(self) -> dict[str, int]:
        return self.seen

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.seen = state

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.seen["count"]


def test_a_modules_extra_state_is_the_nearer_ends() -> None:
    a, b = Extra(2), Extra(7)
    (x, y), found = rows(6), []
    for alpha in (0.0, 0.4, 0.5, 1.0):
        between = interpolated(a.state_dict(), b.state_dict(), alpha)["_extra_state"]
        assert between is not a.seen
        found.append(between["count"])
    assert found == [7, 7, 2, 2]
    assert linear_path(a, b, x, y).loss.shape == (3, 5)


def test_labels_of_any_integer_kind_are_taken() -> None:
    a, b, (x, y) = network(0), network(1), data()
    want = linear_path(a, b, x, y).loss
    for labels in (y.int(), y.to(torch.uint8), y.numpy(), y.tolist()):
        assert np.array_equal(linear_path(a, b, x, labels).loss, want)


class Several(nn.Module):
    def __init__(self, seed: int, kind: str) -> None:
        super().__init__()
        self.net, self.kind = network(seed), kind

    def forward(self, x: Tensor, more: Tensor) -> Any:
        logits = self.net(x) + more
        return {"logits": logits} if self.kind == "dict" else logits


@pytest.mark.parametrize("kind", ["dict", "tensor"])
def test_networks_of_several_inputs_and_outputs_with_logits_are_run(kind: str) -> None:
    a, b, (x, y) = network(0), network(1), data()
    want = linear_path(a, b, x, y, 0.5).loss
    more, ends = torch.zeros(len(x), 1), (Several(0, kind), Several(1, kind))
    for inputs in ((x, more), {"x": x, "more": more}):
        assert np.array_equal(linear_path(*ends, inputs, y, 0.5, batch=4).loss, want)


def test_a_network_with_the_old_weight_norm_is_refused_or_run_first_without_gradients() -> None:
    x, y = rows(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nets = [nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 3))) for _ in range(2)]
    nets[0](x)
    with pytest.raises(DatadietError, match="weight_norm") as refused:
        linear_path(*nets, x, y)
    assert "\n" not in str(refused.value)
    with torch.no_grad():
        nets[0](x)
        wanted = nn.functional.cross_entropy(nets[0](x), y, reduction="none").numpy()
    assert np.array_equal(linear_path(*nets, x, y).loss[-1], wanted)


def test_statistics_of_one_example_are_refused_where_a_network_cannot_take_them() -> None:
    x, y = rows(6)
    nets = [nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)) for _ in range(2)]
    with pytest.raises(DatadietError, match="a batch of one example; give batches of two or more"):
        linear_path(*nets, x, y, statistics="re-estimated", estimate_on=[x[:1]])
    # A convolution's maps have a variance within one example.
    images, labels = data()
    linear_path(network(0), network(1), images, labels, statistics="re-estimated", estimate_on=[images[:1]])


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
    with pytest.raises(DatadietError, match="no batches"):
        linear_path(network(0), network(1), x, y, statistics="re-estimated", estimate_on=[])
    with pytest.raises(DatadietError, match="no examples"):
        linear_path(network(0), network(1), x[:0], y[:0])
    for labels, said in ((y[:, None], "one class number"), (y - 100, "labels from -100"), (y > 0, "type bool")):
        with pytest.raises(DatadietError, match=said):
            linear_path(network(0), network(1), x, labels)
    for inputs, said in ((x.numpy(), "no tensors"), ([], "no examples"), ({}, "no examples")):
        with pytest.raises(DatadietError, match=said):
            linear_path(network(0), network(1), inputs, y)
    with pytest.raises(DatadietError, match="midpoint"):
        linear_path(network(0), network(1), x, y, [0.3]).per_example()
    with pytest.raises(DatadietError, match="ascend"):
        onset([5, 0], [0.1, 0.1])
