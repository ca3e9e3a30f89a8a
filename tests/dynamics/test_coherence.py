"""Coherence against a naive computation; observers leave training as it is."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datadiet.dynamics.coherence import GradientNorms, batch_gradients, coherence
from datadiet.errors import DatadietError
from datadiet.training.loop import Moment


def test_orthogonal_gradients_lie_at_the_floor_and_equal_ones_at_one() -> None:
    found = coherence(3 * torch.eye(16))
    assert found.floor == 0.25
    assert torch.allclose(found.cosines, torch.full((16,), 0.25, dtype=torch.float64))
    same = coherence(torch.ones(4, 7) * torch.tensor([[1.0], [2], [3], [4]]))
    assert torch.allclose(same.cosines, torch.ones(4, dtype=torch.float64))
    assert torch.allclose(same.norms, math.sqrt(7) * torch.tensor([1.0, 2, 3, 4], dtype=torch.float64))
    assert coherence(torch.tensor([[1.0, 0], [0, 0]])).cosines.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_the_mean_loss_and_nothing_is_left_behind(training: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    net[0].bias.requires_grad_(False)
    net.eval()
    batches = [(torch.randn(4, 5), torch.randint(0, 3, (4,))) for _ in range(3)]
    before = {n: t.clone() for n, t in net.state_dict().items()}
    found = batch_gradients(net, batches, training=training)
    assert not net.training
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    for row, (x, y) in zip(found, batches, strict=True):
        net.train(training)
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        wanted = torch.cat([p.grad.reshape(-1) for p in net.parameters() if p.requires_grad])
        assert torch.allclose(row, wanted, atol=1e-6)


def test_norms_of_steps_are_those_of_the_whole_gradient() -> None:
    net = nn.Linear(3, 2)
    observer = GradientNorms()
    moment = Moment(net, torch.optim.SGD(net.parameters(), 0.1), 0, 1, 1)
    wanted = []
    for scale in (1.0, 5.0):
        net.zero_grad()
        (scale * net(torch.ones(4, 3))).square().mean().backward()
        observer.on_backward(moment)
        wanted.append(torch.cat([net.weight.grad.flatten(), net.bias.grad]).norm())
    assert torch.allclose(observer.result(), torch.stack(wanted).double())
    again = GradientNorms()
    again.load(observer.state())
    assert torch.equal(again.result(), observer.result())


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(DatadietError, match="no batch"):
        batch_gradients(nn.Linear(2, 2), [])
    with pytest.raises(DatadietError, match="shape"):
        coherence(torch.zeros(3))


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1e-25, torch.float32), (1e25, torch.float32), (3e3, torch.float16), (1.0, torch.bfloat16), (1e99, torch.float64)],
)
def test_cosines_do_not_depend_on_how_long_the_gradients_are(scale: float, dtype: torch.dtype) -> None:
    rows = torch.randn(4, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = (scale * rows).to(dtype)
    found, wide = coherence(given), given.double() / scale
    assert found.norms.dtype == found.cosines.dtype == torch.float64
    assert torch.allclose(found.norms / scale, wide.norm(dim=1))
    assert torch.allclose(found.cosines, F.cosine_similarity(wide, wide.mean(0)[None]))


class Counting(nn.Module):
    """A network whose forward puts other buffers in place of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        self.last = x.mean(0)
        return self.layer(x)


def test_buffers_that_the_forward_replaces_are_put_back() -> None:
    net = Counting()
    before = dict(net._buffers)
    batch_gradients(net, [(torch.randn(4, 5), torch.zeros(4, dtype=torch.int64))] * 2)
    assert list(net._buffers) == list(before)
    assert all(net._buffers[name] is value for name, value in before.items())
    assert net.calls == 0


class Caching(nn.Module):
    """Counts its calls in place, seen through an expanded buffer too; has an expanded constant, and fills a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.register_buffer("scale", torch.tensor(2.0).expand(5), persistent=False)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", self.calls.expand(2, 5), persistent=False)
        self.register_buffer("unknown", torch.tensor(math.nan).expand(5), persistent=False)
        self.register_buffer("grid", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.grid = torch.ones(5) if self.grid is None else self.grid
        return self.layer(x * self.scale + self.grid + 0 * self.seen[0])


@pytest.mark.parametrize("training", [True, False])
def test_expanded_buffers_and_caches_are_put_back(training: bool) -> None:
    torch.manual_seed(0)
    net = Caching()
    before, (x, y) = dict(net._buffers), (torch.randn(4, 5), torch.randint(0, 3, (4,)))
    found = batch_gradients(net, [(x, y)], training=training)
    assert list(net._buffers) == list(before)
    assert all(net._buffers[name] is value for name, value in before.items())
    assert not net.seen.any()
    F.cross_entropy(net.layer(2 * x + 1), y).backward()
    assert torch.allclose(found[0], torch.cat([p.grad.reshape(-1) for p in net.parameters()]), atol=1e-6)


def test_a_frozen_network_is_refused_and_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)).requires_grad_(False).eval()
    batch = (torch.randn(4, 5), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DatadietError, match="no trainable weight"):
        batch_gradients(net, [batch])
    assert not net.training
    assert net[1].num_batches_tracked == 0


def test_inference_mode_around_it_changes_nothing() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(4, 5), torch.randint(0, 3, (4,))
    wanted = batch_gradients(net, [(x, y)])
    with torch.inference_mode():
        assert torch.equal(batch_gradients(net, [(x.clone(), y.clone())]), wanted)
        made_there = nn.Linear(5, 3)
        with pytest.raises(DatadietError, match="made under torch"):
            batch_gradients(made_there, [(x, y)])
    assert not net[1].running_mean.any()
