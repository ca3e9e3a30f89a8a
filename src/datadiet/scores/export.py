"""A ScoreTable as Parquet, and a scoring folder as a ScoreTable."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.machine import expanded
from datadiet.store.files import Damaged, read_json, read_tensors

if TYPE_CHECKING:
    from datadiet.scores.table import ScoreTable

log = logging.getLogger(__name__)

SCHEMA = 1
EXAMPLES = "examples.safetensors"


def shard_path(folder: Path, run: int, name: str, step: int) -> Path:
    """Where a scoring folder keeps the values of one run, score and step."""
    return folder / "shards" / f"run-{run:03d}" / f"{name}@{step:08d}.safetensors"


def load_table(folder: str | Path) -> ScoreTable:
    """The table of a folder that `datadiet score` wrote; values are read, and verified, when asked for."""
    from datadiet.scores.table import ScoreTable

    path = expanded(folder)
    file = path / "manifest.json"
    if not file.exists():
        raise DatadietError(
            "holds no scores" if path.exists() else "no such folder", where=path, fix="make it with `datadiet score`"
        )
    manifest = read_json(file, schema=SCHEMA)
    if manifest.get("what") != "scores":
        raise DatadietError("is no scoring folder", where=path, fix="make one with `datadiet score`")
    arrays, told = read_tensors(path / EXAMPLES)
    if "labels" not in arrays or "what" in told:
        raise DatadietError("is of something else than the scores beside it", where=path / EXAMPLES, fix="score again")
    if told.get("fingerprint") != manifest["fingerprint"]:
        raise DatadietError("is of other data than the manifest", where=path / EXAMPLES, fix="score again")
    shards: dict[tuple[str, int], list[Callable[[], np.ndarray]]] = {}
    for name, step, runs in manifest["columns"]:
        shards[(name, step)] = [
            partial(read_shard, shard_path(path, run, name, step), name, step, manifest["fingerprint"])
            for run in range(runs)
        ]
    return ScoreTable(
        shards=shards,
        labels=arrays["labels"],
        fingerprint=manifest["fingerprint"],
        steps_per_epoch=manifest["steps_per_epoch"],
        corrupted=arrays["corrupted"].astype(bool) if "corrupted" in arrays else None,
        chosen=arrays["chosen"].astype(bool) if "chosen" in arrays else None,
        ids=_ids(path, arrays) if manifest.get("ids") else None,
        rows=arrays.get("rows"),
        classes=tuple(manifest["classes"]),
        provenance=manifest,
        path=path,
    )


def read_shard(file: Path, name: str, step: int, fingerprint: str) -> np.ndarray:
    """The values of one run that a scoring folder keeps in `file`, which must say that it is of these."""
    arrays, told = read_tensors(file)
    for key, value in (("score", name), ("step", step), ("fingerprint", fingerprint)):
        if told.get(key, value) != value:
            raise Damaged(f"is out of place (it says {key} {told[key]}, not {value})", where=file, fix="score again")
    values: np.ndarray = arrays["values"]
    return values


def packed_ids(ids: Sequence[Any]) -> np.ndarray:
    """Identities of examples, texts or numbers, as bytes for a checksummed file."""
    return np.frombuffer(json.dumps(list(ids)).encode(), np.uint8)


def _ids(folder: Path, arrays: Mapping[str, np.ndarray]) -> list[Any] | None:
    if "ids" in arrays:
        return list(json.loads(arrays["ids"].tobytes()))
    log.warning("%s: an older datadiet kept no identities that can be trusted; `datadiet score` writes them", folder)
    return None
