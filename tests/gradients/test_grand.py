"""The public functions: losses, groupings, loaders, own rules, bad input."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_loop import error, naive
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from datadiet.errors import DatadietError
from datadiet.gradients import RULES, Rule, grand, grand_loader, register_rule

D = torch.float64


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, 5)
    ).double()


def data(count: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, 8, 8, dtype=D), torch.arange(count) % 5


def test_losses_of_every_shape_mean_the_loss_of_the_example() -> None:
    model, (x, y) = network(), data()
    weights = torch.rand(5, dtype=D) + 0.5
    none = lambda z, y: F.cross_entropy(z, y, weights, reduction="none", label_smoothing=0.1)  # noqa: E731
    wanted = naive(model, x, y, none)
    for reduction in ("none", "mean", "sum"):
        loss = nn.CrossEntropyLoss(weights, reduction=reduction, label_smoothing=0.1)
        assert error(grand(model, x, y, loss=loss), wanted) < 1e-9
    assert error(grand(model, x, y, loss=none), wanted) < 1e-9
    plain = naive(model, x, y)
    assert error(grand(model, x, y, loss=F.cross_entropy), plain) < 1e-9
    soft = F.one_hot(y, 5).double()
    assert error(grand(model, x, soft), plain) < 1e-9
    targets = torch.randn(6, 5, dtype=D)
    assert error(grand(model, x, targets, loss=nn.MSELoss()), naive(model, x, targets, F.mse_loss)) < 1e-9
    each = lambda z, t: (z - t).square()  # noqa: E731
    assert error(grand(model, x, targets, loss=each), naive(model, x, targets, each)) < 1e-9


@settings(max_examples=30)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 15), classes=st.integers(2, 12))
def test_norms_of_what_a_network_is_sure_of_keep_their_digits_in_float32(seed: int, scale: float, classes: int) -> None:
    """In closed form: ‖error vector‖·√(‖x‖² + 1), the label's error being the sum of the others."""
    torch.manual_seed(seed)
    model, x = nn.Linear(4, classes), torch.randn(8, 4)
    model.weight.data.normal_(0, scale)
    logits = F.linear(x.double(), model.weight.double(), model.bias.double()).detach()
    y = logits.argmax(1)
    others = (logits - logits.gather(1, y[:, None])).scatter(1, y[:, None], -torch.inf).exp()
    wrong = others / (1 + others.sum(1, keepdim=True))
    norms = (wrong.square().sum(1) + wrong.sum(1).square()).sqrt() * (x.double().square().sum(1) + 1).sqrt()
    there = norms > 1e-18  # whose squares float32 holds
    assert error(grand(model, x, y)[there], norms[there]) < 1e-4
    assert error(grand(model, x, F.one_hot(y, classes).float())[there], norms[there]) < 1e-4


def test_groups_add_up_to_the_whole() -> None:
    model, (x, y) = network(), data()
    whole = grand(model, x, y)
    layers = grand(model, x, y, per="layer")
    assert list(layers) == ["0", "1", "4", "6"]
    assert error(torch.stack(list(layers.values())).square().sum(0).sqrt(), whole) < 1e-12
    named = grand(model, x, y, per={"stem": ["0", "1"], "head": "6"})
    assert error(named["stem"].square(), layers["0"].square() + layers["1"].square()) < 1e-12
    assert torch.equal(named["head"], layers["6"])
    kinds = grand(model, x, y, per=lambda name: "bias" if name.endswith("bias") else None)
    assert list(kinds) == ["bias"]


def test_the_last_layer_in_closed_form() -> None:
    model, (x, y) = network(), data()
    hidden = model.eval()[:-1](x)
    left = (model(x).softmax(1) - F.one_hot(y, 5)).norm(dim=1)
    wanted = left * (hidden.square().sum(1) + 1).sqrt()
    assert error(grand(model, x, y, last_layer=True), wanted.detach()) < 1e-12
    assert error(grand(model, x, y, last_layer="6"), wanted.detach()) < 1e-12
    with pytest.raises(DatadietError, match="unknown layer '7'"):
        grand(model, x, y, last_layer="7")


