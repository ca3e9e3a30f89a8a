"""Going through what a job will do and training nothing: made-up results of the right shape, for what is not known."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from datadiet.data.order import Order
from datadiet.flows.compare import ComparePlan, Comparison, Row
from datadiet.flows.plan import Plan
from datadiet.flows.score import ScorePlan, execute_score
from datadiet.flows.tasks import columns, is_done
from datadiet.scores import SCORES, ScoreTable
from datadiet.seeds import stream


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings about made-up values would alarm for nothing."""
    children = [logging.getLogger(name) for name in ("datadiet.selection.selecting", "datadiet.flows")]
    levels = [child.level for child in children]
    try:
        for child in children:
            child.setLevel(logging.ERROR)
        yield
    finally:
        for child, level in zip(children, levels, strict=True):
            child.setLevel(level)


def all_done(plan: Plan) -> bool:
    """Whether all runs of a plan are in the store."""
    return all(is_done(task, plan.data) for _, task in plan.tasks)


def rehearsed_scores(plan: ScorePlan) -> ScoreTable:
    """The scores where the store has all of them, else made-up ones."""
    stages = plan.stages()
    if len(stages) == 1 and all_done(plan):  # no children are wanting
        return execute_score(plan)
    return made_up_scores(plan)


def made_up_scores(plan: ScorePlan) -> ScoreTable:
    """A table of the right shape with values that say nothing."""
    count = len(plan.data)
    names = [task.spec.name for _, task in plan.tasks]  # other runs, other values: else their subsets would be one

    visits = {column: SCORES.get(name).visits for name in plan.scores for column in columns([name])
              if SCORES.get(name).needs == "trajectory"}  # fmt: skip

    def values(run: int, name: str, step: int) -> np.ndarray:
        made_up = stream(0, "rehearsal", run, names[run], name, step).random(count).astype(np.float32)
        if name in visits:  # of what training will not have seen often enough nothing can be selected
            order = Order(np.arange(count), plan.recipe.batch_size, plan.tasks[run][1].spec.stream)
            made_up[np.setdiff1d(order.indices, order.visited(step, visits[name]), assume_unique=True)] = np.nan
        return made_up

    data = plan.data
    return ScoreTable(
        shards={key: [partial(values, run, *key) for run in range(plan.runs)] for key in plan.asked},
        labels=data.labels,
        fingerprint=data.fingerprint,
        steps_per_epoch=plan.recipe.steps_per_epoch(count),
        corrupted=data.corrupted if data.noise is not None else None,
        chosen=data.chosen if data.noise is not None else None,
        classes=data.classes,
        provenance={"recipe": plan.recipe.to_json()},
    )


def made_up_comparison(plan: ComparePlan) -> Comparison:
    """Accuracies that say nothing."""
    rows = []
    for name, keep, size, tasks in plan.groups:
        accuracies = stream(0, "rehearsal", 0, name).random(len(tasks))
        rows.append(Row(name, keep, size, tuple(float(v) for v in accuracies)))
    per_epoch = plan.recipe.steps_per_epoch(len(plan.data))
    return Comparison(tuple(rows), plan.split, plan.until, per_epoch, plan.data.name)
