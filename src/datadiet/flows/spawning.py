"""Children of a run: networks that continue it with other streams, and the straight lines between them, as jobs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from datadiet.data.batches import Batches
from datadiet.data.dataset import Dataset
from datadiet.dynamics.connectivity import ESTIMATED_ON, Path, along, estimated_on, pairs
from datadiet.engines import Context
from datadiet.errors import DatadietError, Interrupted
from datadiet.flows.execute import OnProgress, run_tasks
from datadiet.flows.network import network_of
from datadiet.flows.plan import Setup
from datadiet.flows.shared import DataCard, dataset_of
from datadiet.flows.tasks import RunResult, RunTask, gone
from datadiet.numerics import Numerics, as_before
from datadiet.seeds import stream
from datadiet.store import Store
from datadiet.store.runs import RunFolder
from datadiet.task import classification
from datadiet.training.checkpoint import whole_state
from datadiet.training.evaluate import predict
from datadiet.training.recipe import NUMERICS_VERSION, Recipe

RESULT = "path"


def child_task(parent: RunTask, step: int, number: int, until: int) -> RunTask:
    """The task of child `number` of a run, spawned at a step: its parent's weights and momentum, streams of its own."""
    if not 0 <= step <= until:
        raise DatadietError(f"spawned at step {step}, trained to {until}", where="--at", fix="spawn before the end")
    purpose = f"{parent.spec.purpose}, child of {parent.spec.run}"
    spec = replace(parent.spec, purpose=purpose, parent=(parent.spec.name, step), run=number)
    return replace(parent, spec=spec, until=until, marks=(), scores=(), keep=(until,), measures=(), evaluate=())


