"""The engine `processes` seen from outside: how programs start it, and what is left when they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent

RUN = """
import sys, logging
sys.path.insert(0, {here!r})
import engine_jobs as work
from datadiet.engines import Processes, Job
from datadiet.errors import DatadietError
"""

OWN = """
def double(context, value):
    return 2 * value
"""

ASK = """
try:
    with Processes(1) as engine:
        for outcome in engine.run([Job("a", {function}, {{"value": 4}})]):
            print("got", outcome.value, outcome.error)
except DatadietError as error:
    print("refused:", error)
"""


def program(function: str, *, guard: bool = False, own: bool = False) -> str:
    ask = ASK.format(function=function)
    if guard:
        ask = "if __name__ == '__main__':" + ask.replace("\n", "\n    ")
    return RUN.format(here=str(HERE)) + (OWN if own else "") + ask + "\n"


def execute(*command: str, text: str | None = None, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], input=text, cwd=folder, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize("way", ["file", "module", "command", "input"])
def test_no_guard_is_needed_for_functions_of_modules(way: str, tmp_path: Path) -> None:
    text = program("work.square")
    (tmp_path / "script.py").write_text(text)
    arguments = {"file": ["script.py"], "module": ["-m", "script"], "command": ["-c", text], "input": ["-"]}
    done = execute(*arguments[way], text=text if way == "input" else None, folder=tmp_path)
    assert (done.stdout, done.stderr) == ("got 16 None\n", "")


def test_functions_of_a_guarded_script_reach_workers(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(program("double", guard=True, own=True))
    done = execute("script.py", folder=tmp_path)
    assert (done.stdout, done.stderr) == ("got 8 None\n", "")


def test_a_script_that_needs_a_guard_and_has_none_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(program("double", own=True))
    done = execute("script.py", folder=tmp_path)
    assert 'put the part that starts them under `if __name__ == "__main__":`' in done.stdout
    assert "script.py" in done.stdout
    assert "Traceback" not in done.stderr


def test_functions_typed_into_a_session_are_refused_in_words(tmp_path: Path) -> None:
    done = execute("-", text=program("double", own=True), folder=tmp_path)
    assert "cannot be sent to another process" in done.stdout
    assert "no file to import" in done.stdout


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: object, seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


WAITING = """
with Processes(2) as engine:
    import numpy as np
    engine.share("f", {{"x": np.ones(5)}})
    print(engine._shared.index["f"]["x"], flush=True)
    jobs = [Job(n, work.until_asked, {{"folder": {folder!r}, "name": n}}) for n in "abc"]
    try:
        list(engine.run(jobs))
    except DatadietError as error:
        print("ended:", error)
"""


def start_waiting(tmp_path: Path) -> tuple[subprocess.Popen[str], list[int], Path]:
    text = RUN.format(here=str(HERE)) + WAITING.format(folder=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    files = [tmp_path / "a.pid", tmp_path / "b.pid"]
    assert until(lambda: all(file.exists() and file.read_text() for file in files))
    assert process.stdout is not None
    return process, [int(file.read_text()) for file in files], Path(process.stdout.readline().strip())


def test_workers_end_by_themselves_when_their_parent_is_killed(tmp_path: Path) -> None:
    process, workers, shared = start_waiting(tmp_path)
    assert all(alive(pid) for pid in workers)
    process.kill()
    process.wait()
    assert until(lambda: not any(alive(pid) for pid in workers))
    # The files it could not remove go when the next engine shares something.
    folder = shared.parent.parent
    assert folder.exists()
    os.utime(folder, (time.time() - 1000, time.time() - 1000))
    text = RUN.format(here=str(HERE)) + "import numpy as np\nProcesses(1).share('g', {'x': np.ones(2)})"
    subprocess.run([sys.executable, "-c", text], check=True, env={**os.environ, "TMPDIR": str(tmp_path)}, timeout=240)
    assert not list(tmp_path.glob("datadiet-shared-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    process, workers, shared = start_waiting(tmp_path)
    os.killpg(process.pid, number)  # as a terminal and batch systems do: to the workers as well
    out, err = process.communicate(timeout=120)
    assert "ended: stopped; what was finished is kept" in out
    assert "Traceback" not in err
    assert {file.stem for file in tmp_path.glob("*.saved")} == {"a", "b"}
    assert not any(alive(pid) for pid in workers)
    assert not shared.exists()
    assert process.returncode == 0
    assert tempfile.gettempdir() != str(tmp_path)