def test_chunks_and_batches_of_one_give_the_same_norms() -> None:
    model, (x, y) = network(), data()
    whole = grand(model, x, y)
    assert error(grand(model, x, y, chunk=4), whole) < 1e-12
    assert error(torch.cat([grand(model, x[i : i + 1], y[i : i + 1]) for i in range(6)]), whole) < 1e-12
    assert not whole.requires_grad


def test_an_empty_batch_gives_an_empty_result() -> None:
    model, (x, y) = network(), data()
    assert grand(model, x[:0], y[:0]).shape == (0,)
    assert {k: len(v) for k, v in grand(model, x[:0], y[:0], per="layer").items()} == dict.fromkeys("0146", 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_example_breaks_its_own_norm_alone(bad: float) -> None:
    model = nn.Sequential(network(), nn.Linear(5, 5).double())
    x, y = data()
    whole = grand(model, x, y)
    x[2, 1, 3, 3] = bad
    found = grand(model, x, y)
    others = [0, 1, 3, 4, 5]
    assert error(found[others], whole[others]) < 1e-12
    assert not torch.isfinite(found[2])
    layers = nn.Linear(3, 40), nn.LayerNorm(40), nn.Linear(40, 40), nn.Flatten(), nn.Linear(160, 5)
    tokens = nn.Sequential(*layers).double()
    x = torch.randn(6, 4, 3, dtype=D)
    whole = grand(tokens, x, y)
    x[2, 1] = bad
    assert error(grand(tokens, x, y)[others], whole[others]) < 1e-12


def test_own_ways_of_calling_the_model() -> None:
    model, (x, y) = network(), data()
    whole = grand(model, x, y)
    assert torch.equal(grand(model, (x,), y), whole)
    assert torch.equal(grand(model, {"input": x}, y), whole)
    assert torch.equal(grand(model, {"a": x / 2, "b": x / 2}, y, forward=lambda m, d: m(d["a"] + d["b"])), whole)


class Mixed(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.body, self.head = how, nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        if self.how == "attention":
            h = F.scaled_dot_product_attention(h, h, h)
        if self.how == "mean":
            h = h - h.mean(0)
        z = self.head(h)
        return z - z.mean(0) if self.how == "end" else z


@pytest.mark.parametrize("how", ["attention", "mean"])
def test_a_model_that_mixes_examples_is_refused(how: str) -> None:
    with pytest.raises(DatadietError, match="layer head: the network mixes examples"):
        grand(Mixed(how), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))


def test_mixing_after_the_last_layer_is_refused_too() -> None:
    torch.manual_seed(2)
    with pytest.raises(DatadietError, match="the network mixes examples"):
        grand(Mixed("end"), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))


def test_check_finds_a_loss_that_mixes_examples() -> None:
    def centred(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs - outputs.mean(0), labels, reduction="none")

    torch.manual_seed(2)
    with pytest.raises(DatadietError, match="in the batch and"):
        grand(Mixed("none"), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), loss=centred, check=True)
    grand(Mixed("none"), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), check=True)


def test_training_mode_as_it_is() -> None:
    model, (x, y) = network(), data()
    with pytest.raises(DatadietError, match="BatchNorm2d mixes examples: in training mode"):
        grand(model.train(), x, y, mode="as-is")
    assert model.training
    model[1].eval()
    assert torch.equal(grand(model, x, y, mode="as-is"), grand(model, x, y))
    dropping = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    x, y = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(3)
    first = grand(dropping, x, y, mode="as-is")
    torch.manual_seed(3)
    assert torch.equal(grand(dropping, x, y, mode="as-is"), first)
    assert not torch.allclose(first, grand(dropping, x, y))
    tracking = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    with pytest.raises(DatadietError, match="keeps no running statistics"):
        grand(tracking, torch.randn(2, 3, 4, 4), torch.tensor([0, 1]))


