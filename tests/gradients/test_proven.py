"""Networks whose layers are not what they seem: a plan is proven, and what it gets wrong is differentiated plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from datadiet.errors import DatadietError
from datadiet.gradients import grand, grand_loader
from datadiet.gradients.gram import ntk

CLASSES = 3


def plainly(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """(B,) norms, an example alone at a time."""
    out = []
    for i in range(len(inputs)):
        loss = F.cross_entropy(model(inputs[i : i + 1]), labels[i : i + 1])
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        out.append(torch.stack([g.abs().square().sum() for g in grads if g is not None]).sum().sqrt())
    return torch.stack(out)


def kernel(model: nn.Module, inputs: Tensor) -> Tensor:
    """(B·C, B·C) Gram matrix of the logits' gradients, one by one."""
    rows = []
    for i in range(len(inputs)):
        for logit in model(inputs[i : i + 1])[0]:
            grads = torch.autograd.grad(logit, list(model.parameters()), retain_graph=True, allow_unused=True)
            parts = zip(grads, model.parameters(), strict=True)
            rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in parts]))
    matrix = torch.stack(rows)
    return matrix @ matrix.T


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(4, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 5)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.head(h)


class Pair(nn.Module):
    """Returns an output and another that is made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x @ self.weight
        return h, h.sin() @ self.weight


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = Pair(), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.pair(x)
        return self.head(2 * a + b)


class Ensemble(nn.Module):
    """One member of weights (1, D, C), and a mean over members."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 4, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bd,kdc->bkc", x, self.weight).mean(1)


class Pooled(nn.Module):
    """Attention pooling by one query, and a mean over queries."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.head = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        weights = (x @ self.query.T).softmax(1)
        return self.head(torch.einsum("btq,btd->bqd", weights, x).mean(1))


class Scaled(nn.Module):
    """A scale of shape (1, 1, 1) beside a dimension of three, as many as the trials have examples."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.randn(1, 1, 1)), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.unflatten(1, (3, 2))[..., :2] * self.scale).flatten(1))


class Hooked(nn.Module):
    """A hook of somebody's uses the layer's weight a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.body.register_forward_hook(lambda m, given, out: out + F.linear(given[0].sin(), m.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Inner(nn.Module):
    """Differentiates inside its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.body(x).sin().sum(), x, create_graph=True)
        return self.head(slope)


class Routed(nn.Module):
    """One of two experts for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.head = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = ((x[:, 0] > 0) == bool(number)).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, expert(x[rows]))
        return self.head(out)


class Late(nn.Module):
    """A second layer for a batch in which something is hard."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x).sin()
        hard = x[:, :1] > 1.5
        if hard.any():
            h = torch.where(hard, self.two(h), h)
        return self.head(h)


class Sorted(nn.Module):
    """Works on its examples in the order of their first number, and gives them back in theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        return self.head(self.body(x[order]).sin())[order.argsort()]


class Counted(nn.Module):
    """An embedding whose gradients are divided by how often a word stands in a call, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4, scale_grad_by_freq=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        words = (10 * x.abs()).long() % 5
        first, second = self.words(words[:, :2]), self.words(words[:, 1:])
        return self.head(first.sum(1).sin() * second.sum(1))


class Tempered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.temperature = nn.Linear(4, CLASSES), nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) * self.temperature


SEQUENCES = {Recurrent: (5, 7, 4), Pooled: (5, 3, 4), Scaled: (5, 6, 2)}


def case(kind: Callable[[], nn.Module], count: int | None = None) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    shape = SEQUENCES.get(kind, (5, 4))  # type: ignore[call-overload]
    inputs = torch.randn(count or shape[0], *shape[1:])
    return kind().double(), inputs.double(), torch.arange(len(inputs)) % CLASSES


KINDS = [Recurrent, TwoOutputs, Ensemble, Pooled, Scaled, Hooked, Inner, Counted, Tempered]


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_norms_and_kernels_are_those_of_plain_differentiation(kind: Callable[[], nn.Module], count: int) -> None:
    model, inputs, labels = case(kind, count)
    assert torch.allclose(grand(model, inputs, labels), plainly(model, inputs, labels), rtol=1e-9)
    assert torch.allclose(ntk(model, inputs), kernel(model, inputs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [Recurrent, TwoOutputs])
def test_a_module_with_several_outputs_needs_no_pass_of_the_whole_network(
    kind: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    model, inputs, labels = case(kind)
    with caplog.at_level("INFO", "datadiet.gradients"):
        grand(model, inputs, labels)
    assert "whole network" not in caplog.text


def test_examples_that_come_in_order_do_not_hide_that_a_network_sorts_them() -> None:
    model, inputs, labels = case(Sorted, 6)
    inputs[:, 0] = torch.tensor([0.0, 1.0, 2.0, 1.5, 0.5, -1.0])
    assert torch.allclose(grand(model, inputs, labels), plainly(model, inputs, labels), rtol=1e-9)


def test_what_the_trials_did_not_use_counts_where_it_is_used() -> None:
    model, inputs, labels = case(Late, 9)
    inputs[:, 0] = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 2.0, 2.5, 0.6])
    assert torch.allclose(grand(model, inputs, labels), plainly(model, inputs, labels), rtol=1e-9)
    assert torch.allclose(ntk(model, inputs), kernel(model, inputs), rtol=1e-9, atol=1e-12)


