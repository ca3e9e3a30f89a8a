"""The engine that works in this process: one job after another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from datadiet.engines.job import (
    Context,
    Job,
    OnProgress,
    Outcome,
    Progress,
    execute,
    interrupted,
    too_long,
    unique,
)
from datadiet.errors import Interrupted
from datadiet.interrupt import ctrl_c


class Inline:
    """Jobs one after another in this process. A timeout asks a job to stop, and cannot end one that does not.

    Args:
        workers, threads: taken so that engines can be made alike; jobs set their own threads.
    """

    def __init__(self, workers: int = 1, threads: int = 1) -> None:
        self.workers = 1
        self._arrays: dict[str, dict[str, np.ndarray]] = {}
        self._stop = threading.Event()

    def share(self, fingerprint: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Hand the arrays over as they are, without a copy; jobs see them read-only as with other engines."""
        views = {name: np.asarray(array).view() for name, array in arrays.items()}
        for view in views.values():
            view.flags.writeable = False
        self._arrays[fingerprint] = views

    def run(self, jobs: Iterable[Job], on_progress: OnProgress | None = None) -> Iterator[Outcome]:
        """Execute the jobs in their order; see `Engine.run`."""
        self._stop.clear()
        return self._run(unique(jobs), on_progress or (lambda _: None))

    def _run(self, jobs: list[Job], report: OnProgress) -> Iterator[Outcome]:
        with ctrl_c(self._stop):
            for job in jobs:
                if self._stop.is_set():
                    raise interrupted()
                outcome = self._one(job, report)
                if isinstance(outcome.error, Interrupted):
                    raise interrupted()
                # One that ended without having seen the request is as good as any.
                yield outcome
            if self._stop.is_set():  # in the last job, which did not see it: what comes after must not begin
                raise interrupted()

    def stop(self) -> None:
        """Ask the running job to save and return; `run` then raises `Interrupted`."""
        self._stop.set()

    def close(self) -> None:
        """Let go of the shared arrays."""
        self._arrays.clear()

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _one(self, job: Job, report: OnProgress) -> Outcome:
        start = time.monotonic()
        end = None if job.timeout is None else start + job.timeout

        def late() -> bool:
            return end is not None and time.monotonic() > end

        context = Context(
            job.key,
            job.title,
            job.steps,
            report=report,
            asked=lambda: self._stop.is_set() or late(),
            find=self._arrays.get,
        )
        report(Progress(job.key, job.title, 0, job.steps))
        value, error, trace = execute(job.function, job.arguments, context)
        if context.told and (error is None or isinstance(error, Interrupted)):
            value, error = None, interrupted() if self._stop.is_set() else too_long(job)
        return Outcome(job.key, value, error, trace, time.monotonic() - start)