def test_bad_input_is_said_in_words() -> None:
    model, (x, y) = network(), data()
    for labels, words in (
        (y + 3, "label 7 of example 4 is out of range, the model has 5 outputs"),
        (y - 1, "label -1 of example 0 is out of range"),
        (y[:4], "differ in the number of examples"),
        (torch.zeros(6, 3, dtype=D), "do not fit outputs"),
    ):
        with pytest.raises(DatadietError, match=words):
            grand(model, x, labels)
    with pytest.raises(DatadietError, match="does not accept these inputs"):
        grand(model, x[:, :2], y)
    with pytest.raises(DatadietError, match="'train' is not a mode"):
        grand(model, x, y, mode="train")
    with pytest.raises(DatadietError, match="no trainable parameter"):
        grand(copy.deepcopy(model).requires_grad_(False), x, y)
    with pytest.raises(DatadietError, match="no trainable parameter belongs to group 'a'"):
        grand(model, x, y, per={"a": ["nowhere"]})
    with pytest.raises(DatadietError, match="returns shape"):
        grand(model, x, y, forward=lambda m, x: m(x)[:3])
    with pytest.raises(DatadietError, match="the loss returns shape"):
        grand(model, x, y, loss=lambda z, y: F.cross_entropy(z, y, reduction="none")[:2])
    with pytest.raises(DatadietError, match="no torch network"):
        grand(lambda x: x, x, y)  # type: ignore[arg-type]
    assert grand(model, x, y).shape == (6,)


class Overwrites(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x)
        x += 1
        return y


def test_an_input_overwritten_after_use_is_refused() -> None:
    with pytest.raises(DatadietError, match="layer b: its input was overwritten in place"):
        grand(Overwrites(), torch.randn(3, 4), torch.tensor([0, 1, 2]))


def test_a_loader_gives_dataset_order_whatever_it_shuffles() -> None:
    model, (x, y) = network(), data()
    whole = grand(model, x, y)
    rows = TensorDataset(x, y)
    loaders = (
        DataLoader(rows, 4), DataLoader(rows, 4, shuffle=True, drop_last=True), [(x[:2], y[:2]), (x[2:], y[2:])],
        [{"image": x, "label": y}],
    )  # fmt: skip
    for loader in loaders:
        assert error(grand_loader(model, loader), whole) < 1e-12
    assert error(grand_loader(model, DataLoader(Subset(rows, [3, 1]), 2)), whole[[3, 1]]) < 1e-12
    assert error(grand_loader(model, loaders[1], per="layer")["6"], grand(model, x, y, per="layer")["6"]) < 1e-12
    assert grand_loader(model, []).shape == (0,)
    with pytest.raises(DatadietError, match="draws its own choice"):
        grand_loader(model, DataLoader(rows, 2, sampler=SubsetRandomSampler([1, 2])))
    with pytest.raises(DatadietError, match="labels cannot be told"):
        grand_loader(model, [x])
    with pytest.raises(DatadietError, match="has the keys image"):
        grand_loader(model, [{"image": x}])


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(144, dtype=D))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def test_a_loader_whose_generator_is_somebody_elses_too_leaves_it_as_it_was() -> None:
    model, (x, y) = network(), data()
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    found = grand_loader(model, DataLoader(TensorDataset(x, y), 4, generator=generator))
    assert error(found, grand(model, x, y)) < 1e-12
    assert torch.equal(generator.get_state(), before)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(*data(), strict=True))


def test_no_batch_of_a_stream_is_dropped_and_labels_may_be_arrays_and_lists() -> None:
    model, (x, y) = network(), data()
    whole = grand(model, x, y)
    assert error(grand_loader(model, DataLoader(Stream(), 4, drop_last=True)), whole) < 1e-12
    for labels in (y.numpy(), y.tolist()):
        assert error(grand_loader(model, [(x, labels)]), whole) < 1e-12
    with pytest.raises(DatadietError, match="batches have no size of their own"):
        grand_loader(model, DataLoader(TensorDataset(x, y), batch_sampler=[[0, 1], [2]]))


