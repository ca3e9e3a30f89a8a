"""The observer of kernel velocities gives what kernels at those steps give, and does not disturb training."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import datadiet as dd
from datadiet.data.batches import Batches
from datadiet.data.order import Order
from datadiet.dynamics.kernel import kernel_velocity, ntk
from datadiet.dynamics.velocity import KernelVelocity
from datadiet.errors import DatadietError
from datadiet.task import classification
from datadiet.training.loop import Moment, Observer, train


class Snapshots(Observer):
    def __init__(self) -> None:
        self.models: dict[int, nn.Module] = {}

    def on_start(self, moment: Moment) -> None:
        self.models[moment.step] = copy.deepcopy(moment.model)

    def on_step(self, moment: Moment) -> None:
        self.models[moment.step] = copy.deepcopy(moment.model)


def trained(observers: list[Observer]) -> tuple[nn.Module, torch.Tensor]:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (40, 6, 6)).astype(np.uint8), np.arange(40) % 3
    data = dd.load(((x, y), (x[:9], y[:9])), name="tiny")
    batches = Batches(data.train, data)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    moment = Moment(net, torch.optim.SGD(net.parameters(), 0.1), 0, 4, 4)
    order = Order(np.arange(40), 10, (0, "test", 0))
    train(moment, 6, batches=batches, order=order, rate=lambda step: 0.1, task=classification, observers=observers)
    return net, batches.inputs(torch.arange(8))


def test_velocities_are_those_of_the_kernels_at_the_steps() -> None:
    _, inputs = trained([])
    snapshots, watch = Snapshots(), KernelVelocity({"first": inputs[:5], "last": inputs[5:]}, [0, 2, 6])
    net, _ = trained([snapshots, watch])
    plain, _ = trained([])
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))
    for name, part in (("first", inputs[:5]), ("last", inputs[5:])):
        kernels = [ntk(snapshots.models[step], part) for step in (0, 2, 6)]
        wanted = [float(kernel_velocity(a, b)) for a, b in itertools.pairwise(kernels)]
        assert watch.velocities[name] == wanted
        assert all(0 < v < 1 for v in wanted)
    again = KernelVelocity({"first": inputs[:5], "last": inputs[5:]}, [0, 2, 6])
    again.load(watch.state())
    assert again.velocities == watch.velocities


def test_steps_must_ascend() -> None:
    with pytest.raises(DatadietError, match="ascending"):
        KernelVelocity({"a": torch.zeros(1, 2)}, [4, 2])
