"""A dataset and a recipe so small that a whole scoring takes a fraction of a second, and looks into a store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import datadiet as dd
from datadiet.data import Dataset

RECIPE: dict[str, Any] = {
    "model": "mlp",
    "model_args": {"hidden": [16]},
    "batch_size": 16,
    "lr": 0.05,
    "schedule": "cosine",
    "steps": "4ep",
    "pad": 1,
    "flip": True,
}
PER_EPOCH = 7  # 120 examples in batches of 16


def arrays(rows: int = 120, seed: int = 0, sort: bool = False) -> tuple[Any, Any]:
    """Noisy copies of three patterns, as ((x, y), (x_test, y_test)); the test part does not depend on `rows`."""
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(3, 6, 6))

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 3
        labels = np.sort(labels) if sort else labels
        noisy = patterns[labels] + 1.2 * rng.normal(size=(count, 6, 6))
        return np.clip(128 + 40 * noisy, 0, 255).astype(np.uint8), labels

    test = part(60)
    return part(rows), test


def tiny(**options: Any) -> Dataset:
    return dd.load(arrays(**options), name="tiny")


def save_npz(path: Path, **options: Any) -> Path:
    (x, y), (x_test, y_test) = arrays(**options)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return path


def setup(store: Path, **changes: Any) -> dd.Setup:
    fixed: dict[str, Any] = {"engine": "inline", "threads": 1, "precision": "float32", "compile": "off"}
    return dd.Setup(store=store, **{**fixed, **changes})


def results(store: Path) -> dict[str, bytes]:
    """Every shard and evaluation of a store, by its place."""
    found = {}
    for kind in ("shards/*.safetensors", "evaluations/*.json"):
        found.update({str(f.relative_to(store)): f.read_bytes() for f in sorted(store.glob(f"??/*/{kind}"))})
    return found


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A Python of this environment, alone in its process group, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        **options,
    )