def test_examples_of_other_experts_have_their_gradients_one_at_a_time() -> None:
    model, inputs, labels = case(Routed, 8)
    wanted = plainly(model, inputs, labels)
    assert torch.allclose(grand(model, inputs, labels, chunk=1), wanted, rtol=1e-9)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=1)
    assert torch.allclose(grand_loader(model, loader), wanted, rtol=1e-9)


def test_a_forward_with_another_default_is_another_forward() -> None:
    model, inputs, labels = case(Hooked)
    head = nn.Linear(4, CLASSES).double()
    model.other = head
    for late in (False, True):

        def forward(m: Any, x: Tensor, late: bool = late) -> Tensor:
            return (m.other if late else m.head)(m.body(x))

        found = grand(model, inputs, labels, forward=forward)
        model.head, kept = (head if late else model.head), model.head
        assert torch.allclose(found, plainly(model, inputs, labels), rtol=1e-9)
        model.head = kept


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_traced_network_is_refused() -> None:
    _, inputs, labels = case(Hooked)
    with pytest.raises(DatadietError, match="scripted or traced network hides"):
        grand(torch.jit.trace(nn.Linear(4, CLASSES).double(), inputs), inputs, labels)
    mixed = nn.Sequential(torch.jit.trace(nn.Linear(4, 4).double(), inputs), nn.Linear(4, CLASSES).double())
    with pytest.raises(DatadietError, match="layer 0: a scripted or traced network"):
        ntk(mixed, inputs)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4, dtype=torch.cdouble), nn.Linear(4, CLASSES).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.to(torch.cdouble)).abs())


def test_complex_weights_have_norms_and_no_kernel() -> None:
    torch.manual_seed(0)
    model, inputs, labels = Complex(), torch.randn(5, 4).double(), torch.arange(5) % CLASSES
    assert torch.allclose(grand(model, inputs, labels), plainly(model, inputs, labels), rtol=1e-9)
    with pytest.raises(DatadietError, match="complex weights"):
        ntk(model, inputs)


class Replacing(nn.Module):
    """Counts its calls in a buffer that it replaces; keeps another one from inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, CLASSES)
        self.register_buffer("calls", torch.zeros(()))
        with torch.inference_mode():
            self.register_buffer("cached", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.head(x + self.cached)


def test_buffers_that_the_forward_replaces_are_put_back() -> None:
    model = Replacing()
    before = model.calls
    grand(model, torch.randn(4, 4), torch.zeros(4, dtype=torch.long))
    ntk(model, torch.randn(4, 4))
    assert model.calls is before
    assert not before.item()


class Caching(nn.Module):
    """Counts its calls in place, seen through an expanded buffer too; fills one cache and makes itself another."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, CLASSES)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", self.calls.expand(2, 4), persistent=False)
        self.register_buffer("grid", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.grid is None:
            self.grid = torch.ones(4)
            self.register_buffer("late", torch.ones(4), persistent=False)
        return self.head(x + self.grid + self.late + 0 * self.seen[0])


def test_caches_are_put_back_and_shared_memory_is_written_once() -> None:
    model = Caching()
    before = dict(model._buffers)
    grand(model, torch.randn(4, 4), torch.zeros(4, dtype=torch.long))
    ntk(model, torch.randn(4, 4))
    assert list(model._buffers) == list(before)
    assert all(model._buffers[name] is buffer for name, buffer in before.items())
    assert not model.seen.any()


def test_a_plain_loader_leaves_the_random_stream() -> None:
    model, inputs, labels = case(Hooked)
    before = torch.get_rng_state()
    grand_loader(model, DataLoader(TensorDataset(inputs, labels), batch_size=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_of_logits_need_a_loss_of_ones_own() -> None:
    model = nn.Conv2d(2, 4, 1)
    with pytest.raises(DatadietError, match=r"the default loss takes \(B, C\), or \(B, T, C\)"):
        grand(model, torch.randn(3, 2, 4, 4), torch.zeros(3, 4, 4, dtype=torch.long))
    found = grand(model, torch.randn(3, 2, 4, 4), torch.zeros(3, 4, 4, dtype=torch.long), loss=nn.CrossEntropyLoss())
    assert found.shape == (3,)
