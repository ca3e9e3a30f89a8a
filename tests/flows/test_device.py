"""On another device than the CPU nothing is mixed with the CPU's tensors, and the values are the same."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretend import DEVICE, Elsewhere, Mixed, another_device
from tiny_flows import RECIPE, setup, tiny
from torch import Tensor, nn

import datadiet as dd
from datadiet.dynamics.coherence import batch_gradients, coherence
from datadiet.dynamics.connectivity import linear_path
from datadiet.dynamics.kernel import kernel_velocity
from datadiet.errors import DatadietError
from datadiet.lottery import find_tickets
from datadiet.scores import SCORES


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with another_device(monkeypatch):
        yield


def test_the_device_computes_and_refuses_what_a_gpu_would(elsewhere: None) -> None:
    a, b = torch.arange(6.0).reshape(2, 3).to(DEVICE), torch.ones(3)
    assert isinstance(a, Elsewhere)
    assert a.device == DEVICE
    assert (a @ a.T).cpu().tolist() == [[5, 14], [14, 50]]
    assert float((a + 1).sum()) == 21
    assert a[torch.tensor([1])].cpu().tolist() == [[3, 4, 5]], "a CPU index may select"
    index = torch.tensor([1])
    for wrong in (lambda: a + b, lambda: b[index.to(DEVICE)], lambda: a.index_select(0, index)):
        with pytest.raises(Mixed):
            wrong()
    with pytest.raises((RuntimeError, TypeError)):
        a.numpy()
    with pytest.raises(Mixed, match="generator"):
        torch.rand(3, device=DEVICE, generator=torch.Generator())


def same(make: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, *, wide: bool = True) -> tuple[Any, Any]:
    """What is made on the CPU, and on the device."""
    here = make("here")
    with another_device(monkeypatch, wide=wide):
        return here, make("there")


@pytest.mark.parametrize(("model", "wide"), [("mlp", True), ("small-cnn", False)])
def test_every_score_of_a_scoring_run_resumed_on_the_way(
    model: str, wide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {key: value for key, value in RECIPE.items() if key != "model_args"} | {"model": model}

    scores = [name for name in SCORES if name != "lmc" or model == "mlp"]  # its children are trained to the end

    def scored(name: str) -> dd.ScoreTable:
        place = setup(tmp_path / name, resume_every=0.01)
        given = {"recipe": recipe, "scores": scores, "runs": 1, "setup": place}
        dd.score(tiny(), at="1ep", **given)
        return dd.score(tiny(), at=["0", "2ep"], **given)

    here, there = same(scored, monkeypatch, wide=wide)
    assert here.shards.keys() == there.shards.keys()
    for name, step in here.shards:
        np.testing.assert_allclose(
            there.values(name, step), here.values(name, step), rtol=1e-5, atol=1e-6 if wide else 1e-5
        )


def test_retraining_and_a_lottery_with_its_instruments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def done(name: str) -> Any:
        given = {"recipe": RECIPE, "setup": setup(tmp_path / name)}
        compared = dd.compare(tiny(), {"some": np.arange(40)}, runs=1, **given)
        (found,) = find_tickets(
            tiny(), pretrain=["easiest:30@4"], levels=1, replicates=1, score_runs=1,
            instruments=["barrier", "coherence", "errors"], **given,
        ).outcomes.values()  # fmt: skip
        return [row.accuracies for row in compared.rows], found.accuracy, found.barriers, found.cosines

    here, there = same(done, monkeypatch)
    assert here[0] == there[0]
    for one, other in zip(here[1:], there[1:], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


class Text(nn.Module):
    """Embedding, attention, normalisation, tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).mean(1))


