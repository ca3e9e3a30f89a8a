"""Values of several things side by side: a row for each, a dot for each run, a bar at the mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.figures.style import CLEAN, INK, heading, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def dots(
    rows: Mapping[str, tuple[Any, float | None]],
    *,
    xlabel: str,
    reference: float | None = None,
    title: str | None = None,
    note: str | None = None,
) -> Figure:
    """A row for each label, from the bottom up.

    Args:
        rows: {label: (values (runs,), what the bar stands at, or None for the values' mean)}.
        reference: where a vertical line is drawn, such as chance.
    """
    if not rows:
        raise DatadietError("there is nothing to draw", where="rows", fix="give at least one label")
    figure = new_figure(7.2, 1.4 + 0.28 * len(rows) + (0.2 if note else 0))
    axes = figure.add_subplot()
    for place, (values, middle) in enumerate(rows.values()):
        array = np.atleast_1d(np.asarray(values, np.float64))
        array = array[np.isfinite(array)]
        axes.plot(array, [place] * len(array), "o", color=CLEAN, markersize=5, alpha=0.45, markeredgewidth=0)
        at = middle if middle is not None else float(array.mean()) if len(array) else float("nan")
        axes.plot([at], [place], "|", color=INK, markersize=14, markeredgewidth=2)
    if reference is not None:
        axes.axvline(reference, color="#888888", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(True, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(xlabel)
    heading(axes, title, note)
    return figure
