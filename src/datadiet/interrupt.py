"""Ctrl-C and SIGTERM: during a run the first asks jobs to save and return, the second ends at once.

Batch systems take a machine back with SIGTERM. Outside of runs it is for the command line to handle; in other programs
it does there what it always did.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

_ONE = 0.3  # seconds in which one request may arrive twice: `timeout` signals the process, and then its group
_AGAIN = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_last = (-math.inf, int(signal.SIGINT))  # when a stop was asked for, and by which signal


@contextmanager
def ctrl_c(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on the first SIGINT or SIGTERM, raise KeyboardInterrupt on the next; the old handlers come back after.

    Python lets only the main thread handle signals: in another one nothing changes, nor for a signal that is
    ignored (SIGINT in a program in the background), nor where something that is not Python handles it.
    """

    def handle(number: int, _frame: object) -> None:
        if not stop.is_set():
            _note(number)
            stop.set()
            again = _AGAIN[signal.Signals(number)]
            log.warning("stopping: running jobs save what they have; %s again ends at once", again)
        elif _note(number):
            raise KeyboardInterrupt

    with _handled(signal.SIGINT, handle), _handled(signal.SIGTERM, handle):
        yield


@contextmanager
def sigterm() -> Iterator[None]:
    """Within the block, for a whole command, SIGTERM raises KeyboardInterrupt as Ctrl-C does."""
    global _last
    _last = (-math.inf, int(signal.SIGINT))

    def handle(number: int, _frame: object) -> None:
        if _note(number):
            raise KeyboardInterrupt

    with _handled(signal.SIGTERM, handle):
        yield


def exit_code() -> int:
    """What a command that was stopped exits with: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _last[1]


def _note(number: int) -> bool:
    """Remember a signal; whether it is more than the one before arriving once more."""
    global _last
    now, before = time.monotonic(), _last[0]
    _last = (now, number)
    return now - before > _ONE


@contextmanager
def _handled(number: signal.Signals, handle: Callable[[int, object], None]) -> Iterator[None]:
    before = signal.getsignal(number)
    main = threading.current_thread() is threading.main_thread()
    if not main or before in (None, signal.SIG_IGN):
        yield
        return
    signal.signal(number, handle)
    try:
        yield
    finally:
        # A generator may be closed by another thread than the one that ran it.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is handle:
            signal.signal(number, before)
