"""What every engine takes and gives: jobs, their context while they run, and their outcomes.

A job is a function of a module and picklable arguments. It is called as `function(context, **arguments)`,
in this process or in another, and knows no difference. One that is asked to stop saves what it has and
returns (or raises `Interrupted`); what it returns after it has seen `should_stop()` true is no result.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from datadiet.errors import DatadietError, Interrupted

PROGRESS_PAUSE = 0.1
"""Seconds between two reports of a job's progress."""


@dataclass(frozen=True)
class Job:
    """One piece of work that depends on no other.

    Args:
        key: names the job among those of its run.
        function: called as `function(context, **arguments)`; defined at the top level of a module.
        arguments: picklable and small; large read-only arrays go through `Engine.share`.
        label: what people call it, in progress bars and messages; default: the key.
        steps: how many steps it takes, where known, for progress.
        timeout: seconds after which it is asked to stop, and ended where the engine can.
    """

    key: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    steps: int = 0
    timeout: float | None = None

    @property
    def title(self) -> str:
        """The label, or the key where there is none."""
        return self.label or self.key


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a value, or an error (with its traceback where it was not meant for users)."""

    key: str
    value: Any = None
    error: DatadietError | None = None
    traceback: str | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the job ended with a value."""
        return self.error is None


@dataclass(frozen=True)
class Progress:
    """How far a job is: `done` of `total` steps (0: unknown), and what else it reports, such as a loss."""

    key: str
    label: str
    done: int
    total: int
    info: Mapping[str, Any] = field(default_factory=dict)


OnProgress = Callable[[Progress], object]


class Context:
    """What a job's function gets as its first argument.

    Args:
        job_key, label, steps: as in the job.
        report: takes a `Progress`.
        asked: whether the job is asked to stop.
        find: the shared arrays of a fingerprint, or None.
    """

    def __init__(
        self,
        job_key: str,
        label: str,
        steps: int,
        *,
        report: OnProgress,
        asked: Callable[[], bool],
        find: Callable[[str], dict[str, np.ndarray] | None],
    ) -> None:
        self.key, self.label, self.steps = job_key, label, steps
        self.told = False
        self._report, self._asked, self._find = report, asked, find
        self._next = 0.0

    def progress(self, done: int, total: int | None = None, **info: Any) -> None:
        """Report how far the job is; cheap, since all but about ten reports a second are dropped."""
        now = time.monotonic()
        total = self.steps if total is None else total
        if now >= self._next or (total and done >= total):
            self._next = now + PROGRESS_PAUSE
            self._report(Progress(self.key, self.label, done, total, info))

    def should_stop(self) -> bool:
        """Whether the job shall save what it has and return."""
        self.told = self.told or self._asked()
        return self.told

    def shared(self, fingerprint: str) -> dict[str, np.ndarray]:
        """The read-only arrays that were shared under a fingerprint."""
        arrays = self._find(fingerprint)
        if arrays is None:
            raise KeyError(f"no arrays were shared under {fingerprint!r}")
        return arrays


class Engine(Protocol):
    """Where independent jobs execute. A context manager; `close` ends what it started."""

    workers: int

    def share(self, fingerprint: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Make large read-only arrays available to jobs, by `context.shared(fingerprint)`."""

    def run(self, jobs: Iterable[Job], on_progress: OnProgress | None = None) -> Iterator[Outcome]:
        """Execute jobs and yield their outcomes as they end; one failure spoils no other.

        `on_progress` is called in this thread, first with `done` 0 when a job starts.

        Raises:
            Interrupted: a stop was asked for; running jobs have saved and returned by then.
        """

    def stop(self) -> None:
        """Ask, from any thread, for the stop that Ctrl-C asks for: jobs save, `run` raises `Interrupted`."""

    def close(self) -> None:
        """End workers and remove temporary files; the engine cannot be used afterwards."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...


def execute(
    function: Callable[..., Any], arguments: Mapping[str, Any], context: Context
) -> tuple[Any, DatadietError | None, str | None]:
    """Call a job's function: its value, or its error and traceback. Only Ctrl-C passes through."""
    try:
        return function(context, **arguments), None, None
    except KeyboardInterrupt:
        raise
    except DatadietError as error:
        return None, error, None
    except BaseException as error:  # SystemExit too: a job must not end the program
        return None, as_bug(error, context.label), traceback.format_exc()


def as_bug(error: BaseException, label: str) -> DatadietError:
    """The error for an exception that nobody meant for users; it quotes the last line of the traceback."""
    last = traceback.format_exception_only(type(error), error)[-1].strip().splitlines()
    quoted = last[0] if last else type(error).__name__
    # PyTorch says it in words, on a GPU by a class of its own; this room does without PyTorch.
    said = str(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said:
        return DatadietError(f"ran out of memory ({quoted})", where=label, fix="use fewer workers or a smaller batch")
    return DatadietError(
        f"failed with {quoted}",
        where=label,
        fix="this is a bug, in datadiet or in code of yours that it calls; the traceback tells where",
    )


def unique(jobs: Iterable[Job]) -> list[Job]:
    """The jobs as a list; two with one key are a mistake of the caller."""
    listed = list(jobs)
    keys = [job.key for job in listed]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"several jobs are called {', '.join(map(repr, twice))}")
    return listed


def interrupted() -> Interrupted:
    """The error that ends a run that was asked to stop."""
    return Interrupted("stopped; what was finished is kept", fix="the same command goes on from here")


def too_long(job: Job) -> DatadietError:
    """The error of a job that did not end within its timeout."""
    return DatadietError(
        f"took longer than its {job.timeout:g} s and was stopped", where=job.title, fix="allow it more time"
    )
