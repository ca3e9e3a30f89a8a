"""What a plan will cost: jobs, steps, disk, and the time, from a few steps that are really taken."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from datadiet.data.batches import Batches
from datadiet.data.dataset import Dataset
from datadiet.data.order import Order
from datadiet.engines import make
from datadiet.flows.execute import engine_for
from datadiet.flows.jobs import serves, stretch
from datadiet.flows.network import network_of
from datadiet.flows.plan import Plan, Runs
from datadiet.flows.spawning import PathTask
from datadiet.flows.tasks import (
    RunTask,
    columns,
    evaluation_key,
    folder_of,
    missing_evaluations,
    missing_marks,
    missing_measures,
    split_of,
)
from datadiet.numerics import Numerics, as_before
from datadiet.scores import SCORES
from datadiet.store.runs import Point
from datadiet.task import classification
from datadiet.training.checkpoint import make_optimizer, pack
from datadiet.training.evaluate import predict
from datadiet.training.loop import Moment, train
from datadiet.training.observers import Trajectories
from datadiet.training.recipe import Recipe, RunSpec
from datadiet.training.schedule import learning_rate

SECONDS = 3.0  # spent on measuring, at most about
HEAD, ENTRY = 570, 64  # bytes about a file's arrays (or of a short JSON), and about each further array, beside its name
Timings = dict[tuple[Any, ...], tuple[float, float]]  # what `measure` gave, by all that decides it
Sizes = dict[tuple[str, str], "_Sizes"]  # the same of checkpoints


@dataclass(frozen=True)
class Estimate:
    """The cost of what is still to be done.

    Args:
        jobs: runs to train, of `planned`; the others are in the store.
        steps: training steps of all jobs.
        step_seconds: measured, of one job alone.
        seconds: of wall time, with `workers` jobs side by side.
        disk_bytes: of the files that stay in the store: checkpoints, scores, measures, losses between networks. While
            they are trained, runs have a resume point each besides.
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
class _Cost:
    """What is left to be done, of one run or of several.

    Args:
        rows: examples that go through a network without training it.
        back: examples whose gradient is taken without training, which costs about what training on them does.
        disk: bytes of the files that stay.
    """

    steps: int = 0
    rows: int = 0
    back: int = 0
    disk: int = 0

    def add(self, other: _Cost) -> None:
        self.steps += other.steps
        self.rows += other.rows
        self.back += other.back
        self.disk += other.disk


