"""What a job is asked for: one run and how far, which scores, which accuracies; and what of it is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from datadiet import models
from datadiet.data.dataset import Dataset, Examples
from datadiet.errors import DatadietError
from datadiet.flows.shared import DataCard
from datadiet.numerics import Numerics
from datadiet.scores import SCORES
from datadiet.source import code_of, is_ours
from datadiet.store import Store
from datadiet.store.runs import RunFolder
from datadiet.training.masks import Mask
from datadiet.training.recipe import RunSpec

RESUME_EVERY = 60.0  # seconds of training between two resume points


class Measure(Protocol):
    """What is taken of a run's network at a step, beside scores: named arrays, kept with the run.

    `key` names the result in the store and tells all that decides it. `take` gets the run as it is at that step, in a
    job (`flows.jobs.Seen`); it is sent with its task.
    """

    @property
    def key(self) -> str: ...

    def take(self, seen: Any) -> dict[str, np.ndarray]: ...

    def cost(self, data: Dataset, batch: int) -> tuple[int, int]:
        """(examples that go through the network, examples that also go back), at this batch size, for an estimate."""
        ...

    def bytes(self, data: Dataset) -> int:
        """Bytes of its arrays, for an estimate."""
        ...


@dataclass(frozen=True)
class RunTask:
    """One run and what is asked of it.

    Args:
        spec: what the run is; its name is the run's name.
        store: root of the store.
        data: what is needed to find the dataset's arrays again in another process.
        numerics: the environment, resolved when the job was planned.
        until: the step to train to.
        marks: steps at which scores are taken; each keeps a checkpoint.
        scores: names of the scores.
        rows: training rows of a subset; None for all.
        mask: which weights are left, whose digest the spec has; None for all.
        evaluate: splits whose accuracy is taken at `until`: "test", "validation".
        keep: steps whose checkpoint is kept, besides the marks.
        measures: (step, Measure) of what else is taken; each step keeps a checkpoint.
        wait: whether to wait for another process that works on this run, or to return at once.
        resume_every: seconds of training between two resume points.
        needs: functions of others that the run uses; a worker that unpickles them imports what registers them.
        codes: what identifies the code of others' scores, by name.
    """

    spec: RunSpec
    store: str
    data: DataCard
    numerics: Numerics
    until: int
    marks: tuple[int, ...] = ()
    scores: tuple[str, ...] = ()
    rows: np.ndarray | None = None
    evaluate: tuple[str, ...] = ()
    keep: tuple[int, ...] = ()
    measures: tuple[tuple[int, Measure], ...] = ()
    wait: bool = False
    resume_every: float = RESUME_EVERY
    needs: tuple[Any, ...] = ()
    mask: Mask | None = None
    codes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """What a job did: `busy` when another process holds the run; else steps trained and scores taken now."""

    name: str
    busy: bool = False
    trained: int = 0
    taken: int = 0
    seconds: float = 0.0


def functions_of(model: str, scores: Sequence[str] = ()) -> tuple[Any, ...]:
    """The registered functions among a run's that are not this library's own."""
    used = [SCORES.get(name).compute for name in scores]
    if not models.is_foreign(model):
        used.append(models.MODELS.get(model))
    return tuple(f for f in used if not is_ours(f))


def codes_of_scores() -> dict[str, str]:
    """What identifies the code of every registered score that is not the library's, by name."""
    theirs = {name: code_of([entry.compute]) for name, entry in SCORES.items() if not is_ours(entry.compute)}
    return {name: code for name, code in theirs.items() if code is not None}


def has_score(task: RunTask, folder: RunFolder, name: str, step: int) -> bool:
    """Whether a score's shards are there and whole, and of its code as it is now."""
    for column in columns([name]):
        found = folder.load_shard(column, step)
        if found is None or found[1].get("code") != task.codes.get(name):
            return False
    return True


def shard_meta(task: RunTask, name: str, data: Dataset) -> dict[str, Any]:
    """What is written with a score's values: what they are of, and under what they were computed."""
    meta = {"fingerprint": str(data.train.fingerprint), "numerics": task.numerics.to_json()}
    return {**meta, "code": task.codes[name]} if name in task.codes else meta


def folder_of(task: RunTask) -> RunFolder:
    return Store(task.store).run(task.spec.name, task.spec.to_json())


def gone(folder: RunFolder) -> DatadietError:
    """What to say where a result that a finished job wrote is not there any more."""
    return DatadietError("a result of this run is gone", where=folder.path, fix="run the command again")


def arrays_of(task: RunTask, key: str, step: int) -> dict[str, np.ndarray]:
    """The arrays that a finished job's measure of that key left."""
    folder = folder_of(task)
    found = folder.load_result(key, step)
    if found is None:
        raise gone(folder)
    return found[0]


def accuracy_of(task: RunTask, split: str, data: Dataset) -> float:
    """The accuracy that a finished job left."""
    folder = folder_of(task)
    found = folder.load_evaluation(evaluation_key(split, split_of(data, split)), task.until)
    if found is None:
        raise gone(folder)
    return float(found["accuracy"])


def evaluation_key(split: str, examples: Examples) -> str:
    """The name of an accuracy in the store: other examples or labels are another evaluation."""
    return f"{split}-{examples.fingerprint.inputs}-{examples.fingerprint.labels}"


def columns(scores: Sequence[str]) -> list[str]:
    """The shards that scores make: their own and their further columns."""
    return [column for name in scores for column in (name, *SCORES.get(name).columns)]


def defined_at(scores: Sequence[str], step: int) -> list[str]:
    """The scores that exist at a step: what follows training has seen nothing at step 0."""
    return [name for name in scores if step > 0 or SCORES.get(name).needs != "trajectory"]


def missing_marks(task: RunTask, folder: RunFolder) -> dict[int, list[str]]:
    """For each mark the scores of which a shard is missing or damaged."""
    out: dict[int, list[str]] = {}
    for mark in task.marks:
        names = [name for name in defined_at(task.scores, mark) if not has_score(task, folder, name, mark)]
        if names:
            out[mark] = names
    return out


def is_done(task: RunTask, data: Dataset) -> bool:
    """Whether everything the task asks for is in the store, whole."""
    folder = folder_of(task)
    if missing_marks(task, folder) or missing_evaluations(task, folder, data) or missing_measures(task, folder):
        return False
    return all(folder.has_checkpoint(step) for step in task.keep)


def missing_measures(task: RunTask, folder: RunFolder) -> dict[int, list[Measure]]:
    """For each step the measures whose result is missing or damaged."""
    out: dict[int, list[Measure]] = {}
    for step, measure in task.measures:
        if folder.load_result(measure.key, step) is None:
            out.setdefault(step, []).append(measure)
    return out


def missing_evaluations(task: RunTask, folder: RunFolder, data: Dataset) -> list[str]:
    return [
        split
        for split in task.evaluate
        if folder.load_evaluation(evaluation_key(split, split_of(data, split)), task.until) is None
    ]


def split_of(data: Dataset, name: str) -> Examples:
    examples = data.test if name == "test" else data.validation if name == "validation" else data.train
    assert examples is not None, f"no {name} split"  # planned against the same dataset
    return examples
