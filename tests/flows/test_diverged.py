"""A run whose loss is no longer a number ends with its step, and takes no other with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_flows import RECIPE, results, setup, tiny

import datadiet as dd
from datadiet import models
from datadiet.errors import Diverged
from datadiet.seeds import torch_seed

SCORING = {"recipe": RECIPE, "scores": ["el2n"], "runs": 3, "at": "2ep"}


def test_a_learning_rate_that_is_far_too_high_names_the_step_and_the_run(tmp_path: Path) -> None:
    wild = {**RECIPE, "lr": 1e30, "schedule": "constant"}
    with pytest.raises(Diverged, match=r"^scoring run 0: the loss is not finite at step \d+ \(3 of 3 runs failed\); "):
        dd.score(tiny(), setup=setup(tmp_path / "store"), out=tmp_path / "out", **{**SCORING, "recipe": wild})
    assert results(tmp_path / "store") == {}
    assert not (tmp_path / "out").exists()


def test_weights_that_the_last_step_blew_up_are_not_scored(tmp_path: Path) -> None:
    wild = {**RECIPE, "lr": 1e38, "momentum": 0.0, "nesterov": False, "schedule": "constant"}
    with pytest.raises(Diverged, match="the network's outputs are not finite at step 1"):
        dd.score(tiny(), setup=setup(tmp_path / "store"), **{**SCORING, "recipe": wild, "runs": 1, "at": "1it"})
    assert results(tmp_path / "store") == {}
    with pytest.raises(Diverged, match="not finite at step 1"):
        dd.compare(
            tiny(), {}, runs=1, recipe={**wild, "steps": "1it"}, baselines=("full",), setup=setup(tmp_path / "store")
        )


def test_the_other_runs_are_kept_and_the_next_command_trains_only_the_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretches: list[tuple[int, int]]
) -> None:
    poisoned = torch_seed(0, "score", 1, "init")
    real = models.build_with

    def build(*arguments: Any, seed: int, **options: Any) -> torch.nn.Module:
        model = real(*arguments, seed=seed, **options)
        if seed == poisoned:
            with torch.no_grad():
                next(model.parameters()).mul_(float("nan"))
        return model

    monkeypatch.setattr(models, "build_with", build)
    message = r"scoring run 1: the loss is not finite at step 1; .*; the other 2 runs are done and kept$"
    with pytest.raises(Diverged, match=message):
        dd.score(tiny(), setup=setup(tmp_path / "store"), out=tmp_path / "out", **SCORING)
    assert len(results(tmp_path / "store")) == 2
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(models, "build_with", real)
    stretches.clear()
    table = dd.score(tiny(), setup=setup(tmp_path / "store"), **SCORING)
    assert stretches == [(0, 14)]
    assert table.runs == 3