class _Run:
    """A run's folder as the stages so far will have left it, and what the next job will do there.

    It goes through a job as `flows.jobs` does, and trains nothing.
    """

    def __init__(self, task: RunTask) -> None:
        self.folder = folder_of(task)
        self.new = not self.folder.path.exists()
        self.states: dict[int, frozenset[str] | None] = {}  # by the step of a checkpoint, which scores it has followed
        self.resume: dict[int, frozenset[str]] = {}  # and of the resume point
        self.taken: set[tuple[str, int]] = set()
        point = self.folder.load_resume()
        if point is not None:
            self.resume[point.step] = _followed_by(point, task)

    def job(self, task: RunTask, data: Dataset, sizes: Sizes) -> _Cost | None:
        """What a job does, which is done from then on; None where nothing is missing."""
        missing = {
            step: names
            for step, found in missing_marks(task, self.folder).items()
            if (names := [name for name in found if (name, step) not in self.taken])
        }
        due = {
            step: measures
            for step, asked in missing_measures(task, self.folder).items()
            if (measures := [measure for measure in asked if (measure.key, step) not in self.taken])
        }
        evaluations = {
            key: split
            for split in missing_evaluations(task, self.folder, data)
            if ((key := evaluation_key(split, split_of(data, split))), task.until) not in self.taken
        }
        kept = {step for step in task.keep if not self._has(step)}
        if not (missing or due or evaluations or kept):
            return None
        cost = _Cost(disk=HEAD if self.new else 0)
        self.new = False
        for step, names in missing.items():
            cost.add(_scoring(names, data))
            self.taken |= {(name, step) for name in names}
        for step, measures in due.items():
            for measure in measures:
                rows, back = measure.cost(data, task.spec.recipe.batch_size)
                cost.add(_Cost(0, rows, back, measure.bytes(data) + HEAD))
                self.taken.add((measure.key, step))
        for key, split in evaluations.items():
            cost.add(_Cost(rows=len(split_of(data, split)), disk=HEAD))
            self.taken.add((key, task.until))
        # What is missing where a checkpoint serves is taken from that, the rest by training.
        untaken = {
            step for step in {*missing, *due} if not self._serves(self._state(step, task), missing.get(step, ()))
        }
        stops = untaken | kept
        if stops or evaluations:
            first, goal = stretch(stops, task.until, bool(evaluations))
            start, followed = self._start(first, task)
            cost.steps = goal - start
            for step in stops:
                if self._state(step, task) is None:
                    cost.disk += _sizes(task.spec.recipe, data, sizes).checkpoint(task.spec, step, followed)
                self.states[step] = followed
        self.resume = {step: followed for step, followed in self.resume.items() if step > task.until}
        return cost

    def _state(self, step: int, task: RunTask) -> frozenset[str] | None:
        if step not in self.states:
            point = self.folder.load_checkpoint(step)
            self.states[step] = None if point is None else _followed_by(point, task)
        return self.states[step]

    def _has(self, step: int) -> bool:
        """Whether there is a checkpoint; what is in it is not looked at, where nothing may be missing."""
        return self.states[step] is not None if step in self.states else self.folder.has_checkpoint(step)

    def _serves(self, followed: frozenset[str] | None, names: Iterable[str]) -> bool:
        return followed is not None and followed.issuperset(name for name in names if name in _trajectories())

    def _start(self, first: int, task: RunTask) -> tuple[int, frozenset[str]]:
        """The step of the newest state up to `first` that serves, or the beginning; and what is followed from there."""
        able = frozenset(_trajectories() if task.marks or task.spec.purpose == "score" else ())
        for step in sorted({*self.folder.steps(), *self.states, *self.resume}, reverse=True):
            for followed in (self._state(step, task), self.resume.get(step)) if step <= first else ():
                if followed is not None and self._serves(followed, task.scores):
                    return step, followed & able
        return task.spec.start, able


def _trajectories() -> list[str]:
    return [name for name, entry in SCORES.items() if entry.needs == "trajectory"]


def _followed_by(point: Point, task: RunTask) -> frozenset[str]:
    """The trajectory scores that a state has followed, by the code that they have now."""
    return frozenset(name for name in _trajectories() if serves(point, [name], task))


def _scoring(names: Sequence[str], data: Dataset) -> _Cost:
    """Taking some scores once; one of the network itself (GraNd) costs about a training step for as many examples."""
    needs = [SCORES.get(name).needs for name in names]
    passes = needs.count("model") + needs.count("calibrated")
    disk = len(columns(names)) * (4 * len(data) + HEAD)
    return _Cost(0, len(data) * ("logits" in needs), len(data) * passes, disk)


@dataclass(frozen=True)
class _Sizes:
    """Bytes of checkpoints: before the first step, when momentum is there, and of each trajectory score's part."""

    fresh: int
    trained: int
    followed: Mapping[str, int]

    def checkpoint(self, spec: RunSpec, step: int, followed: Iterable[str]) -> int:
        # A child that goes on from a trained parent has its momentum from the start; one that is rewound has not.
        inherits = spec.start > 0 and spec.rewind is None
        state = self.trained if step > spec.start or inherits else self.fresh
        return HEAD + state + sum(self.followed[name] for name in followed)


def _sizes(recipe: Recipe, data: Dataset, known: Sizes) -> _Sizes:
    """What a state comes to, from a network and an optimiser that are made for it and take one step by no gradient."""
    key = (str(recipe), data.fingerprint)
    if key not in known:
        with as_before():
            model = network_of(recipe, data)
            optimizer = make_optimizer(model, recipe)
            fresh = _bytes(pack(model, optimizer, {}))
            for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
                weight.grad = torch.zeros_like(weight)
            optimizer.step()
            every = {name: SCORES.get(name).compute(len(data), "cpu") for name in _trajectories()}
            followed = {name: _bytes(Trajectories({name: one}).state()) for name, one in every.items()}
            known[key] = _Sizes(fresh, _bytes(pack(model, optimizer, {})), followed)
    return known[key]


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() + len(name) + ENTRY for name, t in tensors.items())


