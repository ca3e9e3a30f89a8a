"""On another device than the CPU nothing is mixed with the CPU's tensors, and the values are the same."""

from __future__ import annotations

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


def same(make: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """What is made on the CPU, and on the device."""
    here = make("here")
    with another_device(monkeypatch):
        return here, make("there")


@pytest.mark.parametrize("model", ["mlp", "small-cnn"])
def test_every_score_of_a_scoring_run_resumed_on_the_way(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {key: value for key, value in RECIPE.items() if key != "model_args"} | {"model": model}

    scores = [name for name in SCORES if name != "lmc" or model == "mlp"]  # its children are trained to the end

    def scored(name: str) -> dd.ScoreTable:
        place = setup(tmp_path / name, resume_every=0.01)
        given = {"recipe": recipe, "scores": scores, "runs": 1, "setup": place}
        dd.score(tiny(), at="1ep", **given)
        return dd.score(tiny(), at=["0", "2ep"], **given)

    here, there = same(scored, monkeypatch)
    assert here.shards.keys() == there.shards.keys()
    for name, step in here.shards:
        np.testing.assert_allclose(there.values(name, step), here.values(name, step), rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("number", range(6), ids=[name for name, *_ in networks()])
def test_gradient_norms_and_kernels_are_where_the_inputs_are(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    _, model, x, classes = networks()[number]
    y = torch.randint(0, classes, (len(x),))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=3)
    norms, kernel = dd.grand(model, x, y), dd.ntk(model, x)
    with another_device(monkeypatch):
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
