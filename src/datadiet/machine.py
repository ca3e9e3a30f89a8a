"""What this machine has, without importing PyTorch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from datadiet.errors import DatadietError


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path whose `~` is written out: the user's own folder, where no shell has seen to it.

    What no file can be called is refused.
    """
    if path == "":
        raise DatadietError("an empty path", fix='name one; "." is the current folder')
    try:
        found = Path(path).expanduser()
        os.lstat(found)
    except RuntimeError as error:  # ~nobody
        raise DatadietError(str(error), where=str(path), fix="write the path out") from None
    except TypeError:
        raise DatadietError(f"a path is meant, not {type(path).__name__}", fix="give a str or a Path") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
            return found  # it need not exist
        what = "the name is too long" if isinstance(error, OSError) else str(error)
        raise DatadietError(what, where=str(path), fix="choose another") from None
    return found


def free_memory() -> int | None:
    """Bytes that could be had now without swapping, or None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
