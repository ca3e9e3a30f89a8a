"""The far side of the engine `processes`: what runs in a worker process."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from datadiet.engines.job import Context, Progress, as_bug, execute
from datadiet.engines.shared import Index, open_arrays
from datadiet.errors import DatadietError

_WATCH = 1.0  # seconds between two looks at whether the parent still lives
_PACKAGE = __name__.partition(".")[0]


def log_levels() -> tuple[int, int]:
    """The levels of the root logger and of ours, which workers take over."""
    return logging.getLogger().level, logging.getLogger(_PACKAGE).level


def serve(connection: Connection, goods: Connection, parent: int, levels: tuple[int, int]) -> None:
    """Execute jobs from the parent until it says "end" or is gone.

    Args:
        goods: the pipe on which jobs come and values go, apart from the messages about them: what cannot be sent or
            taken there is the fault of one job.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    link = _Link(connection, parent)
    root = logging.getLogger()
    root.setLevel(levels[0])
    root.addHandler(_Forward(link))
    logging.getLogger(_PACKAGE).setLevel(levels[1])
    threading.Thread(target=link.listen, name="datadiet-parent", daemon=True).start()
    opened: dict[str, dict[str, np.ndarray]] = {}
    link.send("ready")
    while (message := link.inbox.get())[0] != "end":
        start, title = time.monotonic(), message[3]
        failure: DatadietError | None
        trace: str | None
        try:
            job = goods.recv()
        except BaseException as error:
            value, failure, trace, told = None, as_bug(error, title), traceback.format_exc(), False
        else:
            if job is None:  # it could not be sent
                continue
            value, failure, trace, told = _execute(link, opened, message[1:], *job)
        link.report_rest()
        if failure is None:
            link.send("value")
            try:
                goods.send((value,))
            except Exception as error:
                failure, trace = as_bug(error, title), traceback.format_exc()
                try:
                    goods.send(None)
                except OSError:
                    _leave()
        link.send("done", _portable(failure), trace, told, time.monotonic() - start)


def _execute(
    link: _Link,
    opened: dict[str, dict[str, np.ndarray]],
    about: tuple[int, str, str, int, Index],
    function: Callable[..., Any],
    arguments: dict[str, Any],
) -> tuple[Any, DatadietError | None, str | None, bool]:
    """Value, error, traceback, whether it saw that it shall stop."""
    serial, key, title, steps, index = about

    def find(fingerprint: str) -> dict[str, np.ndarray] | None:
        if fingerprint not in opened and fingerprint in index:
            opened[fingerprint] = open_arrays(index[fingerprint])
        return opened.get(fingerprint)

    context = Context(key, title, steps, report=link.report, asked=lambda: link.asked_to_stop == serial, find=find)
    return *execute(function, arguments, context), context.told


def _portable(error: DatadietError | None) -> DatadietError | None:
    # A subclass of someone's own may not survive the way back; its words do, under the nearest class of ours.
    if error is None:
        return None
    kind = next(kind for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == _PACKAGE)
    return kind(error.what, where=error.where, fix=error.fix)


class _Link:
    """This worker's end of the pipe: one thread listens, any may send."""

    def __init__(self, connection: Connection, parent: int) -> None:
        self.inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.asked_to_stop: int | None = None
        self._connection, self._parent = connection, parent
        self._lock = threading.Lock()
        self._unread = False  # the parent has not taken the last report yet
        self._held: Progress | None = None  # newest report of those that came meanwhile

    def send(self, *message: Any) -> None:
        with self._lock:
            try:
                self._connection.send(message)
            except OSError:
                _leave()

    def report(self, progress: Progress) -> None:
        """Send a report if the parent has taken the one before: a busy parent must not stall a job."""
        if self._unread:
            self._held = progress
        else:
            self._unread, self._held = True, None
            self.send("progress", progress.done, progress.total, dict(progress.info))

    def report_rest(self) -> None:
        """Send the newest report that was held back."""
        progress, self._held = self._held, None
        if progress is not None:
            self.send("progress", progress.done, progress.total, dict(progress.info))

    def listen(self) -> None:
        while True:
            try:
                # The end of the pipe tells that the parent is gone, unless a child of it holds the pipe open.
                if not self._connection.poll(_WATCH):
                    if os.name != "nt" and os.getppid() != self._parent:
                        _leave()
                    continue
                message = self._connection.recv()
            except (EOFError, OSError):
                _leave()
            if message[0] == "stop":
                self.asked_to_stop = message[1]
            elif message[0] == "taken":
                self._unread = False
            else:
                self.inbox.put(message)


class _Forward(logging.handlers.QueueHandler):
    """Log records go to the parent, whose handlers decide what to show."""

    def __init__(self, link: _Link) -> None:
        super().__init__(link.inbox)  # never used: enqueue is ours
        self._link = link

    def enqueue(self, record: logging.LogRecord) -> None:
        self._link.send("log", record)


def _leave() -> None:
    # Without the parent nobody wants a result, and whatever is half written does not count.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(1)
