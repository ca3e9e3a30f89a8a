"""The numeric environments that results were made in, which may be others than the present one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from datadiet.data.dataset import Dataset
from datadiet.flows.spawning import RESULT, PathTask
from datadiet.flows.tasks import RunTask, columns, defined_at, evaluation_key, folder_of, split_of
from datadiet.store import Store
from datadiet.store.runs import RunFolder

log = logging.getLogger(__name__)


def environments_of(tasks: Iterable[RunTask | PathTask], data: Dataset) -> list[dict[str, Any]]:
    """Those of all results of some tasks on a dataset, each once, in the order of the tasks, as the store tells."""
    out: list[dict[str, Any]] = []
    for task in tasks:
        for meta in _metas(task, data):
            # What was walked between networks tells of these too.
            for one in (meta.get("numerics"), *meta.get("networks", ())):
                if one is not None and one not in out:
                    out.append(one)
    return out


def warn_if_mixed(environments: Sequence[Mapping[str, Any]]) -> None:
    """Say so where results of several numeric environments stand beside each other."""
    if len(environments) > 1:
        log.warning("these results are of %d numeric environments; their last bits differ by that", len(environments))


def _metas(task: RunTask | PathTask, data: Dataset) -> Iterator[Mapping[str, Any]]:
    """What was written with each result of a task; of one that only keeps networks, with these."""
    if isinstance(task, PathTask):
        walked = task.folder.load_result(RESULT, task.spec.step)
        if walked is not None:
            yield walked[1]
        if walked is not None and "numerics" not in walked[1]:  # former versions told it of the networks alone
            yield from _kept((Store(task.store).run(name) for name in task.spec.networks), (task.spec.step,))
        return
    folder = folder_of(task)
    for mark in task.marks:
        for column in columns(defined_at(task.scores, mark)):
            shard = folder.load_shard(column, mark)
            if shard is not None:
                yield shard[1]
    for step, measure in task.measures:
        result = folder.load_result(measure.key, step)
        if result is not None:
            yield result[1]
    for split in task.evaluate:
        yield folder.load_evaluation(evaluation_key(split, split_of(data, split)), task.until) or {}
    if not (task.marks or task.measures or task.evaluate):
        yield from _kept((folder,), task.keep)


def _kept(folders: Iterable[RunFolder], steps: Iterable[int]) -> Iterator[Mapping[str, Any]]:
    for folder in folders:
        for step in steps:
            point = folder.load_checkpoint(step)
            if point is not None:
                yield point.meta
