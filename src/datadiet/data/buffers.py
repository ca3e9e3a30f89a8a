"""Room for large arrays: in memory up to 2 GiB, above that in an unnamed memory-mapped file of the cache."""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.data.content import CHUNK
from datadiet.errors import DatadietError
from datadiet.store.atomic import REASONS

IN_MEMORY = 2 << 30  # bytes


def cache_dir() -> Path:
    """`$DATADIET_CACHE`, or ~/.cache/datadiet; not created."""
    named = os.environ.get("DATADIET_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "datadiet"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Create `folder`, and turn what the disk refuses inside the block into one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "")
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise DatadietError(
            f"cannot be written: {REASONS[error.errno][0]}",
            where=folder,
            fix="free some space, or set DATADIET_CACHE to another folder",
        ) from error


def buffer(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An array to fill; its file, where it has one, vanishes with it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    folder = cache_dir() / "scratch"
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        free = shutil.disk_usage(folder).free
        if size > free:
            raise DatadietError(
                f"{size / 2**30:,.1f} GiB are needed, {free / 2**30:,.1f} GiB are free",
                where=folder,
                fix="free some space, set DATADIET_CACHE to another folder, or make the examples smaller",
            )
        reserve(file.fileno(), size)
        return np.memmap(file, dtype=dtype, mode="r+", shape=shape)


def reserve(descriptor: int, size: int) -> None:
    """Claim a file's blocks: a full disk must be an error now, a sparse file would be a bus error later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to; the array itself stays as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


def freeze(array: np.ndarray) -> np.ndarray:
    """The array, read-only with all that it is a view of: what a reader made itself, so that `apart` copies nothing."""
    for layer in _layers(array):
        layer.flags.writeable = False
    return array


def apart(array: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The array, copied where it shares memory with `given` and somebody could still write to that."""
    if not np.may_share_memory(array, given) or not any(layer.flags.writeable for layer in _layers(given)):
        return array
    out = buffer(array.shape, array.dtype)
    out[...] = array
    return out


def _layers(array: Any) -> Iterator[np.ndarray]:
    """An array, the one that it is a view of, and so on down."""
    while isinstance(array, np.ndarray):
        yield array
        array = array.base


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]`, copied in blocks into a buffer."""
    out = buffer((len(rows), *array.shape[1:]), array.dtype)
    size = max(1, CHUNK // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(rows), size):
        out[start : start + size] = array[rows[start : start + size]]
    return out
