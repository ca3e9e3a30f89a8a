"""Ctrl-C during a run: the first asks jobs to save and return, the second ends at once."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def ctrl_c(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on the first SIGINT, raise KeyboardInterrupt on the next; the old handler comes back after.

    Python lets only the main thread handle signals: in another one nothing changes, nor where SIGINT is
    ignored (a program in the background), nor where something that is not Python handles it.
    """
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before in (None, signal.SIG_IGN):
        yield
        return

    def handle(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        log.warning("stopping: running jobs save what they have; Ctrl-C again ends at once")

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        # A generator may be closed by another thread than the one that ran it.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is handle:
            signal.signal(signal.SIGINT, before)
