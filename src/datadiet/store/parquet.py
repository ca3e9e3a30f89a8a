"""Parquet files of ours: written whole, with JSON about them under the one key `datadiet`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datadiet.store.atomic import atomic

_KEY = b"datadiet"


def write_parquet(path: Path, columns: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
    """Write columns and a dict of JSON values; the same give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(dict(columns)).replace_schema_metadata({_KEY: json.dumps(meta, sort_keys=True, default=str)})
    # By its bytes, here and below: Arrow takes no path that is not UTF-8.
    with atomic(path) as temporary, pa.OSFile(os.fsencode(temporary), "wb") as file:
        pq.write_table(table, file, compression="zstd")
    return path


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, a dict each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.OSFile(os.fsencode(path)) as file:
        rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def parquet_meta(path: Path) -> dict[str, Any] | None:
    """What `write_parquet` wrote about a file; None where it is not ours, or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pa.OSFile(os.fsencode(path)) as file:
            found = json.loads((pq.read_schema(file).metadata or {})[_KEY])
    except (OSError, pa.ArrowException, LookupError, ValueError):
        return None
    return found if isinstance(found, dict) else None
