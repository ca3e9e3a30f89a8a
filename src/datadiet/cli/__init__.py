"""The command line: one file a command. It parses, calls the library, and prints."""

from __future__ import annotations

import os
import sys

from datadiet.errors import DatadietError, Interrupted


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for what the user can mend, 130 after Ctrl-C, 143 after SIGTERM."""
    from datadiet.engines.interrupt import sigterm

    with sigterm():
        return _main(arguments)


def _main(arguments: list[str] | None) -> int:
    from datadiet.cli.app import build
    from datadiet.engines.interrupt import exit_code

    for written in (sys.stdout, sys.stderr):  # in an encoding that lacks a character another one stands for it
        if hasattr(written, "reconfigure"):
            written.reconfigure(errors="replace")
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = build(given)(args=given, standalone_mode=False, prog_name="datadiet")
        sys.stdout.flush()
        if code == 130:  # Typer takes a Ctrl-C outside of jobs for itself, and says nothing
            return _stopped()
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        return exit_code()
    except DatadietError as error:
        # Words of others that are quoted in it, a parser's or a user's model's, may hold several lines.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _stopped()
    except BrokenPipeError:
        # The reader of our output went away (`| head`); there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
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
        print(f"error: {text} (see {name} --help)" if text else f"see {name} --help", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


def _stopped() -> int:
    from datadiet.engines.interrupt import exit_code

    print("\nstopped at once; what was finished is kept, the same command goes on from there", file=sys.stderr)
    return exit_code()


def entry() -> None:
    """The console script."""
    sys.exit(main())
