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
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from datadiet.engines.job import Context, Progress, as_bug, execute
from datadiet.engines.shared import Index, open_arrays
from datadiet.engines.wire import pack, unpack
from datadiet.errors import DatadietError, Interrupted

_WATCH = 1.0  # seconds between two looks at whether the parent still lives
_PACKAGE = __name__.partition(".")[0]


def log_levels() -> tuple[int, int]:
    """The levels of the root logger and of ours, which workers take over."""
    return logging.getLogger().level, logging.getLogger(_PACKAGE).level


def serve(connection: Connection, parent: int, levels: tuple[int, int]) -> None:
    """Execute jobs from the parent until it says "end" or is gone."""
    # Either may reach the whole group; it is the parent that asks for a stop, and it ends workers by SIGKILL.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    link = _Link(connection, parent)
    root = logging.getLogger()
    root.setLevel(levels[0])
    root.addHandler(_Forward(link))
    logging.getLogger(_PACKAGE).setLevel(levels[1])
    threading.Thread(target=link.listen, name="datadiet-parent", daemon=True).start()
    opened: dict[str, dict[str, np.ndarray]] = {}
    link.send("ready")
    while (message := link.inbox.get())[0] != "end":
        result = _execute(link, opened, *message[1:])
        link.report_rest()
        link.send("done", *result)


def _execute(
    link: _Link,
    opened: dict[str, dict[str, np.ndarray]],
    serial: int,
    key: str,
    title: str,
    steps: int,
    payload: bytes,
    index: Index,
) -> tuple[bytes | None, DatadietError | None, str | None, bool, float]:
    """Value (packed), error, traceback, whether it saw that it shall stop, seconds."""
    start = time.monotonic()

    def find(fingerprint: str) -> dict[str, np.ndarray] | None:
        if fingerprint not in opened and fingerprint in index:
            opened[fingerprint] = open_arrays(index[fingerprint])
        return opened.get(fingerprint)

    context = Context(key, title, steps, report=link.report, asked=lambda: link.asked_to_stop == serial, find=find)
    try:
        function, arguments = unpack(payload)
    except BaseException as error:
        return None, as_bug(error, title), traceback.format_exc(), False, time.monotonic() - start
    value, failure, trace = execute(function, arguments, context)
    data = None
    if failure is None:
        try:
            data = pack(value)
        except Exception as error:
            failure, trace = as_bug(error, title), traceback.format_exc()
    return data, _portable(failure), trace, context.told, time.monotonic() - start


def _portable(error: DatadietError | None) -> DatadietError | None:
    # A subclass of someone's own may not survive the way back; its words do.
    if error is None:
        return None
    try:
        unpack(pack(error))
    except Exception:  # whatever its own class raises; nothing is lost, its words go back under a class that travels
        kind = Interrupted if isinstance(error, Interrupted) else DatadietError
        return kind(error.what, where=error.where, fix=error.fix)
    return error


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
