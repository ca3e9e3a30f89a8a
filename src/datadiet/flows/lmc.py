"""Scores that come from spawned children: the LMC score (Lottery Tickets, D.1).

From every scoring run three children are spawned at each step where the score is taken, and trained to the end of the
schedule; an example's score in that run is the mean of its three barriers. The paper averages two such runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datadiet.data.dataset import Dataset
from datadiet.dynamics.connectivity import pairs
from datadiet.flows.execute import OnProgress
from datadiet.flows.plan import Setup
from datadiet.flows.spawning import Families, families, grow
from datadiet.flows.tasks import RunTask, folder_of, has_score, shard_meta
from datadiet.scores import SCORES

CHILDREN = 3


def lmc_families(parents: Sequence[tuple[str, RunTask]], data: Dataset, at: Sequence[int], until: int) -> Families:
    """The children whose barriers are the score, against the labels that training sees, as every score is taken."""
    return families(
        parents, data, at, children=CHILDREN, until=until, alphas=(0.0, 0.5, 1.0), parent_counts=False,
        against="training",
    )  # fmt: skip


def spawned_scores(names: Sequence[str]) -> list[str]:
    """Those among the scores that need children."""
    return [name for name in names if SCORES.get(name).needs == "children"]


def missing_children(
    names: Sequence[str], tasks: Sequence[tuple[str, RunTask]], marks: Sequence[int], data: Dataset
) -> Families | None:
    """The children that such scores still need, for an estimate of their cost; None where none is missing."""
    missing = [
        mark for mark in marks for name in spawned_scores(names)
        if not all(has_score(task, folder_of(task), name, mark) for _, task in tasks)
    ]  # fmt: skip
    if not missing:
        return None
    end = tasks[0][1].spec.recipe.horizon(len(data))
    return lmc_families(tasks, data, missing, end)


def take_spawned(
    name: str, tasks: Sequence[tuple[str, RunTask]], marks: Sequence[int], data: Dataset, setup: Setup,
    on_progress: OnProgress | None = None,
) -> None:  # fmt: skip
    """Make the shards of such a score, where they are missing, from children of each task's run."""
    missing = {
        mark: [(label, task) for label, task in tasks if not has_score(task, folder_of(task), name, mark)]
        for mark in marks
    }
    for mark, parents in missing.items():
        if not parents:
            continue
        end = parents[0][1].spec.recipe.horizon(len(data))
        planned = lmc_families(parents, data, [mark], end)
        grow(planned, data, setup, on_progress)
        for number, (_, parent) in enumerate(parents):
            found, under = planned.paths[number, mark][1].result()
            values = SCORES.get(name).compute(
                torch.from_numpy(found["loss"]), torch.from_numpy(found["between"][:, 0]), pairs(CHILDREN)
            )
            folder = folder_of(parent)
            with folder.lock():
                folder.save_shard(name, mark, values.numpy(), {**shard_meta(parent, name, data), **under})
