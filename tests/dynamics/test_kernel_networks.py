"""Kernels of whole networks: residual, recurrent, tied, foreign; what no rule covers; what must be left alone."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from kernel_reference import by_jacrev, by_loop, error
from test_networks import Bare, Fragile, Patches, Scale, Twice, Untraceable, same, snapshot, trained_statistics
from test_networks import Sequence as LanguageModel
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from datadiet.dynamics.kernel import ntk
from datadiet.gradients.gram_cuts import merged, sections
from datadiet.models import build

D = torch.float64


def agree(model: nn.Module, x: Any, count: int, run: Any = None, little: int = 1) -> None:
    """With all memory, and with so little that layers and weights come one at a time."""
    wanted = by_loop(model, x, count) if run is None else by_loop(model, x, count, run)
    for memory in (2**28, little):
        assert error(ntk(model, x, memory=memory, forward=run), wanted) < 1e-9, memory


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet18", "small-cnn", "mlp"])
def test_the_papers_networks(name: str) -> None:
    torch.manual_seed(0)
    count, size = (2, 8) if name == "resnet18" else (3, 12)
    model = trained_statistics(build(name, input_shape=(3, size, size), classes=3, seed=0))
    x = torch.randn(count, 3, size, size)
    single = ntk(model, x)
    model = model.double().eval()
    wanted = by_loop(model, x.double(), count)
    if name == "resnet8":
        assert error(by_jacrev(model, x.double()), wanted) < 1e-12
    found = ntk(model, x.double())
    assert error(found, wanted) < 1e-9
    assert error(single, wanted) < 1e-4
    values = torch.linalg.eigvalsh(found)
    assert values[0] > -1e-9 * values[-1]
    assert torch.equal(found, found.T)
    assert torch.equal(single, single.T)


def test_little_memory_cuts_the_pass_in_parts_with_the_same_result() -> None:
    torch.manual_seed(1)
    model = trained_statistics(build("resnet8", input_shape=(3, 12, 12), classes=4, seed=0)).double()
    x = torch.randn(3, 3, 12, 12, dtype=D)
    whole = ntk(model, x)
    for memory in (10**6, 3 * 10**5, 10**5, 1):
        assert error(ntk(model, x, memory=memory), whole) < 1e-12


@pytest.mark.parametrize("last", [False, True])
def test_rows_are_ordered_by_example_then_logit(last: bool) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(4, 4, dtype=D)
    whole = ntk(model, x)
    # A closed form for the last layer alone: 1 + ⟨h_i, h_j⟩ for the same logit, 0 for different ones.
    if last:
        model[0].requires_grad_(False)
        hidden = model[:2](x).detach()
        wanted = torch.einsum("ij,cd->icjd", 1 + hidden @ hidden.T, torch.eye(3, dtype=D)).reshape(12, 12)
        assert error(ntk(model, x), wanted) < 1e-12
    else:
        some = ntk(model, x[[2, 0]], forward=lambda m, x: m(x)[:, [2, 1]])
        picked = torch.tensor([2 * 3 + 2, 2 * 3 + 1, 2, 1])
        assert error(some, whole[picked][:, picked]) < 1e-12


@pytest.mark.parametrize("kind", ["plain", "tied", "functional", "loop", "cell", "gru", "lstm"])
def test_weights_used_more_than_once_and_recurrence(kind: str) -> None:
    torch.manual_seed(3)

    class Logits(LanguageModel):
        def forward(self, x: Tensor) -> Tensor:
            z = super().forward(x)
            return z.squeeze(1) if z.dim() == 3 else z

    # As many positions as examples once: nothing may be told from sizes alone.
    for length in (3, 4):
        agree(Logits(kind).double(), torch.randint(0, 11, (3, length)), 3, little=60_000)


def test_modules_called_twice_and_frozen_weights() -> None:
    torch.manual_seed(4)
    model, x = Twice().double(), torch.randn(4, 3, 8, 8, dtype=D)
    agree(model, x, 4, little=30_000)
    for p in [*model.stem.parameters(), model.norm.weight, model.head.bias]:
        p.requires_grad_(False)
    agree(model, x, 4, little=30_000)
    assert not model.head.bias.requires_grad


@pytest.mark.parametrize("major", [True, False])
@pytest.mark.parametrize("tail", [Scale, Untraceable])
def test_what_no_rule_covers(tail: type[Scale], major: bool, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(5)
    with caplog.at_level(logging.INFO, logger="datadiet"):
        agree(Patches(tail(8), major).double(), torch.randn(4, 3, 8, 8, dtype=D), 4)
    assert "scale.gain (" in caplog.text


def test_parameters_used_outside_their_module() -> None:
    torch.manual_seed(6)
    agree(Bare().double(), torch.randn(5, 6, dtype=D), 5, little=5_000)


class Odd(nn.Module):
    """Logits that skip layers, a layer without effect, in-place operations, a logit without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(1, 4, 3), nn.Linear(4, 1), nn.Linear(4, 1)
        self.idle = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu_().mean((2, 3))
        self.idle(h)
        return torch.cat([self.left(h.tanh()), x.flatten(1)[:, :1], self.right(x.flatten(1)[:, :4])], 1)


