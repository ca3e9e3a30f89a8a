"""Large read-only arrays for several processes: written once as .npy files, opened there as memory maps."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datadiet.errors import DatadietError
from datadiet.store.atomic import explain, writable_folder
from datadiet.store.lock import FolderLock

_PREFIX = "datadiet-shared-"
_YOUNG = 60.0  # seconds in which a folder may be made but not yet locked

Index = dict[str, dict[str, str]]
"""Fingerprint to array name to file."""


class SharedArrays:
    """The writing side. Its temporary folder is locked while it lives; abandoned ones are removed."""

    def __init__(self) -> None:
        self.index: Index = {}
        self._lock: FolderLock | None = None

    def add(self, fingerprint: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays of a fingerprint, unless they are there."""
        if fingerprint in self.index:
            return
        folder = self._folder() / str(len(self.index))
        files: dict[str, str] = {}
        try:
            writable_folder(folder, need_bytes=sum(array.nbytes for array in arrays.values()))
            folder.mkdir(exist_ok=True)
            for number, (name, array) in enumerate(arrays.items()):
                files[name] = str(folder / f"{number}.npy")
                np.save(files[name], array, allow_pickle=False)
        except OSError as error:
            raise explain(error, folder) from error
        except DatadietError as error:
            raise DatadietError(
                error.what, where=error.where, fix="point TMPDIR to a folder with enough space"
            ) from error
        self.index[fingerprint] = files

    def close(self) -> None:
        """Remove the files; processes that still use them must have ended."""
        if self._lock is not None:
            shutil.rmtree(self._lock.folder, ignore_errors=True)
            self._lock.release()
            self._lock = None
        self.index.clear()

    def _folder(self) -> Path:
        if self._lock is None:
            try:
                folder = tempfile.mkdtemp(prefix=_PREFIX)
            except OSError as error:
                raise explain(error, tempfile.gettempdir()) from error
            self._lock = FolderLock(folder).acquire()
            _remove_abandoned(Path(folder))
        return self._lock.folder


def open_arrays(files: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The reading side: the arrays of one fingerprint, read-only, none of them read yet."""
    return {name: np.asarray(np.load(file, mmap_mode="r")) for name, file in files.items()}


def _remove_abandoned(own: Path) -> None:
    # A killed process cannot remove its folder; that its lock is free says that it is gone.
    user = os.getuid() if hasattr(os, "getuid") else None
    for other in own.parent.glob(f"{_PREFIX}*"):
        try:
            seen = other.stat()
            if other == own or time.time() - seen.st_mtime < _YOUNG or (user is not None and seen.st_uid != user):
                continue
            lock = FolderLock(other)
            if lock.try_acquire():
                shutil.rmtree(other, ignore_errors=True)
                lock.release()
        except (OSError, DatadietError):
            continue  # another process is clearing the same folder away
