"""From tasks to results: skip what is done, hand the rest to an engine, come back to runs that another process held."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from datadiet import engines
from datadiet.data.dataset import Dataset
from datadiet.engines import Engine, Job
from datadiet.errors import DatadietError, Interrupted
from datadiet.flows.jobs import execute
from datadiet.flows.plan import Setup
from datadiet.flows.shared import share
from datadiet.flows.tasks import RunResult, folder_of, is_done
from datadiet.machine import cores
from datadiet.store.files import writable_folder

log = logging.getLogger(__name__)
OnProgress = Callable[[engines.Progress], object]


_kept: ContextVar[dict[tuple[str, int | None, int], Engine] | None] = ContextVar("kept engines", default=None)


KINDS = {"score": "scoring ", "retrain": "retraining ", "tune": "tuning "}  # one command may do several


@contextmanager
def kept_engines() -> Iterator[None]:
    """Within the block, workers that were started for one batch of tasks serve the next ones too."""
    if _kept.get() is not None:
        yield
        return
    made: dict[tuple[str, int | None, int], Engine] = {}
    token = _kept.set(made)
    try:
        yield
    finally:
        _kept.reset(token)
        for engine in made.values():
            engine.close()


@contextmanager
def _engine(name: str, workers: int | None, threads: int) -> Iterator[Engine]:
    made = _kept.get()
    if made is None:
        with engines.make(name, workers, threads) as engine:
            yield engine
        return
    key = (name, workers, threads)
    if key not in made:
        made[key] = engines.make(name, workers, threads)
    yield made[key]


@dataclass(frozen=True)
class Batch:
    """What executing tasks came to: how many were done before, and how much was trained now."""

    tasks: int
    reused: int
    steps: int
    seconds: float


def run_tasks(
    tasks: Sequence[tuple[str, Any]], data: Dataset, setup: Setup, on_progress: OnProgress | None = None,
    job: Callable[..., RunResult] = execute, done: Callable[[Any, Dataset], bool] = is_done,
) -> Batch:  # fmt: skip
    """Execute labelled tasks, all on one dataset.

    One that fails leaves the others alone; when all have ended, the failures are raised as one error. A task whose run
    another process holds is put off until the others are done, and then waited for.

    Args:
        tasks: (label, RunTask); or tasks of another kind with their `job` and `done`, which have `spec.name`, `until`,
            `numerics`, `data` and `wait` as a RunTask has.
    """
    pending = []
    for label, task in tasks:
        if not done(task, data):
            pending.append((label, task))
            continue
        with suppress(DatadietError):  # a store that has everything may be one to read only
            folder_of(task).prepare()  # what tells of the run may have been lost or damaged
    reused = len(tasks) - len(pending)
    if reused:
        nothing = "" if pending else ", nothing to train"
        kind = KINDS.get(getattr(tasks[0][1].spec, "purpose", ""), "")
        log.info("%d of %d %sruns are in %s already%s", reused, len(tasks), kind, setup.store, nothing)
    steps, seconds = 0, 0.0
    failures: dict[str, DatadietError] = {}
    if pending:
        writable_folder(setup.store)  # a store that has everything may be one to read only
        if on_progress is not None:
            for label, task in pending:  # so that the whole is known at once
                on_progress(engines.Progress(task.spec.name, label, 0, task.until))
        threads = pending[0][1].numerics.threads
        with _engine(engine_for(setup, pending), setup.workers, threads) as engine:
            card = share(data, engine)
            waiting = False
            while pending:
                jobs = [
                    Job(
                        task.spec.name,
                        job,
                        {"task": replace(task, data=card, wait=waiting)},
                        label=label,
                        steps=task.until,
                    )
                    for label, task in pending
                ]
                by_key = {task.spec.name: (label, task) for label, task in pending}
                pending = []
                for outcome in engine.run(jobs, on_progress):
                    label, task = by_key[outcome.key]
                    if outcome.error is not None:
                        if outcome.traceback:
                            log.error("%s\n%s", outcome.error, outcome.traceback)
                        failures[label] = outcome.error
                        continue
                    result: RunResult = outcome.value
                    if result.busy:
                        log.info("%s is being worked on by another process", label)
                        pending.append((label, task))
                    steps, seconds = steps + result.trained, seconds + result.seconds
                waiting = True
    if failures:
        _raise(failures, len(tasks))
    return Batch(len(tasks), reused, steps, seconds)


def engine_for(setup: Setup, pending: Sequence[tuple[str, Any]]) -> str:
    """The engine's name: with "auto", processes where several jobs can run side by side on this machine.

    Several workers that were asked for are had, also where one job fills the machine.
    """
    if setup.engine != "auto":
        return setup.engine
    numerics = pending[0][1].numerics
    room = setup.workers > 1 if setup.workers else numerics.device == "cpu" and numerics.threads < cores()
    return "processes" if room and len(pending) > 1 else "inline"


def _others(kept: int) -> str:
    return "the other run is" if kept == 1 else f"the other {kept} runs are"


def _raise(failures: dict[str, DatadietError], total: int) -> None:
    first_label, first = next(iter(failures.items()))
    if isinstance(first, Interrupted):
        raise first
    others = f" ({len(failures)} of {total} runs failed)" if len(failures) > 1 else ""
    kept = total - len(failures)
    raise type(first)(
        f"{first.what}{others}",
        where=first.where or first_label,
        fix="; ".join(part for part in (first.fix, f"{_others(kept)} done and kept" if kept else None) if part) or None,
    ) from first
