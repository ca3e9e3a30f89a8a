"""Lotteries that several files look at, each made once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_lottery import INSTRUMENTS, Stretches, options, tiny

from datadiet.flows import jobs
from datadiet.lottery import Lottery, find_tickets


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> Stretches:
    """Every call of the training loop in this process, as (first step, last step)."""
    seen: Stretches = []
    real = jobs.train

    def spy(moment: Any, stop: int, **options: Any) -> None:
        before = moment.step
        real(moment, stop, **options)
        seen.append((before, moment.step))

    monkeypatch.setattr(jobs, "train", spy)
    return seen


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lottery, Path]:
    """A lottery with every instrument, made in one go, and its folder (store, out)."""
    folder = tmp_path_factory.mktemp("straight")
    result = find_tickets(tiny(), out=folder / "out", **options(folder / "store", instruments=INSTRUMENTS))
    return result, folder


@pytest.fixture
def copied(straight: tuple[Lottery, Path], tmp_path: Path) -> Path:
    """A copy of its store."""
    shutil.copytree(straight[1] / "store", tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lottery, Path]:
    store = tmp_path_factory.mktemp("noisy")
    given = options(store, pretrain=["easiest:48@6", "random:48@6"], levels=1, noise="redraw:0.5", noise_seed=3)
    return find_tickets(tiny(), **given, instruments=["errors"]), store
