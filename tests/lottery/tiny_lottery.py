"""A dataset, a recipe and a network with batch norm on which a lottery takes seconds, and looks into its store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import datadiet as dd
from datadiet import models
from datadiet.data import Dataset
from datadiet.data.batches import Batches
from datadiet.lottery import Mask
from datadiet.store import Store
from datadiet.store.runs import RunFolder
from datadiet.training.checkpoint import part

RECIPE: dict[str, Any] = {
    "model": "small-cnn",
    "model_args": {"width": 3},
    "batch_size": 16,
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup": "0",
    "steps": "4ep",
    "pad": 1,
    "flip": True,
}
INSTRUMENTS = ["barrier", "coherence", "errors"]
START = 6
UNTIL = 28  # 120 examples in batches of 16, four times
Stretches = list[tuple[int, int]]


def arrays(counts: tuple[int, ...] = (40, 40, 40), seed: int = 0) -> dict[str, np.ndarray]:
    """Noisy copies of one pattern a class, in no order."""
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(len(counts), 6, 6))
    found = {}
    for which, labels in (
        ("train", rng.permutation(np.repeat(np.arange(len(counts)), counts))),
        ("test", np.arange(60) % len(counts)),
    ):
        noisy = patterns[labels] + 1.2 * rng.normal(size=(len(labels), 6, 6))
        found[f"x_{which}"] = np.clip(128 + 40 * noisy, 0, 255).astype(np.uint8)
        found[f"y_{which}"] = labels
    return found


def tiny(**options: Any) -> Dataset:
    found = arrays(**options)
    return dd.load(((found["x_train"], found["y_train"]), (found["x_test"], found["y_test"])), name="tiny")


def options(store: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of `find_tickets`: two replicates of two levels from random examples."""
    setup = {"store": store, "engine": "inline", "threads": 1, "precision": "float32", "compile": "off"}
    usual: dict[str, Any] = {"pretrain": ["random:48@6"], "levels": 2, "replicates": 2, "score_runs": 2}
    return {**usual, "recipe": RECIPE, "setup": {**setup, **changes.pop("setup", {})}, **changes}


def runs(store: Path, purpose: str) -> Iterator[tuple[dict[str, Any], RunFolder]]:
    """Each run of a purpose, as (its spec, its folder)."""
    for name in Store(store).runs():
        folder = Store(store).run(name)
        spec = folder.spec() or {}
        if spec.get("purpose", "score" if "recipe" in spec else "path") == purpose:
            yield spec, folder


def one_run(store: Path, purpose: str, run: int = 0) -> tuple[dict[str, Any], RunFolder]:
    (found,) = [pair for pair in runs(store, purpose) if pair[0].get("run", 0) == run]
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def weights_at(store: Path, purpose: str, step: int, run: int = 0) -> dict[str, torch.Tensor]:
    point = one_run(store, purpose, run)[1].load_checkpoint(step)
    assert point is not None, f"{purpose} keeps its state at step {step}"
    return part(point.tensors, "model/")


def net_of(weights: dict[str, torch.Tensor], mask: Mask | None = None) -> nn.Module:
    """The tiny network with these weights, those that are gone at 0."""
    net = models.build(RECIPE["model"], (1, 6, 6), 3, seed=5, **RECIPE["model_args"])
    net.load_state_dict(weights)
    if mask is not None:
        with torch.no_grad():
            for name, tensor in mask.tensors.items():
                net.get_parameter(name).mul_(torch.from_numpy(tensor).float())
    return net


def logits_of(net: nn.Module, data: dd.Dataset, examples: Any = None) -> np.ndarray:
    batches = Batches(examples or data.train, data)
    net.eval()
    with torch.no_grad():
        return net(batches.inputs(torch.arange(len(batches)))).double().numpy()


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())


def distance(net: nn.Module, weights: dict[str, torch.Tensor]) -> float:
    return max(float((t - weights[name]).abs().max()) for name, t in net.state_dict().items() if t.is_floating_point())


def fewer(count: int) -> int:
    """A fifth less, rounded up."""
    return count - -(-count // 5)
