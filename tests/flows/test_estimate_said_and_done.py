"""What an estimate says, and what is then really trained and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_flows import RECIPE, setup, tiny

import datadiet as dd
from datadiet.flows import estimate, jobs
from datadiet.flows.compare import execute_compare, plan_compare
from datadiet.flows.connectivity import execute_connectivity, plan_connectivity
from datadiet.flows.execute import run_tasks
from datadiet.flows.jobs import Seen
from datadiet.flows.measures import Accuracies, Errors, GradientCoherence, Kernel, TrainingGradientNorms
from datadiet.flows.plan import Plan, Runs
from datadiet.flows.score import ScorePlan, execute_score, plan_score
from datadiet.flows.tasks import RunTask
from datadiet.scores import SCORES
from datadiet.scores.base import Score
from datadiet.scores.forgetting import Forgetting
from datadiet.training.recipe import Recipe

Stretches = list[tuple[int, int]]
Stages = Sequence[tuple[str, Plan]]
WIDE = Recipe.from_json({**RECIPE, "model_args": {"hidden": [64, 64]}})


@pytest.fixture
def compared(tmp_path: Path, stretches: Stretches, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, int]]:
    """Hold an estimate against what is done: steps are the same, bytes within a twentieth. Gives what was said."""
    monkeypatch.setattr(estimate, "measure", lambda *_: (1e-3, 1e-6))
    store = tmp_path / "store"

    def size() -> int:
        return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())

    def compare(stages: Stages, do: Callable[[], object]) -> tuple[int, int]:
        costs = [cost for _, cost in estimate.estimates(stages)]
        steps, disk = sum(cost.steps for cost in costs), sum(cost.disk_bytes for cost in costs)
        before = size()
        stretches.clear()
        do()
        assert steps == sum(last - first for first, last in stretches)
        assert disk == pytest.approx(size() - before, rel=0.05)
        stretches.clear()
        assert all((cost.jobs, cost.steps, cost.disk_bytes) == (0, 0, 0) for _, cost in estimate.estimates(stages))
        return steps, disk

    return compare


def scoring(tmp_path: Path, *at: str, scores: Sequence[str] = ("el2n",), recipe: Any = RECIPE) -> ScorePlan:
    return plan_score(tiny(), scores=scores, runs=2, at=at, recipe=recipe, setup=setup(tmp_path / "store"))


def planned(plan: ScorePlan, tasks: list[tuple[str, RunTask]]) -> Runs:
    return Runs(plan.data, plan.recipe, plan.network, plan.numerics, plan.setup, tasks)


# ----------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("there", "asked", "steps"),
    [
        (["4ep"], ["1ep", "2ep", "4ep"], 2 * 14),  # what lies between is trained again
        (["4ep"], ["0", "4ep"], 0),
        (["2ep"], ["1ep", "4ep"], 2 * 28),  # from the beginning, since the first mark lies before what is there
        (["2ep"], ["2ep", "3ep"], 2 * 7),
        (["1ep", "2ep"], ["2ep"], 0),
    ],
)
def test_the_steps_are_those_from_before_the_first_missing_mark(
    tmp_path: Path, compared: Any, there: list[str], asked: list[str], steps: int
) -> None:
    execute_score(scoring(tmp_path, *there))
    plan = scoring(tmp_path, *asked, scores=["el2n", "loss"])
    assert compared(plan.stages(), lambda: execute_score(plan))[0] == steps


@pytest.mark.parametrize(
    ("several", "steps"),
    [
        ([["4ep"], ["1ep", "2ep"]], 2 * (28 + 14)),
        ([["1ep"], ["4ep"], ["2ep"]], 2 * (7 + 21 + 7)),
        ([["4ep"], ["4ep"]], 2 * 28),
    ],
)
def test_a_stage_that_comes_back_for_an_earlier_step_trains_again(
    tmp_path: Path, compared: Any, several: list[list[str]], steps: int
) -> None:
    plans = [scoring(tmp_path, *at) for at in several]
    stages = [stage for plan in plans for stage in plan.stages()]
    assert compared(stages, lambda: [execute_score(plan) for plan in plans])[0] == steps


def test_a_killed_run_is_said_to_go_on_from_its_resume_point(
    tmp_path: Path, stretches: Stretches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "measure", lambda *_: (1e-3, 1e-6))
    place = setup(tmp_path / "store", resume_every=1e-9)
    plan = plan_compare(tiny(), {}, runs=1, recipe=WIDE, baselines=["full"], setup=place)
    real = jobs.train

    def killed(moment: Any, stop: int, **options: Any) -> None:
        if moment.step >= 25:
            raise RuntimeError("killed")
        real(moment, stop, **options)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train", killed)
        with pytest.raises(dd.DatadietError):
            execute_compare(plan)
    stages = [("retraining", plan)]
    ((_, cost),) = estimate.estimates(stages)
    assert cost.steps == 3
    stretches.clear()
    execute_compare(plan)
    assert sum(last - first for first, last in stretches) == 3


class Visits(Forgetting):
    """A trajectory score of how often an example was seen."""

    def result(self) -> dict[str, torch.Tensor]:
        return {"visits": self.visits.float()}


def test_a_trajectory_score_registered_later_is_said_to_replay_the_run(
    tmp_path: Path, compared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute_score(scoring(tmp_path, "2ep", recipe=WIDE))
    entry = Score("visits", "trajectory", Visits, "higher", "How often an example was seen.")
    monkeypatch.setitem(SCORES._entries, "visits", entry)
    onwards = scoring(tmp_path, "3ep", recipe=WIDE)
    assert compared(onwards.stages(), lambda: execute_score(onwards))[0] == 2 * 7
    # No state that is there has followed it, and those at 2ep and 3ep are replaced by such as have.
    again = scoring(tmp_path, "2ep", "3ep", "4ep", scores=["visits"], recipe=WIDE)
    assert compared(again.stages(), lambda: execute_score(again))[0] == 2 * 28


class Plain(Forgetting):
    """A trajectory score that keeps what is no tensor."""

    def state(self) -> dict[str, Any]:
        return {"visits": self.visits.numpy()}


def test_a_state_that_cannot_be_kept_is_said_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES._entries, "plain", Score("plain", "trajectory", Plain, "higher", "An array."))
    plan = scoring(tmp_path, "1ep", scores=["plain"], recipe=WIDE)
    for call in (lambda: estimate.estimates(plan.stages()), lambda: execute_score(plan)):
        with pytest.raises(
            dd.DatadietError, match=r"the state of plain has 'visits' as ndarray.*; give a dict of tensors"
        ):
            call()


def test_the_steps_of_runs_and_their_children_are_exact(tmp_path: Path, compared: Any) -> None:
    plan = plan_connectivity(
        tiny(), at=["0", "5it", "1ep"], until="3ep", children=3, recipe=WIDE, setup=setup(tmp_path / "store")
    )
    grown, scored = plan.families, plan.scoring
    runs = [planned(scored, grown.parents), replace(planned(scored, grown.children), paths=list(grown.paths.values()))]
    steps, _ = compared(
        [("parents", runs[0]), ("children", runs[1])], lambda: execute_connectivity(plan)
    )  # fmt: skip
    assert steps == 21 + 2 * (21 + 16 + 14)


# ------------------------------------------------------------------------------------------------ disk


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_checkpoints_hold_what_their_optimiser_has(
    tmp_path: Path, compared: Any, optimizer: str, momentum: float
) -> None:
    recipe = WIDE.with_(optimizer=optimizer, momentum=momentum, nesterov=False, lr=0.01)
    plan = scoring(tmp_path, "0", "1ep", scores=["el2n", "grand", "forgetting"], recipe=recipe)
    compared(plan.stages(), lambda: execute_score(plan))


def test_what_is_there_takes_no_room_again(tmp_path: Path, compared: Any) -> None:
    first = scoring(tmp_path, "1ep", "2ep", recipe=WIDE)
    _, whole = compared(first.stages(), lambda: execute_score(first))
    second = scoring(tmp_path, "1ep", "2ep", scores=["el2n", "loss"], recipe=WIDE)
    _, more = compared(second.stages(), lambda: execute_score(second))
    assert more < whole / 10


def test_runs_that_are_not_scored_follow_no_example(tmp_path: Path, compared: Any) -> None:
    data = tiny(rows=2000)
    plan = plan_compare(data, {}, runs=2, recipe=RECIPE, baselines=["full"], setup=setup(tmp_path / "store"))
    kept = [(label, replace(task, keep=(7, 28))) for label, task in plan.tasks]
    plan = replace(plan, groups=[(*group[:3], kept) for group in plan.groups])
    _, disk = compared([("retraining", plan)], lambda: execute_compare(plan))
    assert disk < 2 * 2 * 40_000


def test_every_stage_of_the_same_runs_counts(tmp_path: Path, compared: Any) -> None:
    plan = plan_compare(tiny(), {}, runs=2, recipe=WIDE, baselines=["full"], setup=setup(tmp_path / "store"))
    stops = [
        replace(plan, until=until, groups=[
            (*group[:3], [(label, replace(task, until=until, keep=(until,))) for label, task in group[3]])
            for group in plan.groups
        ])
        for until in (7, 14, 28)
    ]  # fmt: skip
    stages = [("retraining", one) for one in stops]
    steps, _ = compared(stages, lambda: [execute_compare(one) for one in stops])
    assert steps == 2 * 28


def test_losses_between_networks_count(tmp_path: Path, compared: Any) -> None:
    data = tiny(rows=1500)
    plan = plan_score(data, scores=["lmc"], runs=1, at="1ep", recipe=RECIPE, setup=setup(tmp_path / "store"))
    compared(plan.stages(), lambda: execute_score(plan))


MEASURES = [
    Kernel(np.arange(30)), GradientCoherence(np.arange(40), 5, 8), TrainingGradientNorms(6), Accuracies(), Errors(),
]  # fmt: skip


@pytest.mark.parametrize("measure", MEASURES, ids=lambda one: type(one).__name__)
def test_a_measure_says_how_large_its_arrays_are(tmp_path: Path, measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, plan, found = tiny(), scoring(tmp_path, "1ep"), []
    label, task = plan.tasks[0]
    real = type(measure).take

    def take(self: Any, seen: Seen) -> dict[str, np.ndarray]:
        found.append(real(self, seen))
        return found[-1]

    monkeypatch.setattr(type(measure), "take", take)
    asked = replace(task, marks=(), scores=(), measures=((3, measure),), until=3)
    run_tasks([(label, asked)], data, plan.setup)
    (arrays,) = found
    assert measure.bytes(data) == sum(array.nbytes for array in arrays.values())


def test_measures_and_the_checkpoints_of_their_steps_count(tmp_path: Path, compared: Any) -> None:
    plan = scoring(tmp_path, "1ep")
    kernels = [(step, Kernel(np.arange(first, first + 30))) for step in (7, 14) for first in (0, 40, 80)]
    tasks = [
        (label, replace(task, marks=(), scores=(), measures=tuple(kernels), until=14)) for label, task in plan.tasks
    ]
    runs = planned(plan, tasks)
    steps, disk = compared(
        [("scoring", plan), ("kernels", runs)],
        lambda: (execute_score(plan), run_tasks(tasks, plan.data, plan.setup)),
    )
    assert steps == 2 * 14
    assert disk > 2 * 6 * 4 * (30 * 3) ** 2
