"""What a plan will cost: jobs, steps, disk, and the time, from a few steps that are really taken."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from datadiet import models
from datadiet.data.batches import Batches
from datadiet.data.dataset import Dataset
from datadiet.data.order import Order
from datadiet.engines import make
from datadiet.flows.execute import engine_for
from datadiet.flows.plan import Plan, Runs
from datadiet.flows.spawning import PathTask
from datadiet.flows.tasks import RunTask, folder_of, is_done, split_of
from datadiet.numerics import Numerics, as_before
from datadiet.scores import SCORES
from datadiet.task import classification
from datadiet.training.checkpoint import make_optimizer
from datadiet.training.evaluate import predict
from datadiet.training.loop import Moment, train
from datadiet.training.recipe import Recipe
from datadiet.training.schedule import learning_rate

SECONDS = 3.0  # spent on measuring, at most about
Timings = dict[tuple[Any, ...], tuple[float, float]]  # what `measure` gave, by all that decides it


@dataclass(frozen=True)
class Estimate:
    """The cost of what is still to be done.

    Args:
        jobs: runs to train, of `planned`; the others are in the store.
        steps: training steps of all jobs.
        step_seconds: measured, of one job alone.
        seconds: of wall time, with `workers` jobs side by side.
        disk_bytes: of checkpoints and shards.
    """

    planned: int
    jobs: int
    steps: int
    step_seconds: float
    seconds: float
    disk_bytes: int
    workers: int
    engine: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Part:
    """What is estimated together: tasks of a plan, and the lines between their networks by the name of their result."""

    plan: Plan
    tasks: list[tuple[str, RunTask]] = field(default_factory=list)
    paths: dict[str, tuple[str, PathTask]] = field(default_factory=dict)


def _estimate(part: _Part, timings: Timings) -> Estimate:
    """Count what is missing, and time a few steps and one scoring batch."""
    plan, tasks = part.plan, part.tasks
    data, recipe, setup = plan.data, plan.recipe, plan.setup
    pending = [(label, task) for label, task in tasks if not is_done(task, data)]
    walked = [(label, path) for label, path in part.paths.values() if not path.is_done(data)]
    if not pending and not walked:
        return Estimate(len(tasks), 0, 0, 0.0, 0.0, 0, 1, "")
    steps = sum(max(0, task.until - _latest(task)) for _, task in pending)
    step_seconds, row_seconds = _timed(recipe, data, plan.numerics, timings)
    measures = [measure.cost(data, recipe.batch_size) for _, task in pending for _, measure in task.measures]
    rows = sum(seen for seen, _ in measures) + sum(
        len(task.marks) * len(data) + sum(len(split_of(data, split)) for split in task.evaluate) for _, task in pending
    )
    rows += sum(path.cost(data) for _, path in walked)
    # A score of the network itself (GraNd) costs about a training step for as many examples.
    passes = sum(
        len(task.marks) * sum(SCORES.get(name).needs in ("model", "calibrated") for name in task.scores)
        for _, task in pending
    )
    gradients = (passes * len(data) + sum(back for _, back in measures)) / recipe.batch_size * step_seconds
    name = engine_for(setup, pending or walked)
    with make(name, setup.workers, plan.numerics.threads) as engine:
        workers = 1 if name == "inline" else min(engine.workers, max(len(pending), len(walked)))
    state = 2 * plan.network.state_bytes + 120 * len(data)
    disk = sum(
        len(task.marks) * (state + 4 * len(data) * len(task.scores)) + state * len({*task.keep} - {*task.marks})
        for _, task in pending
    )
    disk += workers * state  # resume points
    seconds = (steps * step_seconds + rows * row_seconds + gradients) / workers
    return Estimate(len(tasks), len(pending), steps, step_seconds, seconds, disk, workers, name)


def estimates(stages: Sequence[tuple[str, Plan]]) -> list[tuple[str, Estimate]]:
    """An estimate for each stage, network and kind of labels (either named where there are several), and dataset.

    A run that is asked for several times counts once: as the farthest that is not done yet, since it is trained once.
    """
    chosen: dict[str, tuple[bool, int, int]] = {}  # of each run: whether it is done, minus its last step, its place
    asked = [(task, one) for _, one in stages for _, task in one.tasks]
    for place, (task, one) in enumerate(asked):
        mine = (is_done(task, one.data), -task.until, place)
        chosen[task.spec.name] = min(mine, chosen.get(task.spec.name, mine))
    counted = {place for _, _, place in chosen.values()}
    parts: dict[tuple[str, str, str], _Part] = {}
    place, several = 0, len({one.recipe.model for _, one in stages}) > 1
    mixed = len({one.data.noise is None for _, one in stages}) > 1
    for stage, one in stages:
        words = [one.recipe.model] * several + ["noisy"] * (mixed and one.data.noise is not None)
        name = f"{stage}: {', '.join(words)}" if words else stage
        key = (name, one.data.fingerprint, str(one.recipe))
        for labelled in one.tasks:
            if place in counted:
                parts.setdefault(key, _Part(one)).tasks.append(labelled)
            place += 1
        for label, path in one.paths if isinstance(one, Runs) else ():
            parts.setdefault(key, _Part(one)).paths[path.spec.name] = label, path
    out: list[tuple[str, Estimate]] = []
    timings: Timings = {}
    numbers: Counter[str] = Counter()
    for (name, _, _), part in parts.items():
        numbers[name] += 1
        cost = _estimate(part, timings)
        out.append((name if numbers[name] == 1 else f"{name} ({numbers[name]})", cost))
    return out


def _timed(recipe: Recipe, data: Dataset, numerics: Numerics, known: Timings) -> tuple[float, float]:
    """The measured times, from `known` where a network of this shape was timed before."""
    shape = (data.kind, tuple(data.input_shape), len(data.classes))
    what = (recipe.model, str(recipe.model_args), recipe.batch_size, recipe.optimizer, recipe.pad, recipe.flip)
    key = (*what, *shape, numerics)
    if key not in known:
        known[key] = measure(recipe, data, numerics)
    return known[key]


def measure(recipe: Recipe, data: Dataset, numerics: Numerics) -> tuple[float, float]:
    """Seconds of a training step and of scoring one example, on this machine as it is now."""
    with as_before():
        numerics.apply()
        device = torch.device(numerics.device)
        model = models.build_with(recipe.model, data.input_shape, len(data.classes), recipe.model_args, seed=0).to(
            device
        )
        if numerics.channels_last and data.kind == "image":
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batches = Batches(data.train, data, device, pad=recipe.pad, pad_mode=recipe.pad_mode)
        order = Order(
            np.arange(len(data)),
            recipe.batch_size,
            (0, "estimate", 0),
            pad=recipe.pad,
            flip=recipe.flip,
            device=device,
        )
        moment = Moment(model, make_optimizer(model, recipe), 0, 1, order.steps_per_pass)
        rate = learning_rate(recipe, len(data))

        def steps(count: int) -> float:
            start = time.perf_counter()
            train(
                moment, moment.step + count, batches=batches, order=order, rate=rate, task=classification,
                autocast=numerics.autocast(),
            )  # fmt: skip
            return (time.perf_counter() - start) / count

        steps(2)
        first = steps(2)
        step_seconds = steps(max(2, min(200, int(SECONDS / max(first, 1e-6)))))
        rows = np.arange(min(len(data), numerics.scoring_batch))
        predict(model, batches, numerics, rows[:1])
        start = time.perf_counter()
        predict(model, batches, numerics, rows).cpu()
        return step_seconds, (time.perf_counter() - start) / len(rows)


def _latest(task: RunTask) -> int:
    """The step from which a run would go on."""
    steps = [step for step in folder_of(task).steps() if step <= task.until]
    return max(steps, default=task.spec.start)
