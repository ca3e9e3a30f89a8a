"""The command line: one file a command. It parses, calls the library, and prints."""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

from datadiet.errors import DatadietError, Interrupted
from datadiet.interrupt import exit_code, sigterm

GONE = 141  # 128 and the number of SIGPIPE


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for what the user can mend, 130 after Ctrl-C, 143 after SIGTERM.

    141 where the reader of the output went away, as with any program.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who called
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif hasattr(getattr(sys, name), "reconfigure"):  # in an encoding that lacks a character another stands for it
            getattr(sys, name).reconfigure(errors="replace")
    with sigterm():
        return _main(arguments)


def _main(arguments: list[str] | None) -> int:
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        from datadiet.cli.app import build

        code = build(given)(args=given, standalone_mode=False, prog_name="datadiet")
        sys.stdout.flush()
        if code == 130:  # Typer takes a Ctrl-C outside of jobs for itself, and says nothing
            return _stopped()
    except Interrupted as stop:
        _tell(f"\n{stop}")
        return exit_code()
    except DatadietError as error:
        # Words of others that are quoted in it, a parser's or a user's model's, may hold several lines.
        _tell(f"error: {' '.join(str(error).split())}")
        return 2
    except KeyboardInterrupt:
        return _stopped()
    except (BrokenPipeError, SystemExit) as error:
        # The reader of our output went away (`| head`), for which Typer leaves the program by itself.
        if not isinstance(error.__context__ if isinstance(error, SystemExit) else error, BrokenPipeError):
            raise
        _give_up(sys.stdout)  # there is nobody to tell; what was not done yet is not
        return GONE
    except OSError as error:
        # Files are written where that is turned into words; what is left is what was printed.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        _give_up(sys.stdout)
        _tell(f"error: standard output: {error.strerror}; free some space, the same command goes on from here")
        return 2
    except Exception as error:
        # Typer's own errors, of usage and for Ctrl-C, whichever click it carries.
        if type(error).__name__ == "Abort":
            if isinstance(error.__cause__, EOFError):  # which it takes for the end of the terminal's input
                raise error.__cause__ from None
            return _stopped()
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        context = getattr(error, "ctx", None)
        name = getattr(context, "command_path", None) or "datadiet"
        text = " ".join(str(message()).split())
        _tell(f"error: {text} (see {name} --help)" if text else f"see {name} --help")
        return 2
    return code if isinstance(code, int) else 0


def _stopped() -> int:
    _tell("\nstopped at once; what was finished is kept, the same command goes on from there")
    return exit_code()


def _tell(text: str) -> None:
    """A line on standard error, where that takes one."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Let nothing more be written to a stream that takes nothing, what it holds at the end of the program least."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def entry() -> None:
    """The console script."""
    sys.exit(main())