@dataclass
class _Part:
    """What is estimated together: how many runs, what is left of which, and the lines between their networks."""

    plan: Plan
    planned: int = 0
    left: list[tuple[str, RunTask]] = field(default_factory=list)
    walked: list[tuple[str, PathTask]] = field(default_factory=list)
    cost: _Cost = field(default_factory=_Cost)


def _estimate(part: _Part, timings: Timings) -> Estimate:
    """Time a few steps and one scoring batch, where anything is left."""
    plan, cost, pending = part.plan, part.cost, part.left or part.walked
    if not pending:
        return Estimate(part.planned, 0, 0, 0.0, 0.0, 0, 1, "")
    step_seconds, row_seconds = _timed(plan.recipe, plan.data, plan.numerics, timings)
    name = engine_for(plan.setup, pending)
    with make(name, plan.setup.workers, plan.numerics.threads) as engine:
        workers = 1 if name == "inline" else min(engine.workers, max(len(part.left), len(part.walked)))
    trained = cost.steps + cost.back / plan.recipe.batch_size
    seconds = (trained * step_seconds + cost.rows * row_seconds) / workers
    return Estimate(part.planned, len(part.left), cost.steps, step_seconds, seconds, cost.disk, workers, name)


def estimates(stages: Sequence[tuple[str, Plan]]) -> list[tuple[str, Estimate]]:
    """An estimate for each stage, network and kind of labels (either named where there are several), and dataset.

    Jobs are gone through in order, since each goes on from what the ones before leave. A run that is asked for several
    times counts once, with all that is done of it, where it is asked for the farthest.
    """
    runs: dict[str, _Run] = {}
    costs: dict[str, _Cost] = {}
    sizes: Sizes = {}
    chosen: dict[str, tuple[bool, int, int]] = {}  # of each run: whether it is done, minus its last step, its place
    asked = [(task, one) for _, one in stages for _, task in one.tasks]
    for place, (task, one) in enumerate(asked):
        name = task.spec.name
        if name not in runs:
            runs[name], costs[name] = _Run(task), _Cost()
        cost = runs[name].job(task, one.data, sizes)
        if cost is not None:
            costs[name].add(cost)
        mine = (cost is None, -task.until, place)
        chosen[name] = min(mine, chosen.get(name, mine))
    parts: dict[tuple[str, str, str], _Part] = {}
    place, several = 0, len({one.recipe.model for _, one in stages}) > 1
    mixed = len({one.data.noise is None for _, one in stages}) > 1
    walked: set[str] = set()
    for stage, one in stages:
        words = [one.recipe.model] * several + ["noisy"] * (mixed and one.data.noise is not None)
        title = f"{stage}: {', '.join(words)}" if words else stage
        key = (title, one.data.fingerprint, str(one.recipe))
        for label, task in one.tasks:
            done, _, where = chosen[task.spec.name]
            if where == place:
                part = parts.setdefault(key, _Part(one))
                part.planned += 1
                part.left += [] if done else [(label, task)]
                part.cost.add(costs[task.spec.name])
            place += 1
        for label, path in one.paths if isinstance(one, Runs) else ():
            part = parts.setdefault(key, _Part(one))
            if path.spec.name not in walked and not path.is_done(one.data):
                walked.add(path.spec.name)
                part.walked.append((label, path))
                # Of every example, at every point, the loss in float32 and the error in a byte.
                part.cost.add(_Cost(rows=path.cost(one.data), disk=5 * path.until * len(one.data) + 2 * HEAD))
    out: list[tuple[str, Estimate]] = []
    timings: Timings = {}
    numbers: Counter[str] = Counter()
    for (title, _, _), part in parts.items():
        numbers[title] += 1
        out.append((title if numbers[title] == 1 else f"{title} ({numbers[title]})", _estimate(part, timings)))
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
        model = network_of(recipe, data, numerics=numerics)
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
        predict(model, batches, numerics, rows[:1]).cpu()  # a GPU may still be at it when the clock starts
        start = time.perf_counter()
        predict(model, batches, numerics, rows).cpu()
        return step_seconds, (time.perf_counter() - start) / len(rows)
