"""A column of scores from a file of someone else's: memory-mapped where the format allows it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.errors import DatadietError, unknown
from datadiet.flows.arguments import plain_array
from datadiet.machine import expanded
from datadiet.store.parquet import parquet_meta

SUFFIXES = (".npy", ".safetensors", ".parquet")
_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_TYPES |= {"U8": "|u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"}
_OURS = re.compile(r"(.+)@\d+it\.(?:mean|run\d+)")  # of a column of ours
_ROWS = 1 << 17  # of a Parquet column, decoded together


def column(path: str | Path, name: str | None = None) -> np.ndarray:
    """(N,) real numbers from an .npy or .safetensors file (mapped, not read) or a Parquet column (read once).

    Args:
        path: the file.
        name: of the array or column; not needed where the file has one only.
    """
    file = expanded(path)
    if not file.exists():
        raise DatadietError("no such file", where=file)
    try:
        kind = file.suffix.lower()
        if kind == ".npy":
            values = plain_array(file, "r")
        else:
            values = (_safetensors if kind == ".safetensors" else _parquet)(file, name)
    except (ValueError, OSError, LookupError, TypeError) as error:
        reason = str(error) if isinstance(error, (ValueError, OSError)) else "its header is not whole"
        raise DatadietError(f"cannot be read as a column of scores: {reason}", where=file) from None
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise DatadietError(
            f"the scores have shape {values.shape} and type {values.dtype}",
            where=file,
            fix="one real number an example is needed, shape (N,)",
        )
    return values


def _safetensors(file: Path, name: str | None) -> np.ndarray:
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError("it is truncated, or no safetensors file")
        entries: dict[str, Any] = json.loads(stream.read(length))
    if not isinstance(entries, dict):
        raise ValueError("its header is no table of arrays")
    entries.pop("__metadata__", None)
    if 8 + length + max((e["data_offsets"][1] for e in entries.values()), default=0) > file.stat().st_size:
        raise ValueError("it is truncated")
    entry = entries[_one(file, name, list(entries))]
    if entry["dtype"] not in _TYPES:
        raise ValueError(f"its type is {entry['dtype']}")
    begin = 8 + length + entry["data_offsets"][0]
    return np.memmap(file, _TYPES[entry["dtype"]], mode="r", offset=begin, shape=tuple(entry["shape"]))


def _parquet(file: Path, name: str | None) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # By its bytes: Arrow takes no path that is not UTF-8.
        with pq.ParquetFile(pa.memory_map(os.fsencode(file)), pre_buffer=False) as stored:
            chosen = _one(file, name, stored.schema_arrow.names)
            kind = pa.array([], stored.schema_arrow.field(chosen).type).to_numpy(zero_copy_only=False).dtype
            values = np.empty(stored.metadata.num_rows, kind)
            filled = 0
            for batch in stored.iter_batches(_ROWS, columns=[chosen], use_threads=False):
                part = batch.column(0)
                if part.null_count:
                    raise ValueError(f"column {chosen!r} has empty cells, the first after row {filled}")
                values[filled : filled + len(part)] = part.to_numpy(zero_copy_only=False)
                filled += len(part)
        pa.default_memory_pool().release_unused()
    except (pa.ArrowException, NotImplementedError) as error:
        raise ValueError(str(error)) from None
    return values


def origin(file: str | Path, name: str | None) -> tuple[str | None, dict[str, Any] | None]:
    """Whose a column is in a `scores.parquet` of ours: the score it is a mean or a run of, and the scores' manifest."""
    if Path(file).suffix.lower() != ".parquet":
        return None, None
    told = parquet_meta(expanded(file))
    if told is None:  # not ours; what is wrong with it, reading it tells
        return None, None
    found = _OURS.fullmatch(name or "")
    return (None if found is None else found[1]), told


def _one(file: Path, name: str | None, there: list[str]) -> str:
    if name is None and len(there) == 1:
        return there[0]
    if name is None:
        raise DatadietError("which of its columns?", where=file, fix=f"--by one of {', '.join(there)}")
    if name not in there:
        raise unknown("column", name, there, where=file)
    return name
