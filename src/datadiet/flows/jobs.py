"""The job that every flow hands to an engine: train one run as far as is asked, and take what is asked of it.

It does only what is missing. Scores at a step whose checkpoint exists train nothing; a later step continues from the
newest state before it; results that are there and whole are left alone. Everything it finishes is on disk before the
next thing begins, so that a killed job loses a minute at most.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from datadiet.data.batches import Batches
from datadiet.data.dataset import Dataset
from datadiet.data.order import Order
from datadiet.dynamics.connectivity import estimated_on, reestimate
from datadiet.engines import Context
from datadiet.errors import DatadietError, Diverged, Interrupted
from datadiet.flows.network import network_of
from datadiet.flows.shared import dataset_of
from datadiet.flows.tasks import (
    Measure,
    RunResult,
    RunTask,
    columns,
    evaluation_key,
    folder_of,
    missing_evaluations,
    missing_marks,
    missing_measures,
    shard_meta,
    split_of,
)
from datadiet.numerics import Numerics, as_before
from datadiet.scores import SCORES
from datadiet.seeds import stream, torch_seed
from datadiet.source import is_ours
from datadiet.store import Store
from datadiet.store.runs import Point, RunFolder
from datadiet.task import classification
from datadiet.training.checkpoint import load_whole, make_optimizer, pack, part, unpack, whole_state
from datadiet.training.evaluate import by_model, predict
from datadiet.training.loop import Moment, Observer, train
from datadiet.training.observers import Ticker, Trajectories
from datadiet.training.schedule import learning_rate

log = logging.getLogger(__name__)


def execute(context: Context, task: RunTask) -> RunResult:
    """Do what is missing of a task; the function of every job."""
    with as_before():
        return _execute(context, task)


def _execute(context: Context, task: RunTask) -> RunResult:
    start = time.monotonic()
    task.numerics.apply()
    data = dataset_of(task.data, context)
    folder = folder_of(task)
    lock = folder.lock()
    if not lock.try_acquire():
        if not task.wait:
            return RunResult(task.spec.name, busy=True)
        context.progress(0, task.until, waiting=str(lock.holder() or "another process"))
        while not lock.try_acquire():
            if context.should_stop():
                raise Interrupted("stopped while waiting for another process", where=folder.path)
            time.sleep(0.2)
    try:
        trained, taken = _Work(context, task, data, folder).go()
    finally:
        lock.release()
    return RunResult(task.spec.name, False, trained, taken, time.monotonic() - start)


def serves(point: Point, names: Iterable[str], task: RunTask) -> bool:
    """Whether a state has what the trajectory scores among `names` saw; one registered or changed later has not."""
    codes = point.meta.get("codes", {})
    return all(
        any(key.startswith(f"observer/trajectories/{name}/") for key in point.tensors)
        and codes.get(name) == task.codes.get(name)
        for name in names
        if SCORES.get(name).needs == "trajectory"
    )


def stretch(stops: Collection[int], until: int, to_the_end: bool) -> tuple[int, int]:
    """The step up to which a state may be taken up, and the one that is trained to, where these stops are missing."""
    goal = until if to_the_end else max(stops)
    return min(stops, default=goal), goal


@dataclass
class Seen:
    """A run at a step, as a `Measure` gets it: it may use the network and must leave it as it was.

    Args:
        step: finished steps.
        batches: unaugmented training rows.
        order: which rows make up the batch of a step.
        stream: (seed, purpose, run), for the measure's own random draws.
    """

    model: nn.Module
    step: int
    data: Dataset
    batches: Batches
    order: Order
    numerics: Numerics
    stream: tuple[int, str, int]
    _work: _Work

    def replay(self, observers: Sequence[Observer], steps: int) -> None:
        """Train a copy of the run for some steps from here, as the run itself went on, and throw it away."""
        self._work.replay(observers, steps)


class _Work:
    """A run in the making: the network and what watches it."""

    def __init__(self, context: Context, task: RunTask, data: Dataset, folder: RunFolder) -> None:
        self.context, self.task, self.data, self.folder = context, task, data, folder
        recipe, spec = task.spec.recipe, task.spec
        self.device = torch.device(task.numerics.device)
        self.batches = Batches(data.train, data, self.device, pad=recipe.pad, pad_mode=recipe.pad_mode)
        rows = np.arange(len(data)) if task.rows is None else np.asarray(task.rows)
        self.order = Order(
            rows,
            recipe.batch_size,
            spec.stream,
            pad=recipe.pad if data.kind == "image" else 0,
            flip=recipe.flip and data.kind == "image",
            device=self.device,
        )
        self.trained = self.taken = 0
        self._begin()

    def _built(self) -> nn.Module:
        """The network with its initial weights, where and as it is trained."""
        spec = self.task.spec
        seed = torch_seed(*spec.stream, "init")
        return network_of(spec.recipe, self.data, seed=seed, numerics=self.task.numerics)

    def _copied(self) -> nn.Module:
        """The network as it is now, built anew: some hold tensors that cannot be copied."""
        model = self._built()
        load_whole(model, whole_state(self.model))
        return model.train(self.model.training)

    def _begin(self) -> None:
        """The run before its first step."""
        task, data = self.task, self.data
        recipe, spec = task.spec.recipe, task.spec
        self.model = self._built()
        self.optimizer = make_optimizer(self.model, recipe)
        # Dropout and the like draw from torch's own stream, which checkpoints hold.
        torch.manual_seed(torch_seed(*spec.stream, "torch"))
        self.moment = Moment(
            self.model, self.optimizer, 0, recipe.steps_per_epoch(len(data)), self.order.steps_per_pass
        )
        # All that may be followed: a state that lacks one of them drops it, and the next one may have it again.
        self.followed = {
            name: entry.compute(len(data), self.device)
            for name, entry in SCORES.items()
            if entry.needs == "trajectory" and (task.marks or spec.purpose == "score")
        }
        self.watch = Trajectories(dict(self.followed))
        self.inherited: tuple[Mapping[str, Any], str] | None = None
        if spec.parent is not None:
            self._inherit(*spec.parent, spec.rewind)
        if task.mask is not None:
            task.mask.hold(self.model, self.optimizer)
        self.forward: Any = torch.compile(self.model, dynamic=False) if task.numerics.compiled else None
        self.begun = True

    def _inherit(self, parent: str, step: int, rewind: int | None) -> None:
        """A child begins with its parent's weights and momentum, or rewound with momentum afresh, and own streams."""
        point = Store(self.task.store).run(parent).load_checkpoint(step)
        if point is None:
            raise DatadietError(
                f"there is no checkpoint of the parent run {parent} at step {step}", where=self.context.label,
                fix="train the parent to that step first",
            )  # fmt: skip
        inherited = ("model/", "buffer/", "optimizer/") if rewind is None else ("model/", "buffer/")
        self.inherited = (point.meta, f"{parent}, step {step}")
        tensors = {n: t.to(self.device) for n, t in point.tensors.items() if n.startswith(inherited)}
        unpack({**tensors, "random/cpu": torch.get_rng_state()}, self.model, self.optimizer, where=parent)
        self.moment.step = self.task.spec.start

    def go(self) -> tuple[int, int]:
        missing = missing_marks(self.task, self.folder)
        due = missing_measures(self.task, self.folder)
        for step in sorted({*missing, *due}):
            point = self.folder.load_checkpoint(step)
            if point is not None and serves(point, missing.get(step, []), self.task):
                self._restore(point)
                self._take(step, missing.pop(step, []), due.pop(step, []))
        evaluations = missing_evaluations(self.task, self.folder, self.data)
        kept = {step for step in self.task.keep if not self.folder.has_checkpoint(step)}
        if missing or due or kept or evaluations:
            self._train(missing, due, kept, bool(evaluations))
            for split in evaluations:
                self._evaluate(split)
        resume = self.folder.load_resume()
        if resume is not None and resume.step <= self.task.until:  # one beyond serves whoever asks for later steps
            self.folder.drop_resume()
        return self.trained, self.taken

    def _train(
        self, missing: dict[int, list[str]], due: dict[int, list[Measure]], kept: set[int], to_the_end: bool
    ) -> None:
        stops = {*missing, *due, *kept}
        first, goal = stretch(stops, self.task.until, to_the_end)
        self._start(first)
        if self.moment.step:
            self.context.progress(self.moment.step, self.task.until, resumed=True)
        told = [Ticker(self._tell, every=max(1, goal // 2000))]
        rate = learning_rate(self.task.spec.recipe, len(self.data))
        for stop in sorted({*stops, goal}):
            while self.moment.step < stop:
                until = time.monotonic() + self.task.resume_every
                before = self.moment.step
                train(
                    self.moment,
                    stop,
                    batches=self.batches,
                    order=self.order,
                    rate=rate,
                    task=classification,
                    observers=[self.watch, *told] if self.watch.accumulators else told,
                    forward=self.forward,
                    autocast=self.task.numerics.autocast(),
                    should_stop=lambda until=until, before=before: (  # type: ignore[misc]
                        # One step at least, however short the time is.
                        (time.monotonic() > until and self.moment.step > before) or self.context.should_stop()
                    ),
                )
                self.trained += self.moment.step - before
                if self.moment.step < stop:
                    self.folder.save_resume(self.moment.step, self._state(), self._meta)
                    if self.context.should_stop():
                        raise Interrupted(f"stopped at step {self.moment.step}", where=self.context.label)
            if stop in stops:
                self.folder.save_checkpoint(stop, self._state(), self._meta)
                self._take(stop, missing.get(stop, []), due.get(stop, []))
        self._tell(goal)

    def _start(self, at_most: int) -> None:
        """Take up the newest state up to a step that has all that is needed, or the beginning."""
        point = self.folder.latest(at_most, lambda point: serves(point, self.task.scores, self.task))
        if point is not None:
            self._restore(point)
            return
        if not self.begun:  # a later checkpoint was looked at before
            self._begin()
        if self.inherited is not None:
            self._warn_if_elsewhere(*self.inherited)

    def _restore(self, point: Point) -> None:
        if not self.begun:  # a network that was used may hold caches, and know of them in ways of its own
            self._begin()
        where = f"{self.folder.path}, step {point.step}"
        self._warn_if_elsewhere(point.meta, where)
        # Observers take their part to where they keep it, and in their own precision.
        tensors = {n: t if n.startswith("observer/") else t.to(self.device) for n, t in point.tensors.items()}
        unpack(tensors, self.model, self.optimizer, where=where)
        seen = part(tensors, "observer/trajectories/")
        self.watch.accumulators = {name: a for name, a in self.followed.items() if serves(point, [name], self.task)}
        self.watch.load(seen)
        self.moment.step = point.step
        self.begun = False

    def _warn_if_elsewhere(self, meta: Mapping[str, Any], where: str) -> None:
        """Say so where a state that is gone on from was made under other numerics."""
        made = meta.get("numerics")
        if made is not None and made != self.task.numerics.to_json():
            log.warning("%s was made in another numeric environment; the last bits will not be the same", where)

    @property
    def _meta(self) -> dict[str, Any]:
        theirs = {name: code for name, code in self.task.codes.items() if name in self.watch.accumulators}
        return {"numerics": self.task.numerics.to_json(), **({"codes": theirs} if theirs else {})}

    def _state(self) -> dict[str, torch.Tensor]:
        return pack(self.model, self.optimizer, {"trajectories": self.watch.state()})

    def _take(self, step: int, names: Sequence[str], measures: Sequence[Measure] = ()) -> None:
        """Compute scores of the network as it is, and keep each as a shard; the measures' arrays as results."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            self._compute(step, names)  # a network that draws in eval mode must not move training's stream
            for measure in measures:
                seen = Seen(
                    self.model, step, self.data, self.batches, self.order, self.task.numerics, self.task.spec.stream,
                    self,
                )  # fmt: skip
                arrays = measure.take(seen)
                self.folder.save_result(measure.key, step, arrays, {"numerics": self.task.numerics.to_json()})
                self.taken += 1

    def replay(self, observers: Sequence[Observer], steps: int) -> None:
        model = self._copied()
        optimizer = make_optimizer(model, self.task.spec.recipe)
        if self.task.mask is not None:
            self.task.mask.hold(model, optimizer)
        optimizer.load_state_dict(deepcopy(self.optimizer.state_dict()))
        moment = Moment(model, optimizer, self.moment.step, self.moment.steps_per_epoch, self.moment.steps_per_pass)
        train(
            moment, moment.step + steps, batches=self.batches, order=self.order,
            rate=learning_rate(self.task.spec.recipe, len(self.data)), task=classification, observers=observers,
            forward=torch.compile(model, dynamic=False) if self.task.numerics.compiled else None,
            autocast=self.task.numerics.autocast(),
        )  # fmt: skip

    def _compute(self, step: int, names: Sequence[str]) -> None:
        found: dict[str, torch.Tensor] = {}
        labels = self.batches.labels
        logits: torch.Tensor | None = None
        followed = self.watch.result()
        for name in names:
            self._go_on()
            entry = SCORES.get(name)
            if entry.needs == "trajectory":
                found.update({column: followed[column] for column in columns([name])})
            elif entry.needs == "logits":
                if logits is None:
                    logits = self._logits(self.batches)
                own = is_ours(entry.compute)  # somebody's may change what it is given
                found[name] = entry.compute(logits, labels) if own else entry.compute(logits.clone(), labels.clone())
            elif entry.needs == "run":
                found[name] = entry.compute(len(self.data), self.task.spec.stream, step)
            else:
                model = self._calibrated() if entry.needs == "calibrated" else self.model
                found[name] = self._finite(
                    by_model(entry.compute, model, self.batches, self.task.numerics, self._go_on), f"values of {name}"
                )
            if name in found:
                found[name] = torch.as_tensor(found[name])  # somebody's may give an array or a list
            if name in found and tuple(found[name].shape) != (len(self.data),):
                raise DatadietError(
                    f"gave values of shape {tuple(found[name].shape)} for {len(self.data)} examples",
                    where=f"score {name}", fix="return one number for each example",
                )  # fmt: skip
        metas = {column: shard_meta(self.task, name, self.data) for name in names for column in columns([name])}
        for name, values in found.items():
            self.folder.save_shard(name, step, values.detach().float().cpu().numpy(), metas[name])
            self.taken += 1

    def _evaluate(self, split: str) -> None:
        examples = split_of(self.data, split)
        batches = Batches(examples, self.data, self.device)
        logits = self._logits(batches)
        correct = classification.correct(logits, batches.labels)
        loss = classification.loss(logits, batches.labels)
        self.folder.save_evaluation(
            evaluation_key(split, examples),
            self.moment.step,
            {
                "accuracy": float(correct.cpu().double().mean()),
                "loss": float(loss.cpu().double().mean()),
                "examples": len(examples),
                "numerics": self.task.numerics.to_json(),
            },
        )

    def _logits(self, batches: Batches) -> torch.Tensor:
        """(n, C) logits of all rows; weights that the last step blew up show here first."""
        return self._finite(predict(self.model, batches, self.task.numerics), "network's outputs")

    def _calibrated(self) -> nn.Module:
        """A copy whose batch norm has the statistics of unaugmented training batches."""
        spec, model = self.task.spec, self._copied()
        cuts = estimated_on(self.order.indices, spec.recipe.batch_size, stream(*spec.stream, "statistics"))
        reestimate(model, (self.batches.inputs(torch.from_numpy(cut).to(self.device)) for cut in cuts))
        return model

    def _finite(self, values: torch.Tensor, what: str) -> torch.Tensor:
        if not bool(torch.isfinite(values).all()):
            raise Diverged(
                f"the {what} are not finite at step {self.moment.step}",
                fix="a lower learning rate or a warm-up may help",
            )
        return values

    def _go_on(self) -> None:
        """Stop in the middle of the scores where that is asked for: the checkpoint they are taken from is there."""
        if self.context.should_stop():
            raise Interrupted(f"stopped while scores of step {self.moment.step} were taken", where=self.context.label)

    def _tell(self, step: int) -> None:
        self.context.progress(step, self.task.until)
