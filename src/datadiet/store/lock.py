"""One process at a time in a folder: a lock that the kernel releases when its holder is killed."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from datadiet.errors import DatadietError
from datadiet.store.atomic import explain

_BUSY = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: process id, host, and since when (local time)."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class FolderLock:
    """The exclusive lock of a folder, kept on the file `.lock` in it (made if missing, and never removed).

    As a context manager it waits as long as it takes; `try_acquire` does not wait. It excludes other
    processes and other `FolderLock`s of this process alike.

    Args:
        folder: the folder to lock; made if missing.
        acquired: called each time the lock has been taken.
    """

    def __init__(self, folder: str | os.PathLike[str], *, acquired: Callable[[], object] | None = None) -> None:
        self.folder = Path(folder)
        self.path = self.folder / ".lock"
        self._acquired = acquired
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this very object holds the lock."""
        return self._handle is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; says whether it was."""
        if self._handle is not None:
            raise RuntimeError(f"{self.path} is already held by this object")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _lock(handle) or not self._still_there(handle):
                    os.close(handle)
                    return False
                me = Holder(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))
                os.ftruncate(handle, 0)
                os.write(handle, json.dumps(asdict(me)).encode())
            except BaseException:
                os.close(handle)
                raise
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise DatadietError(
                    "this file system does not lock files",
                    where=self.path,
                    fix="choose a folder on a local disk",
                ) from error
            raise explain(error, self.path) from error
        self._handle = handle
        try:
            if self._acquired is not None:
                self._acquired()
        except BaseException:
            self.release()
            raise
        return True

    def acquire(
        self, timeout: float | None = None, on_wait: Callable[[Holder | None], object] | None = None
    ) -> FolderLock:
        """Take the lock, waiting until it is free.

        Args:
            timeout: seconds after which waiting ends in a `DatadietError`; None waits for ever.
            on_wait: called once, with the holder where known, if the lock is not free at once.
        """
        start, pause = time.monotonic(), 0.02
        while not self.try_acquire():
            if on_wait is not None:
                on_wait(self.holder())
                on_wait = None
            waited = time.monotonic() - start
            if timeout is not None and waited >= timeout:
                raise DatadietError(
                    f"is in use by {self.holder() or 'another process'}",
                    where=self.folder,
                    fix="wait until that process is done, or end it",
                )
            time.sleep(pause if timeout is None else min(pause, max(0.0, timeout - waited)))
            pause = min(pause * 1.5, 0.5)
        return self

    def release(self) -> None:
        """Give the lock back; without effect where it is not held."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            # An emptied file says that nobody holds it; closing the handle is what releases the lock.
            os.ftruncate(handle, 0)
            os.close(handle)

    def holder(self) -> Holder | None:
        """Who holds the lock, as the lock file says; None where nobody does or it cannot be told."""
        try:
            return Holder(**json.loads(self.path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def __enter__(self) -> FolderLock:
        return self if self.held else self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _still_there(self, handle: int) -> bool:
        # While we waited, someone may have deleted the folder and with it the file that this handle locks.
        try:
            there, here = os.stat(self.path), os.fstat(handle)
        except FileNotFoundError:
            return False
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> bool:
        # A locked byte cannot be read by others: lock one far behind the text that says who holds it.
        os.lseek(handle, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True
