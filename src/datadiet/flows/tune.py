"""Choosing a window's two numbers on a validation split, then testing the choice once.

The validation examples are cut from the training data before anything is scored: the grid is judged with scores, and
networks, that never saw them. Their labels are as noisy as the training labels. What is chosen are two fractions; they
are applied to the scores of the whole training set, and the network retrained there is tested once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

import datadiet.data as data_room
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.flows.arguments import RUNS, several, whole
from datadiet.flows.compare import ComparePlan, Comparison, Row, execute_compare, percent, plan_compare, results
from datadiet.flows.execute import OnProgress, kept_engines
from datadiet.flows.plan import Plan, Setup
from datadiet.flows.rehearsal import all_done, made_up_scores, quiet, rehearsed_scores
from datadiet.flows.score import ScorePlan, check_ranking, execute_score, plan_score
from datadiet.flows.select import select
from datadiet.scores import ScoreTable, load_table
from datadiet.selection import Subset
from datadiet.selection.balance import largest_offset
from datadiet.selection.counts import fraction
from datadiet.steps import Step
from datadiet.training.recipe import Recipe

OFFSET_STEP = 0.1


@dataclass(frozen=True)
class Tuned:
    """A tuned window: the grid with its validation accuracies, the choice, and its test where one was made."""

    keep: float
    offset: float
    grid: tuple[tuple[float, float, Row], ...]  # keep, offset, validation accuracies
    validation_examples: int
    subset: Subset
    test: Comparison | None

    def to_json(self) -> dict[str, Any]:
        return {
            "what": "tuned window",
            "by": self.subset.policy.get("by"),
            "keep": self.keep,
            "offset": self.offset,
            "validation_examples": self.validation_examples,
            "grid": [
                {**asdict(row), "keep": keep, "offset": offset, "mean": row.mean} for keep, offset, row in self.grid
            ],
            "test": None if self.test is None else self.test.to_json(),
        }


@dataclass(frozen=True)
class TunePlan:
    """Everything that tuning a window is, before a step of it is taken.

    Args:
        data: what the window is for.
        by: the score that ranks, taken of `data` at step `at`.
        scoring: of the training data that the validation split leaves, at the same part of training.
        grid: (keep, offset) of the windows that are tried.
        runs: training runs of each.
        test_runs: of the choice, full data and random; 0 for no test.
    """

    data: Dataset
    by: str
    at: int
    scoring: ScorePlan
    grid: tuple[tuple[float, float], ...]
    balanced: bool
    runs: int
    test_runs: int

    @property
    def validation(self) -> int:
        """How many examples the windows are judged on."""
        return len(self.scoring.data.validation or ())

    def judging(self, scored: ScoreTable) -> ComparePlan:
        """Retraining on each window of what the cut left, for its validation accuracy."""
        subsets = {_name(keep, offset): self.window(scored, keep, offset) for keep, offset in self.grid}
        return self._retraining(
            self.scoring.data, subsets, runs=self.runs, baselines=(), split="validation", purpose="tune"
        )

    def best(self, judged: Comparison) -> tuple[float, float]:
        """The keep and offset of the best mean; between equals the larger subset, then the harder window."""
        return max(self.grid, key=lambda point: (judged[_name(*point)].mean, *point))

    def choice(self, table: ScoreTable, keep: float, offset: float) -> Subset:
        """The window of the whole training set."""
        chosen = self.window(table, keep, offset, at=f"{self.at}it")
        return replace(chosen, policy={**chosen.policy, "tuned": {"validation": self.validation, "runs": self.runs}})

    def testing(self, chosen: Subset, keep: float, offset: float) -> ComparePlan | None:
        """Retraining on the choice, for its test accuracy; None where there is nothing to test on."""
        if not self.test_runs or self.data.test is None:
            return None
        baselines = ("full", "balanced-random" if self.balanced else "random")
        return self._retraining(self.data, {tuned_name(keep, offset): chosen}, runs=self.test_runs, baselines=baselines)

    def stages(self, table: ScoreTable) -> list[tuple[str, Plan]]:
        """What will be trained; which window is tested is only known once all are judged."""
        with quiet():
            judging = self.judging(rehearsed_scores(self.scoring))
            chosen = self.best(results(judging)) if all_done(judging) else self.grid[len(self.grid) // 2]
            testing = self.testing(self.choice(table, *chosen), *chosen)
        out: list[tuple[str, Plan]] = [(f"{stage}, cut", one) for stage, one in self.scoring.stages()]
        out.append(("windows", judging))
        return out if testing is None else [*out, ("tuned window", testing)]

    def window(self, table: ScoreTable, keep: float, offset: float, at: str | None = None) -> Subset:
        return select(
            table, self.by, keep, "window", at=at, offset=offset, balanced=self.balanced, seed=self.scoring.seed
        )

    def _retraining(self, data: Dataset, subsets: Mapping[str, Subset], **options: Any) -> ComparePlan:
        scoring = self.scoring
        return plan_compare(data, subsets, recipe=scoring.recipe, seed=scoring.seed, setup=scoring.setup, **options)


def plan_tune(
    data: Any,
    by: str,
    at: int,
    recipe: Recipe,
    *,
    score_runs: int,
    keeps: Sequence[float] = (0.5,),
    offsets: Sequence[float] | None = None,
    balanced: bool = False,
    validation: float = 0.2,
    runs: int = 4,
    test_runs: int = 4,
    seed: int = 0,
    setup: Setup | Mapping[str, Any] | None = None,
) -> TunePlan:
    """Resolve and check all that tuning was asked, and train nothing.

    Args:
        at: the step at which `data` is scored.
        recipe: of every run.
        score_runs: scoring runs of the data that the validation split leaves.

    The others are those of `tune_window`.
    """
    data = data_room.load(data)
    cut = data if data.validation is not None else data.with_validation(validation, seed)
    # The same part of training: fewer examples make shorter epochs.
    when = Step(Fraction(at, recipe.steps_per_epoch(len(data))), "ep")
    scoring = plan_score(cut, scores=[by], runs=score_runs, at=[when], recipe=recipe, seed=seed, setup=setup)
    check_ranking(scoring, by, scoring.marks[-1])
    runs, test_runs = whole(runs, "runs", "--runs", most=RUNS), whole(test_runs, "test runs", "test_runs", least=0)
    grid = tuple(grid_of(keeps, offsets, (data, cut) if balanced else ()))
    plan = TunePlan(data, by, at, scoring, grid, balanced, runs, test_runs)
    table = made_up_scores(scoring)
    with quiet():  # classes too small to be balanced are refused before there are scores
        for keep, offset in plan.grid:
            plan.window(table, keep, offset)
    return plan


def tune_window(
    data: Any,
    table: ScoreTable | str | Path,
    by: str,
    *,
    keeps: Sequence[float] = (0.5,),
    offsets: Sequence[float] | None = None,
    at: str | int | None = None,
    balanced: bool = False,
    validation: float = 0.2,
    runs: int = 4,
    test_runs: int = 4,
    seed: int = 0,
    setup: Setup | Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> Tuned:
    """Choose keep and offset of the window by validation accuracy; retrain the choice on all data and test it.

    Args:
        data: the Dataset that `table` scores.
        table: scores of the whole training set, to which the choice is applied, or their folder.
        by, at: which score, at which step.
        keeps: the fractions kept that are tried.
        offsets: those that are tried; default every tenth that fits each keep (and, balanced, each class), the largest
            included.
        validation: the part of the training data that is set aside, unless `data` has a validation split already.
        runs: training runs of each point of the grid.
        test_runs: of the choice, full data and random; 0 for no test.
        seed: of all random streams of the runs, and of the validation split.
        setup: where and how jobs execute (`Setup`).
        on_progress: called with the progress of jobs.

    Returns:
        A Tuned: the choice, its subset, the grid with its accuracies, and the test.
    """
    table = load_table(table) if isinstance(table, (str, Path)) else table
    plan = plan_tune_of(
        data,
        table,
        by,
        at,
        keeps=keeps,
        offsets=offsets,
        balanced=balanced,
        validation=validation,
        runs=runs,
        test_runs=test_runs,
        seed=seed,
        setup=setup,
    )
    return execute_tune(plan, table, on_progress)


def plan_tune_of(data: Any, table: ScoreTable, by: str, at: str | int | None = None, **options: Any) -> TunePlan:
    """The plan of tuning by scores that are there, with their recipe and as many runs."""
    data = data_room.load(data)
    table.check(data.fingerprint)
    if table.provenance.get("recipe") is None:
        raise DatadietError("the scores do not say by which recipe they were made", where=table.path)
    recipe = Recipe.from_json(table.provenance["recipe"])
    step = table.step(by, at)
    return plan_tune(data, by, step, recipe, score_runs=len(table.shards[by, step]), **options)


def execute_tune(plan: TunePlan, table: ScoreTable, on_progress: OnProgress | None = None) -> Tuned:
    """Do what a plan says; `table` holds the scores of all of its data."""
    with kept_engines():
        scored = execute_score(plan.scoring, on_progress=on_progress)
        judged = execute_compare(plan.judging(scored), on_progress=on_progress)
        keep, offset = plan.best(judged)
        chosen = plan.choice(table, keep, offset)
        testing = plan.testing(chosen, keep, offset)
        test = None if testing is None else execute_compare(testing, on_progress=on_progress)
    rows = tuple((*point, judged[_name(*point)]) for point in plan.grid)
    return Tuned(keep, offset, rows, plan.validation, chosen, test)


def tuned_name(keep: float, offset: float) -> str:
    return f"tuned window {percent(keep)} from {percent(offset)}"


def grid_of(
    keeps: Sequence[float], offsets: Sequence[float] | None, balanced: Sequence[Dataset] = ()
) -> list[tuple[float, float]]:
    """The points (keep, offset) that lie in range; of those not stated, also within each class of these datasets."""
    out: list[tuple[float, float]] = []
    keeps = several(keeps, "fractions kept", "--keep")
    offsets = None if offsets is None else several(offsets, "offsets", "--offset")
    for keep in keeps:
        if not 0 < keep <= 1:
            raise DatadietError(f"keep is {keep}", where="--keep", fix="it must lie in (0, 1]")
        room = round(1 - keep, 9)
        if offsets is None:
            room = min([room, *(largest_offset(one.labels, keep, one.fingerprint) for one in balanced)])
        tried = [*np.arange(0, room - 1e-9, OFFSET_STEP), room] if offsets is None else offsets
        fitting = sorted({_fitting(float(o), keep) for o in tried if -1e-9 <= o <= room + 1e-9})
        if offsets is not None and not fitting:
            raise DatadietError(
                f"no offset of {', '.join(map(str, offsets))} leaves room for keep {keep}", where="--offset"
            )
        out.extend((float(keep), offset) for offset in fitting)
    for offset in offsets or ():
        if not -1e-9 <= offset <= 1 - min(keeps) + 1e-9:
            raise DatadietError(
                f"offset {offset} leaves no room for any keep", where="--offset", fix="offset + keep must be at most 1"
            )
    return out


def _fitting(offset: float, keep: float) -> float:
    """To nine digits; down where rounding up would leave the range, as beside a third."""
    near = abs(round(offset, 9))
    return near if fraction(near, "offset") + fraction(keep, "keep") <= 1 else math.floor((1 - keep) * 1e9) / 1e9


def _name(keep: float, offset: float) -> str:
    return f"keep {keep:g} from {offset:g}"
