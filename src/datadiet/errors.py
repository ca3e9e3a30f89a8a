"""The one exception for what a user can mend; the command line prints it as one line and exits 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DatadietError(Exception):
    """What was wrong, where, and how to mend it, in one line.

    Args:
        what: the fault, naming the value that was given ("keep is 1.5, it must lie in (0, 1]").
        where: the file, flag or field at fault; put before the sentence.
        fix: what to do about it; put after it.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, None if where is None else str(where), fix
        line = what if where is None else f"{where}: {what}"
        super().__init__(line if fix is None else f"{line}; {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        # An exception crosses process borders by its constructor's arguments.
        return (_rebuild, (type(self), self.what, self.where, self.fix))


class Interrupted(DatadietError):
    """The user asked for a stop; what is finished is kept and the same command goes on from there."""


class Diverged(DatadietError):
    """A run's loss is no longer a number; that run ends, others do not."""


def _rebuild(kind: type[DatadietError], what: str, where: str | None, fix: str | None) -> DatadietError:
    return kind(what, where=where, fix=fix)


def unknown(kind: str, name: object, known: Iterable[str], *, where: object = None) -> DatadietError:
    """The error for a name nobody registered, with the nearest known ones."""
    names = sorted(known)
    lowered = {one.lower(): one for one in names}
    close = difflib.get_close_matches(str(name).lower(), lowered, n=3, cutoff=0.5)
    near = [lowered[one] for one in close]
    if near:
        fix = f"did you mean {' or '.join(near)}?"
        if len(names) > len(near):
            fix += f" Known: {', '.join(names)}"
    else:
        fix = f"known: {', '.join(names) or 'none'}"
    return DatadietError(f"unknown {kind} {str(name)!r}", where=where, fix=fix)