def test_pairs_of_outputs_and_labels_that_broadcast_are_refused() -> None:
    model, x = nn.Linear(3, 1), torch.randn(6, 3)
    each = lambda z, t: (z - t).square()  # noqa: E731
    with pytest.raises(DatadietError, match=r"returns shape \(6, 6\) for 6 examples and \(1, 1\) for one"):
        grand(model, x, torch.randn(6), loss=each)
    with pytest.raises(DatadietError, match="a column for each class"):
        grand(model, x, torch.zeros(6, dtype=torch.int64))
    y = torch.randn(6, 1)
    assert error(grand(model, x, y, loss=each), naive(model, x, y, F.mse_loss)) < 1e-5


def test_losses_of_places_keep_their_own_shapes() -> None:
    model, x, y = nn.Linear(3, 8), torch.randn(4, 3), torch.randint(2, (4, 4))
    each = lambda z, y: F.cross_entropy(z.view(-1, 4, 2).transpose(1, 2), y, reduction="none")  # noqa: E731
    assert error(grand(model, x, y, loss=each), naive(model, x, y, each)) < 1e-5
    whole = lambda z, y: each(z["all"], y)  # noqa: E731
    found = grand(model, x, y, loss=whole, forward=lambda model, x: {"all": model(x)})
    assert error(found, naive(model, x, y, each)) < 1e-5

    class Pair(Dataset):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, i: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            return torch.arange(3.0) + i, (torch.tensor(i % 2), torch.tensor(1 - i % 2))

    two = lambda z, y: F.cross_entropy(z, y[0], reduction="none") + F.cross_entropy(z, y[1], reduction="none")  # noqa: E731
    whole_norms, parts = (grand_loader(model, DataLoader(Pair(), size), loss=two) for size in (5, 2))
    assert error(parts, whole_norms.double()) < 1e-5


def test_a_hook_on_a_weight_is_said_not_to_be_followed(caplog: pytest.LogCaptureFixture) -> None:
    model, (x, y) = network(), data()
    plain = grand(model, x, y)
    model[4].weight.register_hook(lambda gradient: 0 * gradient)
    assert torch.equal(grand(model, x, y), plain)
    assert "the gradient hook on 4.weight is not followed" in caplog.text


def test_a_network_made_under_inference_mode_is_refused_and_left_as_it_was() -> None:
    with torch.inference_mode():
        model = nn.Linear(3, 2)
    with pytest.raises(DatadietError, match=r"made under torch\.inference_mode"):
        grand(model, torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    assert all(p.requires_grad for p in model.parameters())


def test_threads_leave_the_switches_of_the_process_as_they_were() -> None:
    def work(seed: int) -> Tensor:
        torch.manual_seed(seed)
        x = torch.randn(8, 6)
        return grand(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), x, torch.arange(8) % 3)

    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled
    model, (x, y) = network(), data()
    want = naive(model, x, y)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(24)))
        for norms in pool.map(lambda _: grand(model, x, y), range(8)):  # one network in all of them
            assert error(norms, want) < 1e-9
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled) == before


def test_a_rule_of_ones_own() -> None:
    model, (x, y) = network(), data()
    model.insert(4, Gain())
    wanted = naive(model, x, y)
    assert error(grand(model, x, y), wanted) < 1e-9
    seen = []

    def gradients(module: nn.Module, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        seen.append(names)
        return {"gain": g * x}

    register_rule(Gain, Rule(gradients=gradients, names=("gain",)))
    try:
        assert error(grand(copy.deepcopy(model), x, y), wanted) < 1e-9
        assert seen
    finally:
        RULES._entries.pop(f"{Gain.__module__}.{Gain.__qualname__}")
