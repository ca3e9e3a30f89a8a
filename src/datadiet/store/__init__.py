"""Run folders on disk: atomic, checksummed, resumable, one process at a time."""

from __future__ import annotations

from datadiet.store.files import (
    Damaged,
    NotOurs,
    atomic,
    read_json,
    read_tensors,
    writable_folder,
    write_bytes,
    write_json,
    write_tensors,
)
from datadiet.store.lock import FolderLock, Holder
from datadiet.store.runs import Point, RunFolder, Store

__all__ = [
    "Damaged",
    "FolderLock",
    "Holder",
    "NotOurs",
    "Point",
    "RunFolder",
    "Store",
    "atomic",
    "read_json",
    "read_tensors",
    "writable_folder",
    "write_bytes",
    "write_json",
    "write_tensors",
]
