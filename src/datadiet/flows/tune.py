"""Choosing a window's two numbers on a validation split, then testing the choice once.

The validation examples are cut from the training data before anything is scored: the grid is judged with scores, and
networks, that never saw them. Their labels are as noisy as the training labels. What is chosen are two fractions; they
are applied to the scores of the whole training set, and the network retrained there is tested once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

import datadiet.data as data_room
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.flows.compare import Comparison, Row, execute_compare, percent, plan_compare
from datadiet.flows.execute import OnProgress, kept_engines
from datadiet.flows.plan import Setup
from datadiet.flows.score import execute_score, plan_score
from datadiet.flows.select import select
from datadiet.scores import ScoreTable
from datadiet.selection import Subset
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
            "keep": self.keep,
            "offset": self.offset,
            "validation_examples": self.validation_examples,
            "grid": [
                {"keep": keep, "offset": offset, "mean": row.mean, **asdict(row)} for keep, offset, row in self.grid
            ],
            "test": None if self.test is None else self.test.to_json(),
        }


def tune_window(
    data: Any,
    table: ScoreTable,
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
        table: scores of the whole training set, to which the choice is applied.
        by, at: which score, at which step.
        keeps: the fractions kept that are tried.
        offsets: those that are tried; default every tenth that fits each keep, its largest included.
        validation: the part of the training data that is set aside, unless `data` has a validation split already.
        runs: training runs of each point of the grid.
        test_runs: of the choice, full data and random; 0 for no test.
    """
    with kept_engines():
        return _tune(
            data_room.load(data),
            table,
            by,
            keeps,
            offsets,
            at,
            balanced,
            validation,
            runs,
            test_runs,
            seed,
            setup,
            on_progress,
        )


def _tune(
    data: Dataset,
    table: ScoreTable,
    by: str,
    keeps: Sequence[float],
    offsets: Sequence[float] | None,
    at: str | int | None,
    balanced: bool,
    validation: float,
    runs: int,
    test_runs: int,
    seed: int,
    setup: Setup | Mapping[str, Any] | None,
    on_progress: OnProgress | None,
) -> Tuned:
    table.check(data.fingerprint)
    if table.provenance.get("recipe") is None:
        raise DatadietError("the scores do not say by which recipe they were made", where=table.path)
    recipe = Recipe.from_json(table.provenance["recipe"])
    cut = data if data.validation is not None else data.with_validation(validation, seed)
    grid = grid_of(keeps, offsets)
    # The same part of training: fewer examples make shorter epochs.
    when = Step(Fraction(table.step(by, at), table.steps_per_epoch), "ep")
    scored = execute_score(
        plan_score(cut, scores=[by], runs=table.runs, at=[when], recipe=recipe, seed=seed, setup=setup),
        on_progress=on_progress,
    )
    subsets = {
        _name(keep, offset): select(scored, by, keep, "window", offset=offset, balanced=balanced, seed=seed)
        for keep, offset in grid
    }
    judged = execute_compare(
        plan_compare(
            cut,
            subsets,
            runs=runs,
            recipe=recipe,
            seed=seed,
            baselines=(),
            split="validation",
            purpose="tune",
            setup=setup,
        ),
        on_progress=on_progress,
    )
    rows = [(keep, offset, judged[_name(keep, offset)]) for keep, offset in grid]
    # Between equals the larger subset, then the harder window: less is left out on thin evidence.
    keep, offset, _ = max(rows, key=lambda row: (row[2].mean, row[0], row[1]))
    chosen = select(table, by, keep, "window", at=at, offset=offset, balanced=balanced, seed=seed)
    chosen = replace(chosen, policy={**chosen.policy, "tuned": {"validation": len(cut.validation or ()), "runs": runs}})
    test = None
    if test_runs and data.test is not None:
        plan = plan_compare(
            data, {tuned_name(keep, offset): chosen}, runs=test_runs, recipe=recipe, seed=seed, setup=setup
        )
        test = execute_compare(plan, on_progress=on_progress)
    assert cut.validation is not None
    return Tuned(keep, offset, tuple(rows), len(cut.validation), chosen, test)


def tuned_name(keep: float, offset: float) -> str:
    return f"tuned window {percent(keep)} from {percent(offset)}"


def grid_of(keeps: Sequence[float], offsets: Sequence[float] | None) -> list[tuple[float, float]]:
    """The points (keep, offset) that lie in range."""
    out: list[tuple[float, float]] = []
    for keep in keeps:
        if not 0 < keep <= 1:
            raise DatadietError(f"keep is {keep}", where="--keep", fix="it must lie in (0, 1]")
        room = round(1 - keep, 9)
        tried = [*np.arange(0, room - 1e-9, OFFSET_STEP), room] if offsets is None else offsets
        fitting = sorted({round(float(o), 9) for o in tried if -1e-9 <= o <= room + 1e-9})
        if offsets is not None and not fitting:
            raise DatadietError(
                f"no offset of {', '.join(map(str, offsets))} leaves room for keep {keep}", where="--offset"
            )
        out.extend((float(keep), offset) for offset in fitting)
    return out


def _name(keep: float, offset: float) -> str:
    return f"keep {keep:g} from {offset:g}"
