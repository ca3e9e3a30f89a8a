"""Jobs for the tests of the engines; workers import them from here."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.engines.job import Context
from datadiet.errors import DatadietError, Diverged


def square(context: Context, value: int) -> int:
    return value * value


def about_me(context: Context) -> tuple[int, str | None, int]:
    import torch

    return os.getpid(), os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()


def my_pid(context: Context) -> int:
    return os.getpid()


def fail(context: Context) -> None:
    raise ZeroDivisionError("one by none")


def diverge(context: Context) -> None:
    raise Diverged("the loss is nan", where="step 7", fix="lower the rate")


class Private(DatadietError):
    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}", fix="take another")

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("stays here")


def fail_privately(context: Context) -> None:
    raise Private(3)


def leave(context: Context) -> None:
    raise SystemExit(3)


def die(context: Context, number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


def quit_process(context: Context) -> None:
    os._exit(5)


def unpicklable_result(context: Context) -> object:
    return lambda: None


class Stays:
    """Crosses to a process as far as its bytes; whoever unpacks them fails."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return refuse, (self.kind,)


def refuse(kind: type[Exception]) -> None:
    raise kind("not here")


def give(context: Context, kind: type[Exception]) -> object:
    return Stays(kind)


def last(context: Context, *, of: list[Any]) -> Any:
    return of[-1]


def spoil(context: Context, tensor: Any) -> Any:
    tensor[0] = 99
    return tensor


def doubled(context: Context, tensor: Any) -> Any:
    return 2 * tensor


def total(context: Context, fingerprint: str) -> tuple[float, bool]:
    arrays = context.shared(fingerprint)
    return float(sum(array.sum() for array in arrays.values())), any(a.flags.writeable for a in arrays.values())


def report(context: Context, steps: int) -> int:
    for step in range(steps + 1):
        context.progress(step, loss=1.0 / (step + 1))
    return steps


def chatter(context: Context, folder: str) -> int:
    for step in range(1, 7):
        context.progress(6, total=6, step=step, text="x" * 1_000_000)  # more than a pipe holds
    Path(folder, "done").write_text("done")
    return 6


def warn(context: Context) -> None:
    logging.getLogger("datadiet.somewhere").warning("from afar: %d", 7)


def until_asked(context: Context, folder: str, name: str) -> str:
    """Write `<name>.pid`, wait to be asked, then save `<name>.saved`."""
    Path(folder, f"{name}.pid").write_text(str(os.getpid()))
    end = time.monotonic() + 300
    while not context.should_stop():
        if time.monotonic() > end:
            raise TimeoutError("nobody asked")
        time.sleep(0.01)
    Path(folder, f"{name}.saved").write_text("state")
    return "half"


def deaf(context: Context, folder: str = "", seconds: float = 300.0) -> None:
    if folder:
        Path(folder, "deaf.pid").write_text(str(os.getpid()))
    time.sleep(seconds)


def signal_then_wait(context: Context, pid: int, number: int, folder: str) -> str:
    os.kill(pid, number)
    return until_asked(context, folder, "asker")


def interrupt_and_finish(context: Context, pid: int) -> str:
    """A Ctrl-C in the part of a job that no longer looks whether it is asked to stop."""
    os.kill(pid, signal.SIGINT)
    time.sleep(0.5)
    return "whole"


def draw(context: Context, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(1000)