class Odd(nn.Module):
    """A weight that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.head = nn.Parameter(torch.randn(6)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(x * self.gain))


def networks() -> list[tuple[str, nn.Module, Tensor, int]]:
    image = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.GroupNorm(2, 6), nn.PReLU(6), nn.Conv2d(6, 8, 3, stride=2),
        nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2), nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip
    signal = nn.Sequential(
        nn.Conv1d(3, 6, 3, padding=1), nn.InstanceNorm1d(6, affine=True), nn.Conv1d(6, 6, 3, groups=6), nn.Flatten(),
        nn.Linear(42, 4),
    )  # fmt: skip
    tokens = torch.randint(1, 20, (7, 5))
    return [
        ("text", Text(), tokens, 20), ("image", image, torch.randn(7, 3, 8, 8), 4),
        ("signal", signal, torch.randn(7, 3, 9), 4), ("odd", Odd(), torch.randn(7, 6), 4),
        ("bag", nn.Sequential(nn.EmbeddingBag(20, 6), nn.Linear(6, 4)), tokens, 4),
        ("table", nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)), torch.randn(7, 6), 4),
    ]  # fmt: skip


@pytest.mark.parametrize("wide", [True, False], ids=["", "no float64"])
@pytest.mark.parametrize("number", range(6), ids=[name for name, *_ in networks()])
def test_gradient_norms_and_kernels_are_where_the_inputs_are(
    number: int, wide: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "datadiet.gradients.planned")
    torch.manual_seed(0)
    _, model, x, classes = networks()[number]
    y = torch.randint(0, classes, (len(x),))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=3)
    norms, kernel = dd.grand(model, x, y), dd.ntk(model, x)
    with another_device(monkeypatch, wide=wide):
        model, x, y = model.to(DEVICE), x.to(DEVICE), y.to(DEVICE)
        found = dd.grand(model, x, y, check=True)
        assert found.device == DEVICE
        torch.testing.assert_close(found.cpu(), norms, rtol=1e-4, atol=1e-6)
        parts = dd.grand(model, x, y, per="layer").values()
        torch.testing.assert_close(torch.stack([p.cpu() for p in parts]).square().sum(0).sqrt(), norms)
        gram = dd.ntk(model, x)
        assert gram.device == DEVICE
        torch.testing.assert_close(gram.cpu(), kernel, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(dd.grand_loader(model, loader), norms, rtol=1e-4, atol=1e-6)
    assert "not proven" not in caplog.text, "what the proof runs into there is no error, and leaves the plan unproven"


def small() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)), torch.randn(7, 6), torch.arange(7) % 4


@pytest.mark.parametrize("wide", [True, False], ids=["", "no float64"])
def test_instruments_and_a_watch_of_networks_there(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(device: torch.device | str) -> list[Any]:
        model, x, y = (one.to(device) for one in small())
        after = copy.deepcopy(model)
        with torch.no_grad():
            after[2].bias.add_(0.5)
            after[0].weight.mul_(1.5)
        agreed = coherence(batch_gradients(model, [(x, y), (x[:3], y[:3])]))
        watch = dd.Watch(len(x), device=device)
        watch.update(np.arange(7), model(x), y.cpu())
        watch.load({key: value.cpu() for key, value in watch.state().items()})
        paths = [linear_path(model, after, x, labels, [0.25, 0.5]).loss for labels in (y, y.cpu(), y.cpu().numpy())]
        kernels = dd.ntk(model, x), dd.ntk(after, x)
        return [
            kernel_velocity(*kernels), agreed.cosines.cpu(), agreed.norms.cpu(), *paths, *watch.result().values()
        ]  # fmt: skip

    here = measured("cpu")
    with another_device(monkeypatch, wide=wide):
        there = measured(DEVICE)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


def test_scores_and_labels_there_choose_what_they_choose_here(elsewhere: None) -> None:
    values, labels = torch.rand(60), torch.arange(60) % 3
    for policy in ("hardest", "random"):
        here = dd.select(values, keep=0.4, policy=policy, labels=labels, balanced=True)
        there = dd.select(values.to(DEVICE), keep=0.4, policy=policy, labels=labels.to(DEVICE), balanced=True)
        assert np.array_equal(here.indices, there.indices)


def test_labels_that_were_left_behind_are_named(elsewhere: None) -> None:
    model, x, y = small()
    model.to(DEVICE)
    for labels in (y, nn.functional.one_hot(y, 4).float()):
        with pytest.raises(DatadietError, match="labels: labels on cpu, outputs on meta; move them to one device"):
            dd.grand(model, x.to(DEVICE), labels)


def test_a_loader_is_read_where_the_device_is_the_process_s_default(elsewhere: None) -> None:
    model, x, y = small()
    norms = dd.grand(model, x, y)
    data = torch.utils.data.TensorDataset(x, y)
    loaders = [torch.utils.data.DataLoader(data, 3, shuffle=shuffle, drop_last=shuffle) for shuffle in (False, True)]
    with DEVICE:  # its draws are none of the CPU's generator
        for loader in loaders:
            torch.testing.assert_close(dd.grand_loader(model.to(DEVICE), loader), norms, rtol=1e-4, atol=1e-6)


class Mixing(nn.Sequential):
    """Takes the mean of all examples off each."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out - out.mean(0)


def test_a_plan_is_proven_where_the_device_is_the_process_s_default(
    elsewhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "datadiet.gradients.planned")
    _, x, y = small()
    for place in (torch.device("cpu"), DEVICE):
        mixing, plain = Mixing(nn.Linear(6, 4)).to(place), nn.Sequential(nn.Linear(6, 4)).to(place)
        with DEVICE:
            with pytest.raises(DatadietError, match="the network mixes examples"):
                dd.grand(mixing, x.to(place), y.to(place))
            assert dd.ntk(plain, x.to(place)).device == place
    assert "not proven" not in caplog.text
