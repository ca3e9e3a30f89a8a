"""A small run with everything that can go wrong in it: batch norm, dropout, crops, flips, a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from datadiet.data.batches import Batches
from datadiet.data.dataset import Dataset, from_arrays
from datadiet.data.order import Order
from datadiet.task import classification
from datadiet.training.checkpoint import make_optimizer
from datadiet.training.loop import Moment, train
from datadiet.training.recipe import Recipe
from datadiet.training.schedule import learning_rate

STREAM = (0, "score", 0)
RECIPE = Recipe(batch_size=8, lr=0.1, schedule="cosine", warmup="3it", steps="40it", pad=1, flip=True)
ADAM = RECIPE.with_(optimizer="adamw", lr=0.01, nesterov=False)


def small_data(rows: int = 44, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    return from_arrays("small", (rng.integers(0, 256, (rows, 6, 5, 3), np.uint8), np.arange(rows) % 4))


def small_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
    return net.to(memory_format=torch.channels_last)


@dataclass
class Run:
    """One run in this process; `go(stop)` trains on from where it is."""

    moment: Moment
    batches: Batches
    order: Order
    rate: Any

    @classmethod
    def start(cls, recipe: Recipe = RECIPE, data: Dataset | None = None, net: nn.Module | None = None) -> Run:
        data, net = data or small_data(), net or small_net()
        batches = Batches(data.train, data, pad=recipe.pad, pad_mode=recipe.pad_mode)
        order = Order(np.arange(len(data)), recipe.batch_size, STREAM, pad=recipe.pad, flip=recipe.flip)
        torch.manual_seed(11)
        per_epoch = recipe.steps_per_epoch(len(data))
        moment = Moment(net, make_optimizer(net, recipe), 0, per_epoch, order.steps_per_pass)
        return cls(moment, batches, order, learning_rate(recipe, len(data)))

    def go(self, stop: int, observers: Any = (), **more: Any) -> Run:
        train(
            self.moment, stop, batches=self.batches, order=self.order, rate=self.rate, task=classification,
            observers=observers, **more,
        )  # fmt: skip
        return self

    @property
    def model(self) -> nn.Module:
        return self.moment.model


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Byte for byte, NaN equal to NaN."""
    if a.keys() != b.keys():
        return False
    return all(x.shape == b[k].shape and x.numpy().tobytes() == b[k].numpy().tobytes() for k, x in a.items())
