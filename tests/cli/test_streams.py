"""Standard output and error that take nothing: full, closed, or with nobody who reads them."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_cli import FLAGS, cli

from datadiet.cli import main, output

COMMANDS = [("models",), ("models", "--json"), ("show", "scores"), ("--help",)]


class Refusing(io.RawIOBase):
    """A file that takes no byte, as one on a full disk; what is given up on is its descriptor."""

    def __init__(self, place: Path, number: int, tty: bool) -> None:
        self.file = open(place, "wb")  # noqa: SIM115
        self.number, self.tty = number, tty

    def isatty(self) -> bool:
        return self.tty

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.file.fileno()

    def write(self, data: Any) -> int:
        if os.path.samestat(os.fstat(self.fileno()), os.stat(os.devnull)):
            return len(data)
        raise OSError(self.number, os.strerror(self.number))


@contextlib.contextmanager
def refusing(place: Path, number: int, tty: bool = False) -> Iterator[io.TextIOWrapper]:
    raw = Refusing(place, number, tty)
    yield io.TextIOWrapper(io.BufferedWriter(raw, 64), encoding="utf-8")
    raw.file.close()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_full_standard_output_is_one_line_and_exit_2(place: Path, words: tuple[str, ...]) -> None:
    said = io.StringIO()
    with refusing(place / "log", errno.ENOSPC) as full, contextlib.redirect_stdout(full):
        with contextlib.redirect_stderr(said):
            assert main(list(words)) == 2
        full.flush()  # as at the end of the program
    assert said.getvalue().count("\n") == 1
    assert said.getvalue().startswith("error: standard output: No space left on device; free some space")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_reader_that_went_away_is_told_nothing_and_exit_141(place: Path, words: tuple[str, ...]) -> None:
    said = io.StringIO()
    with refusing(place / "log", errno.EPIPE) as gone, contextlib.redirect_stdout(gone):
        with contextlib.redirect_stderr(said):
            assert main(list(words)) == 141
        gone.flush()
    assert said.getvalue() == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_an_error_that_cannot_be_told_still_exits_2(place: Path, number: int) -> None:
    with refusing(place / "log", number) as full, contextlib.redirect_stderr(full):
        assert main(["show", "nowhere"]) == 2
        full.flush()


@pytest.mark.parametrize("tty", [False, True], ids=["lines", "bar"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_log_that_cannot_be_written_stops_no_job(place: Path, number: int, tty: bool) -> None:
    with refusing(place / "log", number, tty) as full, contextlib.redirect_stderr(full):
        code = main(["train", "tiny.npz", *map(str, FLAGS), "--runs", "1", "-o", "trained"])
        with output.progress(), contextlib.suppress(OSError):
            logging.getLogger("datadiet").warning("a line")
        assert code == 0
        assert Path("trained/comparison.json").exists()


def test_other_errors_of_the_system_are_not_taken_for_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr("datadiet.cli.app.build", lambda given: fails)
    with pytest.raises(OSError, match="No such device"):
        cli("models")


@pytest.mark.skipif(os.name != "posix", reason="a shell that closes descriptors")
@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_no_error(place: Path, closed: str) -> None:
    command = f'"{sys.executable}" -m datadiet show scores {closed}'
    assert subprocess.run(command, shell=True, capture_output=True).returncode == 0


def test_ctrl_c_while_the_program_is_read_is_exit_130_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "datadiet.cli.app", Interrupted())  # type: ignore[arg-type]
    ended = cli("models")
    assert ended.code == 130
    assert ended.err.strip() == "stopped at once; what was finished is kept, the same command goes on from there"


def test_nothing_of_others_is_read_before_ctrl_c_is_handled() -> None:
    code = "import sys, datadiet.cli; print([n for n in sys.modules if n.split('.')[0] in ('numpy', 'torch', 'typer')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
