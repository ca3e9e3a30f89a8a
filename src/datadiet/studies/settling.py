"""What the studies of training dynamics share: their recipe at quick, spawn steps, and groups of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datadiet.flows.plan import Runs, environment, inspect
from datadiet.flows.spawning import PathTask
from datadiet.flows.tasks import Measure, RunTask
from datadiet.studies.job import StudyJob
from datadiet.training.recipe import Recipe

# On digits the small conv net is connected from initialisation on, so there is nothing to see. A residual network at a
# high rate is not; it was chosen for that alone.
RESTLESS = {"model": "resnet8", "lr": 0.4, "batch_size": 32, "steps": "10ep"}
SPAWNED = (0, 0.005, 0.0125, 0.025, 0.05, 0.2)  # of the horizon


def restless(job: StudyJob) -> Recipe:
    """The recipe of studies about connectivity: the job's; at quick, for the small conv net that nobody asked for, a
    residual one."""
    small = job.scale.name == "quick" and job.recipe.model == "small-cnn" and not job.own
    return job.recipe.with_(**RESTLESS) if small else job.recipe


def spawn_steps(recipe: Recipe, examples: int) -> list[int]:
    """Spawn steps of a study, ascending."""
    horizon = recipe.horizon(examples)
    return sorted({0 if part == 0 else max(1, round(part * horizon)) for part in SPAWNED})


def groups_of(order: np.ndarray, count: int, size: int) -> list[np.ndarray]:
    """`count` groups of `size` examples, contiguous in `order`, from its beginning to its end."""
    starts = np.linspace(0, len(order) - size, count).round().astype(int)
    return [np.asarray(order[start : start + size]) for start in starts]


def measured(task: RunTask, measures: Sequence[tuple[int, Measure]], until: int | None = None) -> RunTask:
    """The same run, asked for measures alone."""
    last = max(step for step, _ in measures)
    return replace(task, marks=(), scores=(), evaluate=(), keep=(), measures=tuple(measures), until=until or last)


def runs_of(
    job: StudyJob, recipe: Recipe, tasks: Sequence[tuple[str, RunTask]], noisy: bool = False,
    paths: Sequence[tuple[str, PathTask]] = (),
) -> Runs:  # fmt: skip
    """A plan of one's own for `job.execute`."""
    data = job.noisy if noisy and job.noisy is not None else job.data
    network = inspect(recipe, data)
    return Runs(data, recipe, network, environment(recipe, data, network, job.setup), job.setup, list(tasks), paths)
