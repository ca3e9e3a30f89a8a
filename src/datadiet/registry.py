"""One registry for everything that has a name: scores, policies, models, datasets, presets, gradient rules.

Other packages add entries through the entry-point group `datadiet.<kind>` ("datadiet.scores", …): the entry
point's name is the entry's name and its object the entry itself. They are loaded at the first look-up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, Generic, TypeVar

from datadiet.errors import unknown

log = logging.getLogger(__name__)
T = TypeVar("T")


class Registry(Generic[T]):
    """Names to entries of one kind.

    Args:
        kind: the singular noun that error messages use ("score").
        group: the entry-point group of others' packages; default `datadiet.<kind>s`.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind = kind
        self.group = group or f"datadiet.{kind.replace(' ', '_')}s"
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str, entry: T | None = None) -> Callable[[T], T]:
        """Add an entry, as a call or as a decorator; a name already taken by another entry is an error.

        The same function defined again, as when a cell of a notebook is run twice, takes its own place.
        """

        def add(value: T) -> T:
            if name in self._entries and not _same(self._entries[name], value):
                raise ValueError(f"two {self.kind}s are called {name!r}")
            self._entries[name] = value
            return value

        if entry is not None:
            add(entry)
        return add

    def get(self, name: str, *, where: object = None) -> T:
        self._load()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries, where=where)
        return self._entries[name]

    def names(self) -> list[str]:
        self._load()
        return list(self._entries)

    def items(self) -> list[tuple[str, T]]:
        self._load()
        return list(self._entries.items())

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for point in metadata.entry_points(group=self.group):
            try:
                self._entries.setdefault(point.name, point.load())
            except Exception as error:  # someone else's package; ours must still start
                log.warning("the %s %r of another package does not load: %s", self.kind, point.name, error)


def _same(one: Any, other: Any) -> bool:
    if one is other or one == other:
        return True
    found = [getattr(entry, "compute", entry) for entry in (one, other)]  # a score holds its function
    names = [(getattr(f, "__module__", None), getattr(f, "__qualname__", None)) for f in found]
    # <locals>, <lambda>: two that a factory made, or that are written in two places, are not one.
    return names[0] == names[1] and None not in names[0] and "<l" not in str(names[0][1])
