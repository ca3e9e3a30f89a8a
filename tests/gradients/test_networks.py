"""Whole networks: residual, recurrent, tied, foreign; what no rule covers; what the engine must leave alone."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from naive_loop import error, naive
from torch import Tensor, nn

from datadiet.gradients import grand
from datadiet.models import build

D = torch.float64


def trained_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "resnet56", "small-cnn", "mlp"])
def test_the_papers_networks(name: str) -> None:
    torch.manual_seed(0)
    model = trained_statistics(build(name, input_shape=(3, 16, 16), classes=10, seed=0))
    x, y = torch.randn(3, 3, 16, 16), torch.tensor([0, 9, 4])
    single = grand(model, x, y)
    wanted = naive(model.double(), x.double(), y)
    assert error(single, wanted) < 1e-4
    assert error(grand(model, x.double(), y), wanted) < 1e-9


class Sequence(nn.Module):
    """A language model in small: tied embedding and head, recurrence by hand, positions that all examples share."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(11, 6)
        self.places = nn.Embedding(9, 6)
        self.cell = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}.get(kind, nn.GRU)(6, 6, batch_first=True)
        self.step = nn.GRUCell(6, 6)
        self.loop = nn.Linear(12, 6)
        self.head = nn.Linear(6, 11)
        if kind == "tied":
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.places(torch.arange(x.shape[1]))
        if self.kind in ("gru", "lstm", "rnn"):
            h = self.cell(h)[0]
        if self.kind == "cell":
            state = torch.zeros(len(x), 6, dtype=h.dtype)
            for t in range(x.shape[1]):
                state = self.step(h[:, t], state)
            h = state.unsqueeze(1)
        if self.kind == "loop":
            state = torch.zeros(len(x), 6, dtype=h.dtype)
            for t in range(x.shape[1]):
                state = self.loop(torch.cat([h[:, t], state], 1)).tanh()
            h = state.unsqueeze(1)
        if self.kind == "functional":
            return F.linear(h.mean(1), self.embed.weight)
        return self.head(h.mean(1))


@pytest.mark.parametrize("kind", ["plain", "tied", "functional", "loop", "cell", "gru", "lstm", "rnn"])
@pytest.mark.parametrize("length", [3, 5])
def test_weights_used_more_than_once_and_recurrence(kind: str, length: int) -> None:
    torch.manual_seed(3)
    model = Sequence(kind).double()
    # As many positions as examples once: nothing may be told from sizes alone.
    x, y = torch.randint(0, 11, (3, length)), torch.tensor([1, 10, 5])
    assert error(grand(model, x, y, check=True), naive(model, x, y)) < 1e-9


def test_cudnn_is_left_out_for_recurrent_layers_which_it_cannot_differentiate_in_eval_mode() -> None:
    seen = []

    class Asking(Sequence):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.enabled)
            return super().forward(x)

    before = torch.backends.cudnn.enabled
    grand(Asking("lstm"), torch.randint(0, 11, (3, 4)), torch.tensor([1, 10, 5]))
    assert set(seen) == {False}
    assert torch.backends.cudnn.enabled == before


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norm(self.conv(x)).relu_()
        x = F.max_pool2d(x, 2)
        x = self.norm(self.conv(x)).relu_()
        return self.head(x.mean((2, 3)))


def test_modules_called_twice() -> None:
    torch.manual_seed(4)
    model, x, y = Twice().double(), torch.randn(4, 3, 8, 8, dtype=D), torch.tensor([0, 1, 2, 4])
    wanted = naive(model, x, y)
    assert error(grand(model, x, y), wanted) < 1e-9
    assert error(grand(model, x, y, memory=1), wanted) < 1e-9