@dataclass(frozen=True)
class PathSpec:
    """All that makes the losses along the lines between some networks what they are.

    Args:
        networks: names of the runs; all pairs of them are looked at.
        step: of all of them.
        alphas: ascending, with 0 and 1.
        statistics: "interpolated" or "re-estimated".
        labels: digest of the labels that losses are against, where these are not the training labels.
    """

    networks: tuple[str, ...]
    step: int
    alphas: tuple[float, ...]
    statistics: str = "interpolated"
    labels: str | None = None

    def to_json(self) -> dict[str, Any]:
        found = {"what": "paths", "numerics": NUMERICS_VERSION, **asdict(self), "networks": list(self.networks)}
        return found | ({"estimated_on": "whole batches"} if self.statistics == "re-estimated" else {})

    @property
    def name(self) -> str:
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class PathTask:
    """The job that walks the lines between some networks; fields as of RunTask.

    Args:
        until: how many losses of all examples it takes, which is what progress counts.
        labels: (N,) original labels; None where they are those of training.
        rows: training rows on which statistics are estimated, where they are.
    """

    spec: PathSpec
    store: str
    data: DataCard
    numerics: Numerics
    recipe: Recipe
    until: int
    labels: np.ndarray | None = None
    rows: np.ndarray | None = None
    wait: bool = False

    @property
    def folder(self) -> RunFolder:
        return Store(self.store).run(self.spec.name, self.spec.to_json())

    def is_done(self, data: Dataset) -> bool:
        found = self.folder.load_result(RESULT, self.spec.step)
        # Former versions kept losses that are no numbers.
        return found is not None and all(bool(np.isfinite(found[0][name]).all()) for name in ("loss", "between"))

    def result(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What the finished job left: losses and errors, and the environments of the walk and of the networks."""
        found = self.folder.load_result(RESULT, self.spec.step)
        if found is None:
            raise gone(self.folder)
        return found

    def cost(self, data: Dataset) -> int:
        """How many examples go through a network, for an estimate."""
        estimated = 0
        if self.spec.statistics == "re-estimated":
            rows = len(data) if self.rows is None else len(self.rows)
            size = min(rows, max(2, self.recipe.batch_size))
            estimated = size * min(rows // size, ESTIMATED_ON)
        return self.until * len(data) + (self.until - len(self.spec.networks)) * estimated


def path_task(
    tasks: Sequence[RunTask], step: int, data: Dataset, alphas: Sequence[float], statistics: str = "interpolated",
    against: str = "original",
) -> PathTask:  # fmt: skip
    """The job for all pairs of some runs' networks at a step, on all training examples.

    Args:
        against: the labels that losses are against: "original", of a barrier that is an instrument; or "training",
            those that training sees, of one that is a score.
    """
    first = tasks[0]
    noisy = against == "original" and data.noise is not None and bool(data.corrupted.any())
    original = np.asarray(data.original_labels)
    spec = PathSpec(
        tuple(task.spec.name for task in tasks), step, tuple(alphas), statistics,
        hashlib.blake2b(original.tobytes(), digest_size=8).hexdigest() if noisy else None,
    )  # fmt: skip
    count = len(tasks) + len(pairs(len(tasks))) * (len(alphas) - 2)
    return PathTask(
        spec, first.store, first.data, first.numerics, first.spec.recipe, count, original if noisy else None, first.rows
    )


def walk(context: Context, task: PathTask) -> RunResult:
    """Losses and errors of every network and of every point between two of them; the function of a path job."""

    start = time.monotonic()
    with as_before():
        task.numerics.apply()
        data, folder = dataset_of(task.data, context), task.folder
        lock = folder.lock()
        while not lock.try_acquire():
            if not task.wait:
                return RunResult(task.spec.name, busy=True)
            if context.should_stop():
                raise Interrupted("stopped while waiting for another process", where=folder.path)
            time.sleep(0.2)
        try:
            if not task.is_done(data):
                folder.save_result(RESULT, task.spec.step, *_losses(context, task, data))
        finally:
            lock.release()
    return RunResult(task.spec.name, False, 0, task.until, time.monotonic() - start)


def _losses(context: Context, task: PathTask, data: Dataset) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays, and the numeric environments of the walk and of the networks."""
    recipe, device = task.recipe, torch.device(task.numerics.device)
    batches = Batches(data.train, data, device, pad=recipe.pad, pad_mode=recipe.pad_mode)
    labels = batches.labels if task.labels is None else torch.from_numpy(task.labels).to(device)
    model = network_of(recipe, data, numerics=task.numerics)
    states: list[dict[str, torch.Tensor]] = []
    made: list[dict[str, Any]] = []
    for name in task.spec.networks:
        point = Store(task.store).run(name).load_checkpoint(task.spec.step)
        if point is None:
            raise DatadietError(
                f"there is no checkpoint of the run {name} at step {task.spec.step}", where=context.label,
                fix="train it to that step first",
            )  # fmt: skip
        if point.meta.get("numerics") not in (None, *made):
            made.append(point.meta["numerics"])
        states.append({n: t.to(device) for n, t in whole_state(model, point.tensors).items()})
    training = None
    if task.spec.statistics == "re-estimated":
        rows = np.arange(len(data)) if task.rows is None else np.asarray(task.rows)
        cuts = estimated_on(rows, recipe.batch_size, stream(0, "statistics", 0, task.spec.name))
        training = [batches.inputs(torch.from_numpy(cut).to(device)) for cut in cuts]
    done = 0

    def logits() -> torch.Tensor:
        nonlocal done
        if context.should_stop():
            raise Interrupted("stopped between two points of a path", where=context.label)
        found = predict(model, batches, task.numerics)
        done += 1
        context.progress(done, task.until)
        return found

    ends = [next(along(model, s, s, [1.0], logits, labels, task=classification)) for s in states]
    out = {"loss": np.stack([e[0] for e in ends]), "wrong": np.stack([e[1] for e in ends]).astype(np.uint8)}
    inner = task.spec.alphas[1:-1]
    between = [
        list(along(model, states[i], states[j], inner, logits, labels, training=training, task=classification))
        for i, j in pairs(len(states))
    ]
    shape = (len(between), len(inner), len(labels))
    out["between"] = np.asarray([[p[0] for p in path] for path in between], np.float32).reshape(shape)
    out["between_wrong"] = np.asarray([[p[1] for p in path] for path in between], np.uint8).reshape(shape)
    return out, {"numerics": task.numerics.to_json(), "networks": made}


def paths_of(task: PathTask) -> tuple[Path, ...]:
    """A Path for each pair of a finished path job's networks."""
    found, _ = task.result()
    return tuple(
        # w_α = α·first + (1−α)·second, so the second of a pair is at α = 0.
        Path(
            np.asarray(task.spec.alphas),
            np.concatenate([found["loss"][[j]], found["between"][k], found["loss"][[i]]]),
            np.concatenate([found["wrong"][[j]], found["between_wrong"][k], found["wrong"][[i]]]).astype(bool),
        )
        for k, (i, j) in enumerate(pairs(len(task.spec.networks)))
    )


@dataclass(frozen=True)
class Families:
    """Parents, for each spawn step their children, and the path jobs between them.

    Args:
        parents: (label, task) of each parent.
        children: (label, task) of all children.
        paths: {(parent number, spawn step): (label, path task)}.
    """

    parents: list[tuple[str, RunTask]]
    children: list[tuple[str, RunTask]]
    paths: dict[tuple[int, int], tuple[str, PathTask]]


def families(
    parents: Sequence[tuple[str, RunTask]], data: Dataset, at: Sequence[int], *, children: int, until: int,
    alphas: Sequence[float], parent_counts: bool, statistics: str = "interpolated", against: str = "original",
) -> Families:  # fmt: skip
    """Plan `children` networks from each spawn step; if the parent counts, its own continuation is one of them.

    `against` as of `path_task`.
    """
    grown: list[tuple[str, RunTask]] = []
    paths = {}
    kept = []
    for number, (label, parent) in enumerate(parents):
        keep = {*parent.keep, *at, *((until,) if parent_counts else ())}
        parent = replace(parent, keep=tuple(sorted(keep)), until=max(parent.until, *keep))
        kept.append((label, parent))
        for step in at:
            own = [
                (f"{label}, child {child} from step {step:,}", child_task(parent, step, child, until))
                for child in range(children - parent_counts)
            ]
            grown += own
            together = [parent] if parent_counts else []
            task = path_task([*together, *(task for _, task in own)], until, data, alphas, statistics, against)
            paths[number, step] = (f"{label}, between its children from step {step:,}", task)
    return Families(kept, grown, paths)


def grow(found: Families, data: Dataset, setup: Setup, on_progress: OnProgress | None = None) -> None:
    """Train parents, then children, then walk the lines between them; what is in the store is not done again."""
    run_tasks(found.parents, data, setup, on_progress)
    waiting = [(label, task) for label, task in found.paths.values() if not task.is_done(data)]
    needed = {name for _, task in waiting for name in task.spec.networks}
    run_tasks([(label, t) for label, t in found.children if t.spec.name in needed], data, setup, on_progress)
    run_tasks(waiting, data, setup, on_progress, job=walk, done=PathTask.is_done)
