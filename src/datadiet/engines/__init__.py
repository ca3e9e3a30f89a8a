"""Where independent jobs execute; no engine knows what its jobs are about."""

from __future__ import annotations

from collections.abc import Callable

from datadiet.engines.inline import Inline
from datadiet.engines.job import Context, Engine, Job, OnProgress, Outcome, Progress
from datadiet.engines.processes import Processes
from datadiet.errors import DatadietError, unknown
from datadiet.machine import cores
from datadiet.registry import Registry

AUTO = "auto"  # one of them, chosen while planning


class Engines(Registry[Callable[[int, int], Engine]]):
    """The engines; who asked for one by a name that is unknown could have said "auto" as well."""

    def get(self, name: str, *, where: object = None) -> Callable[[int, int], Engine]:
        if name not in self:
            raise unknown(self.kind, name, (*self, AUTO), where=where)
        return super().get(name, where=where)


ENGINES = Engines("engine")
"""Name to a function of (workers, threads of a job) that makes the engine."""

ENGINES.register("inline", Inline)
ENGINES.register("processes", Processes)


def make(name: str, workers: int | None = None, threads: int = 1) -> Engine:
    """The engine of a name.

    Args:
        name: "inline", "processes", or one that another package registered.
        workers: how many jobs run at a time; default: as many as the cores can serve with `threads` each.
        threads: the threads of a job, as planned; workers start their numeric libraries with this many.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES, where="engine")
    build = ENGINES.get(name)
    if workers is not None and workers < 1:
        raise DatadietError(f"{workers} workers cannot do anything", where="workers", fix="give 1 or more")
    if threads < 1:
        raise DatadietError(f"{threads} threads cannot do anything", where="threads", fix="give 1 or more")
    return build(max(1, cores() // threads) if workers is None else workers, threads)


__all__ = [
    "ENGINES",
    "Context",
    "Engine",
    "Inline",
    "Job",
    "OnProgress",
    "Outcome",
    "Processes",
    "Progress",
    "make",
]
