"""Weights that the trials of a plan do not meet count from where the network first uses them, whatever way it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_proven import kernel, plainly
from torch import Tensor, nn
from torch.nn import functional as F

from datadiet.errors import DatadietError
from datadiet.gradients import grand
from datadiet.gradients.gram import ntk
from datadiet.gradients.planned import _plans

CLASSES = 3


class Gain(nn.Module):
    """A weight that no rule covers."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((4,), 1.5))

    def forward(self, h: Tensor) -> Tensor:
        return h * self.gain


class Hard(nn.Module):
    """Uses `part` where some example is hard, here by calling it; the first, middle and last are not."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.body, self.part, self.head = nn.Linear(4, 4), part, nn.Linear(4, CLASSES)

    def helped(self, h: Tensor) -> Tensor:
        return self.part(h)

    def forward(self, x: Tensor) -> Tensor:
        h, hard = self.body(x).sin(), x[:, :1] > 1.5
        if hard.any():
            h = torch.where(hard, self.helped(h), h)
        return self.head(h)


class Inline(Hard):
    """Uses a weight of a layer that it never calls, and one of its own."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4))
        self.gain = nn.Parameter(torch.full((4,), 1.5))

    def helped(self, h: Tensor) -> Tensor:
        return F.linear(h, self.part.weight) * self.gain


class Bare(Hard):
    """All that the trials meet are weights of its own, for which the whole network is run."""

    def __init__(self) -> None:
        super().__init__(Gain())
        self.weight = nn.Parameter(torch.randn(CLASSES, 4))

    def forward(self, x: Tensor) -> Tensor:
        hard = x[:, :1] > 1.5
        return (torch.where(hard, self.part(x), x) if hard.any() else x) @ self.weight.T


