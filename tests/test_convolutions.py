"""Strided 1×1 convolutions of few channels are found, and their gradients are right in any layout on any CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import datadiet as dd
from datadiet.convolutions import Seen, sound
from datadiet.dynamics.coherence import batch_gradients
from datadiet.models import build


class ByFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight, stride=2)


@pytest.mark.parametrize(
    ("network", "shape", "found"),
    [
        (lambda: build("resnet8", (1, 6, 6), 3, width=4), (1, 6, 6), True),
        (lambda: build("resnet8", (1, 6, 6), 3, width=8), (1, 6, 6), False),
        (ByFunction, (4, 6, 6), True),
        (lambda: nn.Conv2d(4, 8, 1, stride=(1, 2)), (4, 6, 6), True),
        (lambda: nn.Conv2d(4, 8, 1), (4, 6, 6), False),
        (lambda: nn.Conv2d(4, 8, 3, stride=2), (4, 6, 6), False),
        (lambda: nn.Conv1d(4, 8, 1, stride=2), (4, 6), False),
    ],
)
def test_strided_points_of_few_channels_are_seen_wherever_they_are(
    network: Callable[[], nn.Module], shape: tuple[int, ...], found: bool
) -> None:
    model = network()
    with torch.no_grad(), Seen() as seen:
        model(torch.zeros(2, *shape))
    assert seen.narrow == found


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_a_sound_block_costs_nothing_where_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    modes = []
    for width in (4, 8):
        with sound(build("resnet8", (1, 6, 6), 3, width=width).modules()) as mode:
            modes.append(mode is not None)
    assert modes == [capability == "AVX2", False]


@settings(max_examples=25)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(2, 3), st.integers(3, 9), st.integers(1, 5), st.integers(0, 99)
)
def test_gradients_in_channels_last_are_those_in_float64(
    channels: int, out: int, stride: int, size: int, examples: int, seed: int
) -> None:
    """On a CPU without AVX-512 this is where the process would die."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).double()
    x, labels = torch.randn(examples, channels, size, size).double(), torch.randint(3, (examples,))
    net(x)
    exact = dd.grand(net, x, labels), dd.ntk(net, x), batch_gradients(net, [(x, labels)])
    net = net.float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = x.float().contiguous(memory_format=torch.channels_last)
    found = dd.grand(net, x, labels, check=True), dd.ntk(net, x), batch_gradients(net, [(x, labels)])
    for mine, wanted in zip(found, exact, strict=True):
        assert torch.allclose(mine.double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
