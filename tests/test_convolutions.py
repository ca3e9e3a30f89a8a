"""Strided 1×1 convolutions of few channels are found, and their gradients are right in any layout on any CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import datadiet as dd
from datadiet.convolutions import Seen, has_narrow, sound
from datadiet.dynamics.coherence import batch_gradients
from datadiet.models import MODELS, build

CHANNELS_LAST = torch.channels_last


class ByFunction(nn.Module):
    """A convolution that is no module, of an input that lies channels-last whatever the images do."""

    def __init__(self, channels: int = 3, classes: int = 3, only_in_training: bool = False) -> None:
        super().__init__()
        self.mix, self.only_in_training = nn.Linear(channels, 4), only_in_training
        self.weight = nn.Parameter(torch.randn(5, 4, 1, 1) / 2)
        self.rest, self.head = nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.Linear(5, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).tanh()
        out = self.rest(hidden)
        if self.training or not self.only_in_training:
            out = out + F.conv2d(hidden, self.weight, stride=2)
        return self.head(out.mean((2, 3)))


def by_function(input_shape: Any, classes: int) -> nn.Module:
    """A strided point, by a function."""
    return ByFunction(input_shape[0], classes)


def in_training(input_shape: Any, classes: int) -> nn.Module:
    """A strided point in training mode only."""
    return ByFunction(input_shape[0], classes, only_in_training=True)


def laid_out(input_shape: Any, classes: int) -> nn.Module:
    """A narrow ResNet that comes channels-last."""
    return build("resnet8", input_shape, classes, width=4).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]


for made in (by_function, in_training, laid_out):
    MODELS.register(f"test-{made.__name__}", made)


def coloured() -> Any:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (90, 6, 6, 3), np.uint8)
    return dd.load(((images[:60], np.arange(60) % 3), (images[60:], np.arange(30) % 3)), name="coloured")


@pytest.mark.parametrize(
    ("network", "shape", "found"),
    [
        (lambda: build("resnet8", (1, 6, 6), 3, width=4), (1, 6, 6), True),
        (lambda: build("resnet8", (1, 6, 6), 3, width=8), (1, 6, 6), False),
        (ByFunction, (3, 6, 6), True),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(4, 8, 1, stride=2))), (4, 6, 6), True),
        (lambda: nn.Conv2d(4, 8, 1, stride=(1, 2)), (4, 6, 6), True),
        (lambda: nn.Conv2d(1, 8, 1, stride=2), (1, 6, 6), False),
        (lambda: nn.Conv2d(4, 8, 1, stride=2, groups=2), (4, 6, 6), False),
        (lambda: nn.ConvTranspose2d(4, 8, 1, stride=2), (4, 6, 6), False),
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
    if not isinstance(model, ByFunction | torch.jit.ScriptModule):
        assert has_narrow(model.modules()) == found


def test_to_ask_for_them_changes_no_weight() -> None:
    """To read a weight under spectral norm in training mode takes a step of its own."""
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 8, 1, stride=2))
    before = [buffer.clone() for buffer in layer.buffers()]
    assert has_narrow(layer.modules())
    assert all(map(torch.equal, before, layer.buffers()))


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_a_sound_block_costs_nothing_where_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    modes = []
    for width in (4, 8):
        with sound(build("resnet8", (1, 6, 6), 3, width=width).modules()) as mode:
            modes.append(mode is not None)
    assert modes == [capability == "AVX2", False]


class Spy(TorchDispatchMode):
    """Whether the inputs of strided 1×1 convolutions of 4 channels lie in the ordinary layout, for weight gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        strided = func is torch.ops.aten.convolution_backward.default and max(args[4]) > 1 and args[9] == 1
        if strided and args[2].shape[1:] == (4, 1, 1) and len(args[1]) > 1 and args[10][1]:
            self.found.append(args[1].stride() == torch.empty(args[1].shape).stride())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", ["test-by_function", "test-in_training", "test-laid_out"])
def test_jobs_differentiate_them_in_the_ordinary_layout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    """On a CPU without AVX-512 this died of a damaged heap, however the network came by the other layout."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    setup = dd.Setup(store=tmp_path, engine="inline", threads=1, precision="float32", compile="off")
    recipe = {"model": model, "batch_size": 20, "steps": "4ep", "lr": 0.05}
    with Spy() as spy:
        table = dd.score(coloured(), scores=["el2n", "grand"], runs=1, at="4ep", recipe=recipe, setup=setup)
    assert np.isfinite(table.mean("grand")).all()
    assert len(spy.found) >= 12
    assert all(spy.found)


def test_such_a_network_is_not_compiled_on_such_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup = dd.Setup(store=tmp_path, engine="inline", compile="on")
    monkeypatch.setattr("datadiet.numerics.can_compile", lambda device: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    recipe = {"model": "test-in_training", "batch_size": 20, "steps": "4ep"}
    with pytest.raises(dd.DatadietError, match="--compile: on this CPU PyTorch compiles the strided"):
        dd.score(coloured(), runs=1, at="1ep", recipe=recipe, setup=setup)
    assert not list(tmp_path.rglob("*.safetensors"))


@settings(max_examples=25)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(2, 3), st.integers(3, 9), st.integers(1, 5), st.integers(0, 99)
)  # fmt: skip
def test_gradients_in_channels_last_are_those_in_float64(
    channels: int, out: int, stride: int, size: int, examples: int, seed: int
) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).double()
    x, labels = torch.randn(examples, channels, size, size).double(), torch.randint(3, (examples,))
    net(x)
    exact = dd.grand(net, x, labels), dd.ntk(net, x), batch_gradients(net, [(x, labels)])
    net = net.float().to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
    x = x.float().contiguous(memory_format=CHANNELS_LAST)
    found = dd.grand(net, x, labels, check=True), dd.ntk(net, x), batch_gradients(net, [(x, labels)])
    for mine, wanted in zip(found, exact, strict=True):
        assert torch.allclose(mine.double(), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("scripted", [False, True])
def test_batch_gradients_of_what_is_no_module_are_those_in_float64(scripted: bool) -> None:
    torch.manual_seed(0)
    net, x, labels = ByFunction(), torch.randn(6, 3, 9, 9), torch.arange(6) % 3
    wanted = batch_gradients(net.double(), [(x.double(), labels)])
    net = torch.jit.script(net.float()) if scripted else net.float()
    for _ in range(20):
        assert torch.allclose(batch_gradients(net, [(x, labels)]).double(), wanted, rtol=1e-4, atol=1e-6)