class Experts(nn.Module):
    """Each example goes to one of three; the last is met where there is something for it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.experts = nn.ModuleList([Gain() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).sin()
        out = torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            rows = (torch.bucketize(x[:, 0].contiguous(), x.new_tensor([0.0, 1.5])) == number).nonzero()[:, 0]
            if len(rows):
                out = out.index_copy(0, rows, expert(h[rows]))
        return self.head(out)


KINDS = {
    "a cell": lambda: Hard(nn.GRUCell(4, 4)), "a weight without a rule": lambda: Hard(Gain()),
    "a layer with a rule": lambda: Hard(nn.Linear(4, 4)), "attention": lambda: Hard(Attention()),
    "outside their modules": Inline, "none of a rule": Bare, "experts": Experts,
}  # fmt: skip


class Attention(nn.MultiheadAttention):
    def __init__(self) -> None:
        super().__init__(4, 2, batch_first=True, add_bias_kv=True)

    def __call__(self, h: Tensor) -> Tensor:
        return super().__call__(h[:, None], h[:, None], h[:, None])[0][:, 0]


def case(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    inputs = torch.randn(9, 4, dtype=torch.float64)
    inputs[:, 0] = torch.tensor([-1.0, 0.1, 0.2, 2.0, 0.4, 0.5, 2.5, 0.3, 0.6])
    return make().double(), inputs, torch.arange(9) % CLASSES


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_plain_differentiation(kind: str, chunk: int | None) -> None:
    model, inputs, labels = case(KINDS[kind])
    wanted = plainly(model, inputs, labels)
    for _ in range(2):  # met, and known
        assert torch.allclose(grand(model, inputs, labels, chunk=chunk), wanted, rtol=1e-9)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_those_of_plain_differentiation(kind: str) -> None:
    model, inputs, _ = case(KINDS[kind])
    for _ in range(2):
        assert torch.allclose(ntk(model, inputs), kernel(model, inputs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("hard", [0, 4, 8])
def test_those_that_the_proof_meets_first_count_as_well(hard: int) -> None:
    """It tries the first, the middle and the last, the trials the first three."""
    for kind in ("a cell", "outside their modules"):
        model, inputs, labels = case(KINDS[kind])
        inputs[:, 0] = 0.0
        inputs[hard, 0] = 2.0
        assert torch.allclose(grand(model, inputs, labels), plainly(model, inputs, labels), rtol=1e-9)


def test_an_expert_that_has_but_some_of_the_examples_is_refused_in_words() -> None:
    model, inputs, labels = case(Experts)
    inputs[:3, 0] = 0.5  # so that in the trials it has all
    for instrument in (lambda: grand(model, inputs, labels), lambda: ntk(model, inputs)):
        with pytest.raises(DatadietError, match=r"layer experts.1: the network used this layer otherwise.*chunk=1"):
            instrument()
    assert torch.allclose(grand(model, inputs, labels, chunk=1), plainly(model, inputs, labels), rtol=1e-9)


def test_weights_that_nothing_uses_cost_no_pass_of_the_whole_network() -> None:
    model, inputs, labels = case(lambda: Hard(Gain()))
    inputs[:, 0] = 0.0
    assert torch.allclose(grand(model, inputs, labels), plainly(model, inputs, labels), rtol=1e-9)
    (plan,) = _plans[model].values()
    assert plan.whole == []
    inputs[3, 0] = 2.0
    grand(model, inputs, labels)
    assert plan.whole == [id(model.part.gain)]


def test_frozen_weights_do_not_count_where_they_are_met() -> None:
    model, inputs, labels = case(lambda: Hard(Gain()))
    model.part.requires_grad_(False)
    wanted = []
    for x, y in zip(inputs.split(1), labels.split(1), strict=True):
        trained = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), trained)
        wanted.append(torch.cat([g.reshape(-1) for g in grads]).norm())
    assert torch.allclose(grand(model, inputs, labels), torch.stack(wanted), rtol=1e-9)
    assert not model.part.gain.requires_grad


def test_a_weight_that_only_the_loss_uses_counts() -> None:
    model, inputs, labels = case(lambda: Hard(Gain()))
    model.temperature = nn.Parameter(torch.tensor(1.3).double())

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits * model.temperature, y, reduction="none")

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m(x)

    wanted = []
    for x, y in zip(inputs.split(1), labels.split(1), strict=True):
        grads = torch.autograd.grad(loss(model(x), y).sum(), list(model.parameters()), allow_unused=True)
        wanted.append(torch.cat([g.reshape(-1) for g in grads if g is not None]).norm())
    assert torch.allclose(grand(model, inputs, labels, loss=loss, forward=forward), torch.stack(wanted), rtol=1e-9)


def test_a_pass_that_fails_leaves_all_weights_trainable() -> None:
    model, inputs, labels = case(lambda: Hard(Gain()))
    inputs[:, 0] = 0.0
    with pytest.raises(DatadietError, match="out of range"):
        grand(model, inputs, labels + 1)
    assert all(p.requires_grad for p in model.parameters())


class Beside(nn.Module):
    """Logits, and beside them something of the batch: `of` makes both of the hidden layer."""

    def __init__(self, of: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.head, self.of = nn.Linear(4, 5), nn.Linear(5, CLASSES), of

    def forward(self, x: Tensor) -> Any:
        return self.of(self.head, self.body(x).tanh())


OUTPUTS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "similarities": lambda head, z: (head(z), z @ z.T),
    "similarities first": lambda head, z: (z @ z.T, head(z)),
    "centred": lambda head, z: (head(z), z - z.mean(0)),
    "a mean, and similarities": lambda head, z: (head(z), head(z).mean(0), z @ z.T),
    "made of them": lambda head, z: (head((z - z.mean(0)) + z.mean(0)), z - z.mean(0), z @ z.T),
}


def of_logits(outputs: Any, y: Tensor) -> Tensor:
    (logits,) = [t for t in outputs if t.shape == (len(y), CLASSES)][:1]
    return F.cross_entropy(logits, y, reduction="none")


def called(model: nn.Module, inputs: Tensor) -> Any:
    return model(inputs)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_of_the_batch_are_no_matter_where_the_loss_does_without(kind: str) -> None:
    model, inputs, labels = case(lambda: Beside(OUTPUTS[kind]))
    wanted = []
    for x, y in zip(inputs.split(1), labels.split(1), strict=True):
        z = model.body(x).tanh()
        grads = torch.autograd.grad(F.cross_entropy(model.head(z), y), list(model.parameters()))
        wanted.append(torch.cat([g.reshape(-1) for g in grads]).norm())
    for _ in range(2):
        found = grand(model, inputs, labels, loss=of_logits, forward=called, check=True)
        assert torch.allclose(found, torch.stack(wanted), rtol=1e-9)


@pytest.mark.parametrize(
    ("of", "loss"),
    [
        (lambda head, z: head(z) - head(z).mean(0), lambda o, y: F.cross_entropy(o, y, reduction="none")),
        (lambda head, z: (head(z) - head(z).mean(0), z), of_logits),
        (lambda head, z: (head(z), z @ z.T), lambda o, y: of_logits(o, y) + o[1].square().mean(1)),
    ],
    ids=["logits alone", "logits beside what is an example's own", "similarities"],
)
def test_outputs_of_the_batch_are_refused_where_the_loss_uses_them(of: Any, loss: Any) -> None:
    model, inputs, labels = case(lambda: Beside(of))
    for _ in range(2):
        with pytest.raises(DatadietError, match="mixes examples"):
            grand(model, inputs, labels, loss=loss, forward=called)
