"""The studies of training dynamics: verdicts both ways, whole runs on tiny data, refusals before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_studies import environments, plan, rehearsed, tiny, world

import datadiet as dd
from datadiet import studies
from datadiet.errors import DatadietError
from datadiet.flows.measures import TrainingGradientNorms
from datadiet.studies import STUDIES
from datadiet.studies.settling import groups_of, spawn_steps
from datadiet.training.recipe import Recipe

Row = dict[str, Any]
ROWS = 700


def kernel_velocity(row: Row, good: bool) -> Row:
    rank, top = row["rank"], row["rank"] == 1
    if row["labels"] == "clean":
        return {"velocity": rank if good else 1 - rank}
    return {"velocity": (0.1 if top else rank) if good else rank}


def connectivity(row: Row, good: bool) -> Row:
    settled = {"lowest": 0, "random": 3, "all": 3, "highest": 6} if good else {"lowest": 6, "random": 3, "highest": 0}
    if row["subset"] == "all":
        value = (0.3 if row["step"] == 0 else 0.0) if good else (0.001 if row["step"] == 0 else 0.4)
    else:
        value = 0.4 if row["step"] < settled[row["subset"]] else 0.0
    return {"error_barrier": value, "loss_barrier": value}


def lmc_scores(row: Row, good: bool) -> Row:
    if good:
        return {
            "lmc": 0.1 + row["rank"], "connected_if_easy": 0.9, "connected_all": 0.7, "connected_if_hard": 0.5,
            "connected": 0.5,
        }  # fmt: skip
    return {
        "lmc": 1 - row["rank"], "connected_if_easy": 0.5, "connected_all": 0.7, "connected_if_hard": 0.02,
        "connected": 0.5,
    }  # fmt: skip


def coherence(row: Row, good: bool) -> Row:
    better = (row["subset"] == "easiest") == good
    if row["what"] == "gradient norms":
        return {"norm": 2.0 if better else 1.0}
    return dict.fromkeys(("test", "train", "easy", "cosine"), 0.8 if better else 0.4)


WORLDS = {
    "kernel-velocity": kernel_velocity, "connectivity": connectivity, "lmc-scores": lmc_scores,
    "coherence": coherence,
}  # fmt: skip


@pytest.mark.parametrize("name", WORLDS)
def test_every_claim_can_hold_and_can_fail(name: str, tmp_path: Path) -> None:
    _, numbers = rehearsed(name, tmp_path, data=tiny(ROWS))
    study = STUDIES.get(name)
    for good, outcome in ((True, "holds"), (False, "does not hold")):
        found = study.judge(world(numbers, lambda row, good=good: WORLDS[name](row, good)))
        assert found
        assert {one.number for one in found} <= set(study.claims)
        for one in found:
            assert one.outcome == outcome, one
    assert not list((tmp_path / "store").rglob("*.safetensors"))


@pytest.mark.parametrize("name", WORLDS)
def test_a_whole_run_on_tiny_data_and_again_from_the_store(name: str, tmp_path: Path) -> None:
    planned = plan(name, tmp_path, data=tiny(ROWS), runs=2, score_runs=2)
    first = studies.execute(planned)
    assert environments(first) == {1}
    assert first.findings.verdicts
    for row in first.findings.numbers:
        assert all(value is None or isinstance(value, (str, int, float, bool)) for value in row.values())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.safetensors")}
    second = studies.execute(plan(name, tmp_path, data=tiny(ROWS), runs=2, score_runs=2))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.safetensors")} == before
    assert repr(second.findings.numbers) == repr(first.findings.numbers)
    assert list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("name", ["kernel-velocity", "connectivity", "coherence"])
def test_too_few_examples_are_refused_before_training(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatadietError, match="examples"):
        plan(name, tmp_path, data=tiny(30))
    assert not (tmp_path / "store").exists()


def images(side: int = 32, rows: int = 3000) -> dd.Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (rows, side, side, 3), np.uint8), np.arange(rows) % 10
    return dd.load(((x, y), (x[:100], y[:100])), name="cifar10")


def test_the_papers_scale_is_the_papers_protocol(tmp_path: Path) -> None:
    """LT Figures 7, 8 and 10: the network and rate of the lottery, steps and looks in steps, not in parts."""
    paper: dict[str, Any] = {"data": images(), "scale": "paper", "recipe": None, "runs": None, "score_runs": None}
    found = plan("coherence", tmp_path, **paper)
    stages = dict(found.stages)
    given = stages["pre-training"].recipe
    assert (given.model, given.lr, given.weight_decay, given.steps) == ("resnet20", 0.4, 1e-4, "62400it")
    assert (stages["scoring"].recipe.lr, stages["scoring"].marks, stages["scoring"].runs) == (0.1, [7800], 10)
    looks = {tuple(sorted({step for step, _ in task.measures})) for _, task in stages["pre-training"].tasks}
    assert looks == {tuple(range(0, 1601, 10)), (0,)}
    measures = [m for _, t in stages["pre-training"].tasks for _, m in t.measures]
    assert {m.steps for m in measures if isinstance(m, TrainingGradientNorms)} == {200}
    found = plan("lmc-scores", tmp_path, **paper)
    scoring = [one for stage, one in found.stages if stage == "scoring"]
    assert [(one.recipe.model, one.recipe.lr, one.marks) for one in scoring] == [
        ("resnet20", 0.1, [400, 800, 1600]), ("resnet20", 0.1, [1600]),
    ]  # fmt: skip
    found = plan("connectivity", tmp_path, **paper)
    parents = next(one for stage, one in found.stages if stage == "parents")
    assert (parents.recipe.model, len(parents.tasks)) == ("resnet18", 4)


def test_runs_that_are_asked_for_are_those_of_lmc_scores_too(tmp_path: Path) -> None:
    for runs, wanted in ((2, 2), (None, 4)):  # the study's own number at quick
        stages = plan("lmc-scores", tmp_path, runs=runs).stages
        assert {len(one.tasks) for stage, one in stages if stage == "scoring"} == {wanted}
        assert {len(one.tasks) for stage, one in stages if stage == "children"} == {3 * wanted}


def test_groups_are_contiguous_and_reach_both_ends() -> None:
    order = np.random.default_rng(0).permutation(103)
    groups = groups_of(order, 5, 10)
    assert np.array_equal(groups[0], order[:10])
    assert np.array_equal(groups[-1], order[-10:])
    starts = [int(np.flatnonzero(order == group[0])[0]) for group in groups]
    assert all(np.array_equal(group, order[s : s + 10]) for group, s in zip(groups, starts, strict=True))
    assert starts == sorted(starts)


def test_spawn_steps_ascend_from_the_start() -> None:
    steps = spawn_steps(Recipe(steps="420it", batch_size=8), 100)
    assert steps[0] == 0
    assert steps == sorted(set(steps))
    assert steps[-1] < 420
