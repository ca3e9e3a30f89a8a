"""The engine that works in several processes of this machine, each with its own interpreter.

A small pool of our own: the standard ones lose every job when one worker dies. Workers are spawned, never
forked (a fork after OpenMP has started may hang), each is alone on its pipe, and one that dies takes its job
with it and nothing else. `wire.py` says how jobs and their values cross the pipes.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.connection
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np

from datadiet.engines import spawn
from datadiet.engines.job import Job, OnProgress, Outcome, Progress, as_bug, interrupted, too_long, unique
from datadiet.engines.shared import SharedArrays
from datadiet.engines.wire import pack, unpack
from datadiet.errors import DatadietError, Interrupted
from datadiet.interrupt import ctrl_c

log = logging.getLogger(__name__)

_PAUSE = 0.2  # seconds between two looks at what no pipe tells: deaths, timeouts, signals
_FAILED_STARTS = 3


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    with_main: bool
    ready: bool = False
    job: Job | None = None
    serial: int = 0  # of the job; a key may come again in a later run
    started: float = 0.0
    asked: float | None = None  # since when its job is asked to stop
    late: bool = False  # and that because of its timeout

    def ask(self) -> None:
        assert self.job is not None
        self.asked = time.monotonic()
        self.send("stop", self.serial)

    def send(self, *message: Any) -> bool:
        try:
            self.connection.send(message)
        except OSError:  # it is dead; the next look finds it so
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Processes:
    """Jobs in `workers` processes at a time.

    Args:
        workers: how many.
        threads: what the numeric libraries of a worker start with; the job itself may set others.
        grace: seconds between asking a job that is past its timeout to stop and ending its process.
    """

    def __init__(self, workers: int = 1, threads: int = 1, *, grace: float = 30.0) -> None:
        self.workers, self.threads, self.grace = workers, threads, grace
        self._pool: list[_Worker] = []
        self._shared = SharedArrays()
        self._stop = threading.Event()
        self._failed_starts = 0
        self._serial = 0

    def share(self, fingerprint: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays once to a temporary folder, from which workers map them into memory."""
        spawn.leave_if_importing_main()
        atexit.register(self.close)
        self._shared.add(fingerprint, arrays)

    def run(self, jobs: Iterable[Job], on_progress: OnProgress | None = None) -> Iterator[Outcome]:
        """Execute the jobs, each in one of the workers; see `Engine.run`."""
        spawn.leave_if_importing_main()
        if any(worker.job for worker in self._pool):
            raise RuntimeError("an engine executes one run at a time")
        self._stop.clear()
        self._failed_starts = 0
        return self._run(unique(jobs), on_progress or (lambda _: None))

    def stop(self) -> None:
        """Ask running jobs to save and return; `run` then raises `Interrupted`."""
        self._stop.set()

    def close(self) -> None:
        """End the workers, at once those that are busy, and remove the shared files."""
        idle = [worker for worker in self._pool if worker.ready and worker.job is None and worker.send("end")]
        deadline = time.monotonic() + 5.0
        for worker in idle:
            worker.process.join(max(0.0, deadline - time.monotonic()))
        while self._pool:
            self._pool[-1].kill()
            self._pool.pop()
        self._shared.close()
        atexit.unregister(self.close)  # not before: a signal in the middle leaves the rest to the end of the program

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- a run

    def _run(self, jobs: list[Job], report: OnProgress) -> Iterator[Outcome]:
        waiting: deque[tuple[Job, bytes]] = deque()
        for job in jobs:
            packed = _pack(job)
            if isinstance(packed, Outcome):
                yield packed
            else:
                waiting.append((job, packed))
        with_main = any(b"__main__" in payload for _, payload in waiting)
        with ctrl_c(self._stop):
            try:
                while waiting or any(worker.job for worker in self._pool):
                    if self._stop.is_set():
                        waiting.clear()
                        for worker in self._pool:
                            if worker.job is not None and worker.asked is None:
                                worker.ask()
                    else:
                        self._hand_out(waiting, with_main, report)
                    for outcome in self._collect(report):
                        if not (self._stop.is_set() and isinstance(outcome.error, Interrupted)):
                            yield outcome
            finally:
                # Left early: by a second signal, by an error, or because nobody wants more outcomes.
                for worker in [worker for worker in self._pool if worker.job is not None]:
                    self._pool.remove(worker)
                    worker.kill()
        if self._stop.is_set():  # also where every job has ended: what comes after must not begin
            raise interrupted()

    def _hand_out(self, waiting: deque[tuple[Job, bytes]], with_main: bool, report: OnProgress) -> None:
        """Start the workers that are missing, and give jobs to those that are idle."""
        for worker in [worker for worker in self._pool if with_main and not worker.with_main]:
            self._pool.remove(worker)
            worker.kill()
        busy = sum(worker.job is not None for worker in self._pool)
        while len(self._pool) < min(self.workers, busy + len(waiting)):
            atexit.register(self.close)
            process, connection = spawn.start(self.threads, with_main)
            self._pool.append(_Worker(process, connection, with_main))
        for worker in self._pool:
            if waiting and worker.ready and worker.job is None:
                job, payload = waiting[0]
                self._serial = worker.serial = self._serial + 1
                # Busy before the sending: a Ctrl-C in the middle of it must not leave a worker that seems idle.
                worker.job, worker.started = job, time.monotonic()
                worker.asked, worker.late = None, False
                if worker.send("job", worker.serial, job.key, job.title, job.steps, payload, self._shared.index):
                    waiting.popleft()
                    report(Progress(job.key, job.title, 0, job.steps))
                else:  # it is dead; the job goes to another
                    worker.job = None

    def _collect(self, report: OnProgress) -> Iterator[Outcome]:
        """Wait a moment for news of the workers and yield the outcomes among them."""
        multiprocessing.connection.wait([worker.connection for worker in self._pool], timeout=_PAUSE)
        for worker in list(self._pool):
            # Looked up before the pipe is read: what a worker sent before it died still counts.
            dead = worker.process.exitcode is not None
            for message in _messages(worker):
                if message is None:
                    dead = True
                elif message[0] == "done":
                    yield self._done(worker, *message[1:])
                else:
                    self._note(worker, message, report)
            if dead:
                yield from self._died(worker)
            elif worker.job is not None and worker.job.timeout is not None:
                yield from self._hurry(worker, worker.job, worker.job.timeout)

    def _note(self, worker: _Worker, message: tuple[Any, ...], report: OnProgress) -> None:
        if message[0] == "ready":
            worker.ready, self._failed_starts = True, 0
        elif message[0] == "progress" and worker.job is not None:
            done, total, info = message[1:]
            report(Progress(worker.job.key, worker.job.title, done, total, info))
            worker.send("taken")
        elif message[0] == "log":
            logger = logging.getLogger(message[1].name)
            if logger.isEnabledFor(message[1].levelno):
                logger.handle(message[1])

    def _done(
        self,
        worker: _Worker,
        data: bytes | None,
        error: DatadietError | None,
        trace: str | None,
        told: bool,
        seconds: float,
    ) -> Outcome:
        job, worker.job = worker.job, None
        assert job is not None
        if told and (error is None or isinstance(error, Interrupted)):
            return Outcome(job.key, None, too_long(job) if worker.late else interrupted(), None, seconds)
        value = None
        if data is not None:
            try:
                value = unpack(data)
            except Exception as problem:
                error, trace = as_bug(problem, job.title), traceback.format_exc()
        return Outcome(job.key, value, error, trace, seconds)

    def _died(self, worker: _Worker) -> Iterator[Outcome]:
        worker.process.join(5.0)  # the pipe may close a moment before the process ends
        code = worker.process.exitcode
        self._pool.remove(worker)
        worker.kill()
        if not worker.ready:
            self._failed_starts += 1
            if code == spawn.UNGUARDED or self._failed_starts >= _FAILED_STARTS:
                raise spawn.start_failure(code)
            log.warning("a worker process did not start (%s); another is tried", spawn.ending(code))
        elif worker.job is not None:
            error = DatadietError(
                f"its process is gone: {spawn.ending(code)}",
                where=worker.job.title,
                fix="the same command tries it again; fewer workers or a smaller batch need less memory",
            )
            yield Outcome(worker.job.key, None, error, None, time.monotonic() - worker.started)

    def _hurry(self, worker: _Worker, job: Job, timeout: float) -> Iterator[Outcome]:
        """Ask a job that is past its timeout to stop, and end its process when it does not."""
        now = time.monotonic()
        if not worker.late and now - worker.started > timeout:
            worker.late = True
            worker.ask()
        elif worker.late and worker.asked is not None and now - worker.asked > self.grace:
            self._pool.remove(worker)
            worker.kill()
            yield Outcome(job.key, None, too_long(job), None, now - worker.started)


def _pack(job: Job) -> bytes | Outcome:
    """A job's function and arguments as bytes; its outcome where they cannot be sent."""
    try:
        payload = pack((job.function, dict(job.arguments)))
    except Exception as error:
        return _unsendable(job, str(error), traceback.format_exc())
    if b"__main__" in payload and spawn.main_file() is None:
        return _unsendable(job, "it uses what the main program defines, which has no file to import", None)
    return payload


def _unsendable(job: Job, why: str, trace: str | None) -> Outcome:
    error = DatadietError(
        f"cannot be sent to another process ({why})",
        where=job.title,
        fix="define what it uses at the top level of a module, or use the inline engine",
    )
    return Outcome(job.key, None, error, trace)


def _messages(worker: _Worker) -> Iterator[tuple[Any, ...] | None]:
    """All that a worker has sent; None at the end of its pipe."""
    while True:
        try:
            if not worker.connection.poll(0):
                return
            message = worker.connection.recv()
        except (EOFError, OSError):
            yield None
            return
        yield message