def test_logits_that_depend_on_some_layers_only() -> None:
    torch.manual_seed(7)
    model, x = Odd().double(), torch.randn(3, 1, 5, 5, dtype=D)
    agree(model, x, 3)
    found = ntk(model, x).view(3, 3, 3, 3)
    assert (found[:, 1] == 0).all()
    assert (found[:, 0, :, 2] == 0).all()


def test_gpt2_with_tied_weights() -> None:
    torch.manual_seed(8)
    sizes = {"vocab_size": 9, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes)).double()
    assert isinstance(model.transformer, GPT2Model)
    tokens = {"input_ids": torch.randint(0, 9, (3, 5))}
    agree(model, tokens, 3, lambda m, given: m(**given).logits[:, -1])


def test_a_transformer_encoder_with_the_batch_in_the_second_dimension() -> None:
    torch.manual_seed(9)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=False)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = nn.ModuleDict({"body": body, "head": nn.Linear(8, 3)}).double()
    run = lambda m, x: m["head"](m["body"](x.transpose(0, 1)).mean(0))  # noqa: E731
    agree(model, torch.randn(3, 3, 8, dtype=D), 3, run)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was_also_after_an_exception(fails: bool) -> None:
    torch.manual_seed(10)
    model, x = Fragile(), torch.randn(6, 4)
    model(x).sum().backward()
    model.body[2].eval()
    model.body[0].bias.requires_grad_(False)
    before, chance = snapshot(model), torch.get_rng_state()
    if fails:
        model.limit = 4
        with pytest.raises(MemoryError):
            ntk(model, x)
        model.limit = 10**9
    else:
        ntk(model, x)
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), chance)
    assert torch.backends.mha.get_fastpath_enabled()


def test_under_no_grad_inference_mode_and_autocast() -> None:
    torch.manual_seed(11)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LayerNorm(288), nn.Linear(288, 5)
    model, x = nn.Sequential(*layers), torch.randn(4, 3, 8, 8)
    wanted = ntk(model, x)
    assert not wanted.requires_grad
    with torch.no_grad():
        assert torch.equal(ntk(model, x), wanted)
    with torch.inference_mode():
        found = ntk(model, x.clone())
    assert torch.equal(found.clone(), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ntk(model, x)
    assert mixed.dtype == torch.float32
    assert error(mixed, wanted.double()) < 5e-2
    assert error(ntk(model.bfloat16(), x.bfloat16()), wanted.double()) < 1e-1


def test_channels_last() -> None:
    torch.manual_seed(12)
    model = trained_statistics(build("resnet8", input_shape=(3, 12, 12), classes=4, seed=0)).double()
    x, last = torch.randn(3, 3, 12, 12, dtype=D), torch.channels_last
    wanted = ntk(model, x)
    assert error(ntk(model.to(memory_format=last), x.to(memory_format=last)), wanted) < 1e-12


def edges(*tensors: Tensor) -> list[GradientEdge]:
    return [get_gradient_edge(t) for t in tensors]


def test_where_a_backward_pass_can_be_cut() -> None:
    a = torch.randn(3, requires_grad=True)
    b = a * 2
    c = b.exp() + b  # two ways round: no cut between
    d = c.sin()
    side = torch.randn(3, requires_grad=True) * 3
    z = d * 4 + side
    found = sections(get_gradient_edge(z), edges(b, c, d, side))
    assert [members for _, members in found] == [[3], [2], [1], [0]] or [m for _, m in found] == [[3, 2], [1], [0]]
    split = (a * 2).chunk(3)
    joined = split[0] * split[1]
    both = joined + split[2]
    assert [m for _, m in sections(get_gradient_edge(both), edges(joined, split[0]))] == [[0, 1]], "no single edge"
    parts = [(get_gradient_edge(z), [3, 2]), (get_gradient_edge(d), [1]), (get_gradient_edge(c), [0])]
    assert [m for _, m in merged(parts, [5, 5, 1, 1], 8)] == [[3, 2, 1], [0]]
    assert sections(get_gradient_edge(z), edges(joined)) == []
