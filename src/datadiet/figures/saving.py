"""Figures to files: whole or not at all, and the same bytes for the same figure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datadiet.errors import DatadietError
from datadiet.figures.style import style
from datadiet.machine import expanded
from datadiet.store.atomic import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What would tell the time or the version of matplotlib, and so change the bytes.
_SILENCED: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def save(
    figure: Figure,
    path_without_suffix: str | os.PathLike[str],
    formats: Iterable[str] = ("png", "svg"),
    *,
    dpi: int = 150,
) -> list[Path]:
    """Write the figure as `<path>.png` and `<path>.svg`; the paths, in the order of `formats`."""
    base = expanded(path_without_suffix)
    wanted = [formats] if isinstance(formats, str) else list(formats)
    for name in wanted:
        if name not in _SILENCED:
            raise DatadietError(f"unknown figure format {name!r}", fix=f"known: {', '.join(_SILENCED)}")
    written = []
    with style():
        for name in wanted:
            # Not with_suffix: "keep-0.5" has no suffix of its own.
            path = base.with_name(f"{base.name}.{name}")
            with atomic(path) as temporary:
                figure.savefig(temporary, format=name, dpi=dpi, metadata=_SILENCED[name])
            written.append(path)
    return written
