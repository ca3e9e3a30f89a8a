"""One process at a time in a folder, and a killed one holds nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from datadiet.errors import DatadietError
from datadiet.store import FolderLock, Holder

HOLD = """
import sys, time
from datadiet.store import FolderLock
with FolderLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""

COUNT = """
import sys, pathlib
from datadiet.store import FolderLock
file = pathlib.Path(sys.argv[1], "count")
for _ in range(60):
    with FolderLock(sys.argv[1]):
        file.write_text(str(int(file.read_text()) + 1))
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    process = hold(tmp_path)
    lock = FolderLock(tmp_path)
    assert not lock.try_acquire()
    holder = lock.holder()
    assert holder is not None
    assert holder.pid == process.pid
    waits: list[Holder | None] = []
    with pytest.raises(DatadietError, match=f"is in use by process {process.pid} on"):
        lock.acquire(timeout=0.1, on_wait=waits.append)
    assert waits == [holder]
    process.kill()
    process.wait()
    with lock.acquire(timeout=120):
        assert lock.held
        assert lock.holder() == Holder(os.getpid(), holder.host, lock.holder().since)  # type: ignore[union-attr]
    assert lock.holder() is None


def test_two_processes_take_turns(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    assert (tmp_path / "count").read_text() == "120"


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "new"), FolderLock(tmp_path / "new")
    assert first.try_acquire()
    assert not second.try_acquire()
    with pytest.raises(RuntimeError):
        first.try_acquire()
    threading.Timer(0.2, first.release).start()
    start = time.monotonic()
    with second:
        assert second.held
    assert time.monotonic() - start > 0.1
    second.release()  # twice does no harm


def test_a_lock_on_a_folder_that_was_deleted_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    lock = FolderLock(folder)
    there = lock._still_there

    def replaced(handle: int) -> bool:
        shutil.rmtree(folder)
        monkeypatch.undo()
        return there(handle)

    monkeypatch.setattr(lock, "_still_there", replaced)
    assert not lock.try_acquire()
    assert lock.try_acquire()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatadietError, match="a file stands where a folder is needed"):
        FolderLock(tmp_path / "file").try_acquire()
