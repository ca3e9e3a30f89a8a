"""`select`: scores to a subset, with what the retraining needs to know; and subsets as files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.data.dataset import Dataset, Fingerprint
from datadiet.errors import DatadietError
from datadiet.flows.arguments import plain_array
from datadiet.flows.columns import SUFFIXES, column, origin
from datadiet.flows.plan import check_seed
from datadiet.machine import expanded
from datadiet.scores import SCORES, ScoreTable, load_table
from datadiet.selection import Subset
from datadiet.selection import select as select_rows
from datadiet.store.files import Damaged, bears_our_mark, read_tensors, write_bytes, write_tensors

log = logging.getLogger(__name__)


_MOST = 2**62  # examples


def select(
    scores: ScoreTable | str | Path | np.ndarray,
    by: str | None = None,
    keep: float = 0.5,
    policy: str = "hardest",
    *,
    at: str | int | None = None,
    labels: Any = None,
    balanced: bool = False,
    seed: int = 0,
    **options: Any,
) -> Subset:
    """A subset by scores.

    Args:
        scores: a ScoreTable, a folder that `datadiet score` wrote, or (N,) values where higher is harder: an array, or
            an .npy, .safetensors or .parquet file, whose column `by` names.
        by: the score's name; not needed for plain values, nor for the policy "random".
        keep: the part kept, in (0, 1].
        policy: "hardest", "easiest", "window", "random", … (`datadiet.selection.POLICIES`).
        at: the step, where the table has several; default the last.
        labels: (N,) for plain values, where classes are to be balanced or reported.
        balanced: the same number from each class.
        seed: of policies that draw.
        options: the policy's own, such as `offset` of a window.

    Returns:
        A Subset, which stands for its (M,) sorted row indices wherever an array is wanted.
    """
    seed = check_seed(seed)
    if by is not None and not isinstance(by, str):
        raise DatadietError(f"by is {by!r}, no name of a score", where="select", fix="say keep= for the part kept")
    fingerprint: str | None = None
    if isinstance(scores, (str, Path)):
        if Path(scores).suffix.lower() in SUFFIXES:
            score, told = origin(scores, by)
            scores = column(scores, by)
            fingerprint = None if told is None else told.get("fingerprint")
            if score is not None and score in SCORES:  # harder may be lower
                scores = SCORES.get(score).sign * scores
        else:
            scores = load_table(scores)
    if not isinstance(scores, ScoreTable):
        if at is not None:
            raise DatadietError("plain values have no steps", where="--at", fix="leave it out")
        return select_rows(
            scores, keep, policy, labels=labels, balanced=balanced, fingerprint=fingerprint, seed=seed, **options
        )
    table = scores
    if by is None:
        if policy != "random":
            ranked = [name for name in table.names if name in SCORES]
            raise DatadietError(f"policy {policy!r} needs a score", where="--by", fix=f"one of {', '.join(ranked)}")
        difficulty, step = np.zeros(len(table)), None
    else:
        if by not in SCORES and by in table.names:
            raise DatadietError(f"{by} is a column, not a score", where="--by", fix="select by a score")
        difficulty = table.difficulty(by, at)
        step = table.step(by, at)
    undefined = np.flatnonzero(~np.isfinite(difficulty))
    if len(undefined):
        followed = by is not None and by in SCORES and SCORES.get(by).needs == "trajectory"
        raise DatadietError(
            f"{len(undefined)} examples have no finite {by} at step {step}, the first is row {undefined[0]}",
            where=table.path,
            fix="take the score later, when every example has been visited" if followed else "another score, or step",
        )
    subset = select_rows(
        difficulty,
        keep,
        policy,
        labels=table.labels if labels is None else labels,
        class_names=table.classes if labels is None else (),
        balanced=balanced,
        fingerprint=table.fingerprint or None,  # of a loop of somebody's own there is none
        seed=seed,
        by=by,
        **options,
    )
    made = {
        **subset.policy,
        "by": by,
        "at": step,
        "runs": None if by is None else len(table.shards[by, table.step(by, at)]),
    }
    if labels is None:
        made["class_names"] = list(table.classes)
    for key in ("recipe", "source", "dataset", "noise", "seed"):
        if table.provenance.get(key) is not None:
            made[f"scored_{key}" if key == "seed" else key] = table.provenance[key]
    return replace(subset, policy=made)


def save_subset(subset: Subset, path: str | Path) -> Path:
    """Write a subset: `.safetensors` with the dataset's fingerprint and the policy, or plain `.npy` or `.txt` rows.

    Rows count the training set; where a test split was cut off the source, `data.rows[subset]` are the source's.
    """
    file = expanded(path)
    kind = file.suffix.lower()
    if kind == ".safetensors":
        meta = {
            "what": "subset",
            "fingerprint": subset.fingerprint,
            "size": subset.size,
            "policy": dict(subset.policy),
            "balance": None if subset.balance is None else {k: list(v) for k, v in subset.balance.items()},
        }
        write_tensors(file, {"indices": np.asarray(subset.indices)}, meta)
    elif kind == ".npy":
        import io

        buffer = io.BytesIO()
        np.save(buffer, np.asarray(subset.indices), allow_pickle=False)
        write_bytes(file, buffer.getvalue())
    elif kind == ".txt":
        write_bytes(file, "".join(f"{row}\n" for row in subset.indices).encode())
    else:
        raise DatadietError(
            f"a subset as {kind or 'a file without ending'!r}", where=file, fix=".safetensors, .npy or .txt"
        )
    return file


def check_target(path: str | Path, scores: str | Path | None = None) -> None:
    """Refuse a subset's file that is of another kind, or would take the place of anything but a subset.

    Args:
        scores: the file that is selected from.
    """
    file = expanded(path)
    if file.suffix.lower() not in (".safetensors", ".npy", ".txt"):
        raise DatadietError(
            f"a subset as {file.suffix or 'a file without ending'!r}",
            where=file,
            fix="end it .safetensors, .npy or .txt",
        )
    if file.is_dir():
        raise DatadietError("is a folder where a file is meant", where=file, fix="name a file")
    if not file.exists():
        return
    if scores is not None and Path(scores).exists() and file.samefile(scores):
        raise DatadietError("is what is selected from", where=file, fix="give another --out")
    try:
        if file.suffix.lower() == ".safetensors":
            load_subset(file)
        else:
            Subset(_plain_rows(file), _MOST)
    except DatadietError as error:
        if isinstance(error, Damaged) and bears_our_mark(file):
            log.warning("%s %s, redoing it", file, error.what)
            return
        raise DatadietError(
            f"is in the way, and is no subset: {error.what}", where=file, fix="give another --out, or move it away"
        ) from None


def load_subset(path: str | Path, data: Dataset | None = None) -> Subset:
    """Read a subset, and check it against `data`: its fingerprint where it has one, the range of its rows always."""
    file = expanded(path)
    if not file.exists():
        raise DatadietError("no such file", where=file, fix="make it with `datadiet select`")
    kind = file.suffix.lower()
    if kind == ".safetensors":
        arrays, meta = read_tensors(file)
        if meta.get("what") != "subset":
            raise DatadietError("is no subset", where=file, fix="make one with `datadiet select`")
        balance = None if meta["balance"] is None else {k: tuple(v) for k, v in meta["balance"].items()}
        subset = _built(file, arrays["indices"], meta["size"], meta["fingerprint"], meta["policy"], balance)
    elif kind in (".npy", ".txt"):
        if data is None:
            raise DatadietError("plain rows need the dataset they are of", where=file)
        rows = _unmasked(_plain_rows(file), len(data), file)
        subset = _built(file, rows, len(data), None, {"name": file.name}, None)
    else:
        raise DatadietError("is no subset", where=file, fix=".safetensors, .npy and .txt are read")
    if data is not None:
        check_subset(subset, data, where=file)
    return subset


def check_subset(subset: Subset, data: Dataset, *, where: object = None) -> None:
    """Raise unless these are rows of the dataset; other labels on the same inputs are allowed."""
    fingerprint = subset.fingerprint
    if fingerprint is not None:
        mine = data.train.fingerprint
        if Fingerprint.parse(fingerprint).inputs == mine.inputs:
            fingerprint = str(mine)
    replace(subset, fingerprint=fingerprint).check(data.fingerprint, len(data), where=where)


def as_subset(given: Any, data: Dataset, *, where: object = None) -> Subset:
    """A Subset from a Subset, a file or row indices, checked against the dataset."""
    if isinstance(given, (str, Path)):
        return load_subset(given, data)
    if isinstance(given, Subset):
        check_subset(given, data, where=where)
        return given
    rows = _unmasked(np.asarray(given), len(data), where)
    return _built(where, rows, len(data), data.fingerprint, {"name": "given"}, None)


def _built(
    where: object,
    rows: np.ndarray,
    size: int,
    fingerprint: str | None,
    policy: Mapping[str, Any],
    balance: Mapping[str, tuple[int, ...]] | None,
) -> Subset:
    try:
        return Subset(rows, size, fingerprint, policy, balance)
    except DatadietError as error:
        raise DatadietError(error.what, where=where, fix=error.fix) from None


def _unmasked(rows: np.ndarray, size: int, where: object) -> np.ndarray:
    """Row numbers, where a mask over all examples may stand for them."""
    if rows.dtype != bool:
        return rows
    if rows.shape != (size,):
        raise DatadietError(
            f"a mask of shape {rows.shape} for {size:,} examples", where=where, fix="one truth value an example"
        )
    return np.flatnonzero(rows)


def _plain_rows(file: Path) -> np.ndarray:
    try:
        if file.suffix.lower() == ".npy":
            return plain_array(file)
        return np.array([int(line) for line in file.read_text().split()], np.int64)
    except (ValueError, OverflowError, OSError) as error:
        raise DatadietError(f"cannot be read as row numbers: {error}", where=file) from None
