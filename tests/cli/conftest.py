"""A folder to work in, with the dataset, a recipe, and a scoring that was made once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_cli import FLAGS, RECIPE, arrays, ok


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    np.savez(folder / "tiny.npz", **arrays())
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        scores = ("--score", "el2n", "--score", "forgetting", "--at", "1ep", "--at", "3ep")
        ok("score", "tiny.npz", *FLAGS, *scores, "--runs", 2, "-o", "scores")
    return folder


@pytest.fixture
def place(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working directory."""
    folder = tmp_path / "place"
    shutil.copytree(scored, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when anything is trained."""
    from datadiet.flows import jobs

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this must not train")

    monkeypatch.setattr(jobs, "train", refuse)
