"""The numeric environments that results were made in, which may be others than the present one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from datadiet.data.dataset import Dataset
from datadiet.flows.spawning import RESULT, PathTask
from datadiet.flows.tasks import RunTask, columns, defined_at, evaluation_key, folder_of, split_of

log = logging.getLogger(__name__)


def environments_of(tasks: Iterable[RunTask | PathTask], data: Dataset) -> list[dict[str, Any]]:
    """Those of all results of some tasks on a dataset, each once, in the order of the tasks, as the store tells."""
    out: list[dict[str, Any]] = []
    for task in tasks:
        for meta in _of_path(task) if isinstance(task, PathTask) else _of_run(task, data):
            # What was walked between networks tells of these too.
            for one in (meta.get("numerics"), *meta.get("networks", ())):
                if one is not None and one not in out:
                    out.append(one)
    return out


def warn_if_mixed(environments: Sequence[Mapping[str, Any]]) -> None:
    """Say so where results of several numeric environments stand beside each other."""
    if len(environments) > 1:
        log.warning("these results are of %d numeric environments; their last bits differ by that", len(environments))


def _of_run(task: RunTask, data: Dataset) -> Iterator[Mapping[str, Any]]:
    folder = folder_of(task)
    shards = [(column, mark) for mark in task.marks for column in columns(defined_at(task.scores, mark))]
    results = [(measure.key, step) for step, measure in task.measures]
    for found in (*(folder.load_shard(*key) for key in shards), *(folder.load_result(*key) for key in results)):
        if found is not None:
            yield found[1]
    for split in task.evaluate:
        yield folder.load_evaluation(evaluation_key(split, split_of(data, split)), task.until) or {}


def _of_path(task: PathTask) -> Iterator[Mapping[str, Any]]:
    found = task.folder.load_result(RESULT, task.spec.step)
    if found is not None:
        yield found[1]
