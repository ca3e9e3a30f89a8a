"""A network whose weight gradient channels-last gets wrong on some CPUs is trained in the ordinary layout there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_flows import RECIPE, setup, tiny
from torch import nn

import datadiet as dd
from datadiet.data import Dataset
from datadiet.data.batches import Batches
from datadiet.flows.connectivity import connectivity
from datadiet.models import MODELS

# Where the machine is not one, channels-last would be written past its end.
SOUND = {"AVX512"} & {torch.backends.cpu.get_cpu_capability()}
LAID: list[tuple[bool, bool]] = []  # of the inputs of every pass with gradients: ordinary, channels-last


class Narrow(nn.Module):
    """A strided 1×1 convolution of 4 channels, by a function; it notes how its input lies."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(5, 4, 1, 1) / 2)
        self.head = nn.Linear(5, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x).relu()
        if torch.is_grad_enabled():
            LAID.append((hidden.stride() == torch.empty(hidden.shape).stride(), hidden.stride(1) == 1))
        return self.head(F.conv2d(hidden, self.weight, stride=2).mean((2, 3)))


def narrow(input_shape: Any, classes: int) -> nn.Module:
    """Notes how its inputs lie."""
    return Narrow(input_shape[0], classes)


MODELS.register("noting-layout", narrow)


def coloured() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (90, 6, 6, 3), np.uint8)
    return dd.load(((images[:60], np.arange(60) % 3), (images[60:], np.arange(30) % 3)), name="coloured")


@pytest.mark.parametrize("capability", sorted({"AVX2", *SOUND}))
@pytest.mark.parametrize("data", [coloured, tiny])
def test_every_pass_with_gradients_is_in_the_layout_that_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: str, data: Any
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    recipe = {**RECIPE, "model": "noting-layout", "model_args": {}}
    LAID.clear()
    table = dd.score(data(), scores=["el2n", "grand"], runs=1, at="2ep", recipe=recipe, setup=setup(tmp_path / "a"))
    dd.compare(data(), {"few": np.arange(30)}, runs=1, recipe=recipe, setup=setup(tmp_path / "b"))
    ordinary = capability == "AVX2"
    assert [was["channels_last"] for was in table.provenance["numerics"]] == [not ordinary]
    assert len(LAID) > 20
    assert {first if ordinary else second for first, second in LAID} == {True}


def test_such_a_network_trains_and_its_children_are_walked_between(tmp_path: Path) -> None:
    """With the machine's own instruction set: on one without AVX-512 this died of a damaged heap."""
    recipe = {**RECIPE, "model": "resnet8", "model_args": {"width": 4}, "batch_size": 40}
    found = connectivity(tiny(), at=["1ep"], until="4ep", recipe=recipe, setup=setup(tmp_path))
    assert np.isfinite(found.loss_barriers()).all()


def test_a_batch_of_one_channel_has_the_strides_of_its_layout() -> None:
    for data in (tiny(), coloured()):
        rows = torch.arange(5)
        usual, ordinary = Batches(data.train, data), Batches(data.train, data, channels_last=False)
        assert torch.equal(usual.inputs(rows), ordinary.inputs(rows))
        assert ordinary.inputs(rows).stride() == torch.empty(5, *data.input_shape).stride()
