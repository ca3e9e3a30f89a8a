"""The command line called in this process, on a dataset of 120 small images."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.cli import main

RECIPE: dict[str, Any] = {
    "model": "mlp",
    "model_args": {"hidden": [16]},
    "batch_size": 16,
    "lr": 0.05,
    "steps": "4ep",
}
FLAGS = ("--recipe", "recipe.json", "--engine", "inline", "--threads", "1", "--precision", "float32")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The whole of standard output, as strict JSON."""

        def refuse(word: str) -> None:
            raise ValueError(f"{word} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


def cli(*words: object) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Ended(code, out.getvalue(), err.getvalue())


def ok(*words: object) -> Ended:
    ended = cli(*words)
    assert ended.code == 0, ended.err
    return ended


def arrays(sort: bool = False, classes: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(classes, 6, 6))
    found = {}
    for part, count in (("train", 120), ("test", 60)):
        labels = np.arange(count) % classes
        labels = np.sort(labels) if sort else labels
        noisy = patterns[labels] + 1.2 * rng.normal(size=(count, 6, 6))
        found[f"x_{part}"] = np.clip(128 + 40 * noisy, 0, 255).astype(np.uint8)
        found[f"y_{part}"] = labels
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def refused(place: Path, *words: object) -> str:
    """The one line of a command that is refused and leaves every file as it was."""
    before = files(place)
    ended = cli(*words)
    assert ended.code == 2, (ended.out, ended.err)
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert files(place) == before
    return line
