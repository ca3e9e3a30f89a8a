"""A file appears whole or not at all: written beside its place, synced, then renamed over it."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from datadiet.errors import DatadietError

TEMPORARY = ".datadiet-tmp-"
"""How the name of every unfinished file begins; a killed process may leave one behind. The writer's machine and process
id follow, so that what is abandoned can be told from what is being written."""

_ABANDONED = 3600.0  # seconds after which a file of another machine is

PROBE = 4096

REASONS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space is left on the disk", "free some space or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another folder"),
    errno.EFBIG: ("the file is larger than allowed here", "raise the limit on file sizes (ulimit -f)"),
    errno.EACCES: ("permission denied", "choose a place you may write to, or change its permissions"),
    errno.EPERM: ("permission denied", "choose a place you may write to, or change its permissions"),
    errno.EROFS: ("the file system is read-only", "choose a folder on another one"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "move that file or choose another folder"),
    errno.EEXIST: ("a file stands where a folder is needed", "move that file or choose another folder"),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.EISDIR: ("is a folder where a file is meant", "choose another name"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter path"),
    errno.ELOOP: ("a symbolic link leads back to itself", "remove that link"),
    errno.EMFILE: ("too many files are open", "raise the limit on open files (ulimit -n)"),
    errno.EIO: ("the disk reports an error", "check the disk"),
}


def explain(error: OSError, path: str | os.PathLike[str]) -> DatadietError:
    """An operating-system error in the user's words: which path, what is wrong, what mends it."""
    what, fix = REASONS.get(error.errno or 0, (error.strerror or str(error), "check the path and the disk"))
    return DatadietError(what, where=os.fspath(path), fix=fix)


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder, with the same ending; it takes `path`'s place on leaving.

    Parent folders are made, and what killed processes left unfinished in the folder is removed. If the body
    raises, the temporary file is removed and `path` stays as it was; an `OSError` becomes a `DatadietError` that
    names the path.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renaming over a device or a pipe would replace it (as root, even /dev/null).
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "", str(path))
        if path.exists() and not path.is_file():
            raise DatadietError("is not a regular file", where=path, fix="choose another name")
        _remove_abandoned(path.parent)
        temporary = path.with_name(f"{_temporary()}{path.suffix[-20:]}")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else None
        raise explain(error, path if named in (None, str(temporary)) else str(named)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # it would hide what went wrong
                temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def writable_folder(path: str | os.PathLike[str], need_bytes: int = 0) -> Path:
    """Check, before any work is done for it, that files can be written below `path`.

    The folder need not exist yet, and nothing stays behind: the check writes a small file into the
    nearest folder that exists, and removes it.
    """
    path = Path(path)
    try:
        existing = path.absolute()
        while not _is_there(existing):
            existing = existing.parent
        if not existing.exists():
            raise DatadietError(
                "is a link to a place that is not there", where=existing, fix="make that place, or remove the link"
            )
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "", str(existing))
        _remove_abandoned(existing)
        probe = existing / f"{_temporary()}-probe"
        try:
            with os.fdopen(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as file:
                file.write(bytes(PROBE))  # a full disk still takes an empty file
        finally:
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise explain(error, path) from error
    if free < need_bytes:
        raise DatadietError(
            f"about {size(need_bytes)} are needed and {size(free)} are free",
            where=path,
            fix="free some space or choose another folder",
        )
    return path


def _is_there(path: Path) -> bool:
    """Whether anything has that name, be it a link to nowhere; a name that cannot be is an error."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def size(count: int) -> str:
    """A number of bytes for people: "1.2 GB"."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{int(value)} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def remove_strays(folder: str | os.PathLike[str]) -> int:
    """Remove what killed processes left unfinished below `folder`; call it only while holding its lock."""
    strays = [stray for stray in Path(folder).rglob(f"{TEMPORARY}*") if stray.is_file()]
    for stray in strays:
        stray.unlink(missing_ok=True)
    return len(strays)


def _temporary() -> str:
    return f"{TEMPORARY}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"


@cache
def _machine() -> str:
    """Where this process's id counts: it tells the machines on a shared file system apart, and their containers."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return hashlib.blake2b(f"{socket.gethostname()} {space}".encode(), digest_size=4).hexdigest()


def _remove_abandoned(folder: Path) -> None:
    """Remove unfinished files directly in `folder` that nobody will finish; never those of a live process."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # another process removes it, too, or it is not ours to remove
                if entry.name.startswith(TEMPORARY) and entry.is_file() and _is_abandoned(entry):
                    os.unlink(entry.path)


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    machine, _, rest = entry.name.removeprefix(TEMPORARY).partition("-")
    pid = rest.partition("-")[0]
    if machine != _machine() or not pid.isdigit() or os.name == "nt":  # where asking for a process may end it
        return time.time() - entry.stat().st_mtime > _ABANDONED
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _sync(path: Path) -> None:
    # r+ because Windows refuses to flush a handle that may not write.
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems do not offer it
            raise
    finally:
        os.close(handle)