class Scale(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(n))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Untraceable(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain * (2.0 if float(x.detach().sum()) > 0 else -1.0) if len(x) == 1 else torch.cat(
            [self.forward(row[None]) for row in x]
        )  # fmt: skip


class Patches(nn.Module):
    """A vision transformer's habits: a class token, a position table, layer scale, windows folded into the batch."""

    def __init__(self, tail: nn.Module, major: bool = True) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.table = nn.Parameter(torch.randn(1, 5, 8))
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.scale = tail
        self.window, self.fold = nn.Linear(8, 8), nn.Conv1d(8, 8, 2)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
        self.major = major

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.table
        x = self.scale(x[:, :4])
        count = len(x)
        if self.major:
            w = x.reshape(count * 2, 2, 8)
            w = self.window(w) + self.fold(w.transpose(1, 2)).transpose(1, 2)
            x = w.reshape(count, 4, 8)
        else:
            w = x.reshape(count, 2, 2, 8).transpose(0, 1).reshape(2 * count, 2, 8)
            w = self.window(w) + self.fold(w.transpose(1, 2)).transpose(1, 2)
            x = w.reshape(2, count, 2, 8).transpose(0, 1).reshape(count, 4, 8)
        return self.head(x.tanh().mean(1))


@pytest.mark.parametrize("major", [True, False])
@pytest.mark.parametrize("tail", [Scale, Untraceable])
def test_what_no_rule_covers_is_exact_too(tail: type[Scale], major: bool, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(5)
    model = Patches(tail(8), major).double()
    x, y = torch.randn(4, 3, 8, 8, dtype=D), torch.tensor([0, 3, 1, 2])
    with caplog.at_level(logging.INFO, logger="datadiet"):
        assert error(grand(model, x, y), naive(model, x, y)) < 1e-9
    assert "scale.gain (" in caplog.text
    assert "token" not in caplog.text


class Bare(nn.Module):
    """Weights without modules, shared with a module, and one that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Parameter(torch.randn(4, 6))
        self.idle = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.first(x).tanh() @ self.first.weight, self.second)


def test_parameters_used_outside_their_module() -> None:
    torch.manual_seed(6)
    model, x, y = Bare().double(), torch.randn(5, 6, dtype=D), torch.randint(0, 4, (5,))
    wanted = naive(model, x, y)
    assert error(grand(model, x, y), wanted) < 1e-9
    assert error(grand(model, x, y, memory=1), wanted) < 1e-9
    assert (grand(model, x, y, per="parameter")["idle"] == 0).all()


def test_frozen_parameters_do_not_count() -> None:
    torch.manual_seed(7)
    model, x, y = Twice().double(), torch.randn(3, 3, 8, 8, dtype=D), torch.tensor([0, 1, 2])
    for p in [*model.stem.parameters(), model.norm.weight, model.head.bias]:
        p.requires_grad_(False)
    assert error(grand(model, x, y), naive(model, x, y)) < 1e-9
    assert not model.head.bias.requires_grad
    assert model.head.weight.requires_grad


def test_inplace_operations_after_the_first_layer() -> None:
    torch.manual_seed(8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
                          nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)).double()  # fmt: skip
    x, y = torch.randn(3, 3, 8, 8, dtype=D), torch.tensor([0, 1, 2])
    assert error(grand(model, x, y), naive(model, x, y)) < 1e-9


def snapshot(model: nn.Module) -> list[object]:
    state = [(k, v.clone()) for k, v in model.state_dict().items()]
    flags = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), m.training, sorted(m.__dict__)) for m in model.modules()
    ]
    return [state, flags, hooks]


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return a == b


class Fragile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.register_buffer("calls", torch.zeros(1))
        self.limit = 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if len(x) > self.limit:
            raise MemoryError("too many")
        x = self.body(x).unsqueeze(1) + self.token
        return self.attention(x, x, x)[0].squeeze(1)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was_also_after_an_exception(fails: bool) -> None:
    torch.manual_seed(9)
    model = Fragile()
    x, y = torch.randn(6, 4), torch.randint(0, 4, (6,))
    F.cross_entropy(model(x), y).backward()
    model.body[2].eval()
    model.body[0].bias.requires_grad_(False)
    before, chance = snapshot(model), torch.get_rng_state()
    if fails:
        model.limit = 4
        with pytest.raises(MemoryError):
            grand(model, x, y)
        model.limit = 10**9
    else:
        grand(model, x, y, check=True)
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), chance)
    assert torch.backends.mha.get_fastpath_enabled()


def test_under_no_grad_inference_mode_and_autocast() -> None:
    torch.manual_seed(10)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LayerNorm(288), nn.Linear(288, 5)
    model = nn.Sequential(*layers)
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 4])
    wanted = grand(model, x, y)
    with torch.no_grad():
        assert torch.equal(grand(model, x, y), wanted)
    with torch.inference_mode():
        found = grand(model, x.clone(), y.clone())
    assert torch.equal(found.clone(), wanted)
    for half, bound in ((torch.bfloat16, 5e-2), (torch.float16, 1e-2)):
        with torch.autocast("cpu", half):
            mixed = grand(model, x, y)
        assert mixed.dtype == torch.float32
        assert error(mixed, wanted.double()) < bound
    narrow = grand(model.bfloat16(), x.bfloat16(), y)
    assert narrow.dtype == torch.float32
    assert error(narrow, wanted.double()) < 1e-1


def test_channels_last() -> None:
    torch.manual_seed(11)
    model = trained_statistics(build("resnet20", input_shape=(3, 16, 16), classes=10, seed=0)).double()
    x, y = torch.randn(3, 3, 16, 16, dtype=D), torch.tensor([0, 9, 4])
    wanted = naive(model, x, y)
    last = torch.channels_last
    assert error(grand(model.to(memory_format=last), x.to(memory_format=last), y), wanted) < 1e-9


def test_the_plan_does_not_keep_its_model_alive() -> None:
    import gc
    import weakref

    model = nn.Linear(3, 2)
    grand(model, torch.randn(2, 3), torch.tensor([0, 1]), forward=lambda m, x: m(x))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_hooks_and_methods_of_the_user_are_seen() -> None:
    torch.manual_seed(12)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3)).double()
    x, y = torch.randn(5, 4, dtype=D), torch.tensor([0, 1, 2, 0, 1])
    first = grand(model, x, y)
    model[0].register_forward_hook(lambda m, args, output: output * 2)
    model[0].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    layer = model[2]
    layer.forward = lambda x: F.linear(x, layer.weight * 3, layer.bias)
    found = grand(model, x, y)
    assert error(found, naive(model, x, y)) < 1e-9
    assert not torch.allclose(found, first)
    assert "forward" in layer.__dict__
