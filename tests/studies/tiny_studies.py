"""A dataset and a recipe on which a study takes a second, and numbers of the shape that a study measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import datadiet as dd
from datadiet import studies
from datadiet.data import Dataset
from datadiet.store import read_json

RECIPE: dict[str, Any] = {
    "model": "mlp",
    "model_args": {"hidden": [16]},
    "batch_size": 16,
    "lr": 0.05,
    "schedule": "cosine",
    "steps": "4ep",
}
OURS = (
    "score-time",
    "pruning-curve",
    "sliding-window",
    "noise",
    "averaging",
    "transfer",
    "agreement",
    "memorization",
    "gallery",
)


def arrays(rows: int = 120, noise: float = 1.2) -> dict[str, np.ndarray]:
    """Noisy copies of three patterns as 6×6 images."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(3, 6, 6))
    found = {}
    for part, count in (("train", rows), ("test", 60)):
        labels = np.arange(count) % 3
        noisy = patterns[labels] + noise * rng.normal(size=(count, 6, 6))
        found[f"x_{part}"] = np.clip(128 + 40 * noisy, 0, 255).astype(np.uint8)
        found[f"y_{part}"] = labels
    return found


def tiny(rows: int = 120) -> Dataset:
    found = arrays(rows)
    return dd.load(((found["x_train"], found["y_train"]), (found["x_test"], found["y_test"])), name="tiny")


def setup(store: Path) -> dd.Setup:
    return dd.Setup(store=store, engine="inline", threads=1, precision="float32", compile="off")


def plan(name: str, folder: Path, **options: Any) -> studies.StudyPlan:
    given: dict[str, Any] = {"recipe": RECIPE, "setup": setup(folder / "store"), "out": folder / "out", "runs": 3}
    data = options.pop("data", None)
    return studies.plan(name, tiny() if data is None else data, **{**given, "score_runs": 4, **options})


def rehearsed(name: str, folder: Path, **options: Any) -> tuple[studies.StudyJob, studies.Numbers]:
    """A job in rehearsal and its made-up numbers: the right shape, no training."""
    planned = plan(name, folder, **options)
    job = replace(planned.job, rehearsal=True, plans=[], _tables={})
    return job, planned.study.measure(job)


def world(numbers: studies.Numbers, change: Callable[[dict[str, Any]], dict[str, Any]]) -> studies.Numbers:
    """The numbers with each row's values replaced, and a little spread between runs."""
    out = []
    for row in numbers:
        spread = 1e-4 * (row.get("run", row.get("group", 0)) % 3)
        changed = {name: value + spread if isinstance(value, float) else value for name, value in change(row).items()}
        out.append({**row, **changed})
    return out


def environments(result: studies.StudyResult) -> set[int]:
    """How many numeric environments the stages of a study name."""
    return {len(stage["numerics"]) for stage in read_json(result.folder / "study.json")["stages"]}
