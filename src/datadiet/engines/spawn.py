"""How worker processes start: with the right threads, deaf to Ctrl-C, without the main script if possible."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from datadiet.engines import worker
from datadiet.errors import DatadietError

UNGUARDED = 87
"""Exit code of a worker that met this engine while it imported the main script."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_starting = threading.Lock()  # environment and __main__ belong to the whole process


def start(threads: int, with_main: bool) -> tuple[SpawnProcess, Connection]:
    """Start a worker, and return it with our end of its pipe.

    Args:
        threads: what its numeric libraries start with; they read it from the environment when loaded.
        with_main: whether it shall import the main script, which only functions and classes defined there
            need. Sparing it makes scripts without a `__main__` guard work, and notebooks, and standard input.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=True)
    process = context.Process(target=worker.serve, args=(theirs, os.getpid(), worker.log_levels()))
    try:
        with (
            _starting,
            _environment(threads),
            _deaf(),
            contextlib.nullcontext() if with_main else _hidden_main(),
        ):
            process.start()
    except OSError as error:
        ours.close()
        raise DatadietError(
            f"a worker process cannot be started ({error.strerror or error})", fix="use fewer workers"
        ) from error
    finally:
        # Once the worker alone holds its end, its death closes the pipe.
        theirs.close()
    return process, ours


def main_file() -> str | None:
    """The file of the main script or module where workers could import it; None in notebooks and the like."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return file if file is not None and os.path.isfile(file) else None


def leave_if_importing_main() -> None:
    """End this process if it is a worker that is importing the user's script: the script has no guard."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def start_failure(code: int | None) -> DatadietError:
    """The error for a worker that ended before it was ready."""
    if code == UNGUARDED:
        return DatadietError(
            "starts jobs when it is imported, and workers have to import it for the functions it defines",
            where=main_file() or "the main script",
            fix='put the part that starts them under `if __name__ == "__main__":`, or use the inline engine',
        )
    return DatadietError(
        f"a worker process did not start ({ending(code)})",
        fix="what it wrote to standard error says why; the inline engine needs no workers",
    )


def ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "it does not answer"
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if name == "SIGKILL":
        return "it was killed (SIGKILL), most often because memory ran out"
    return f"it was ended by {name}"


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _deaf() -> Iterator[None]:
    # Ctrl-C reaches all processes of a terminal, and SIGTERM may reach a whole group. A worker inherits the blocked
    # signals and so survives its own start; ours stay pending until the end of the block.
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    # Its own start, which the first worker brings about, would unblock the signals.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _hidden_main() -> Iterator[None]:
    # A spawned process imports whatever file `__main__` names; a bare module names none.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
