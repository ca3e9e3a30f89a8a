"""A matrix of correlations, and scatters of one score against another (DD Figure 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.figures.style import CORRUPTED, NORMAL, SMALL, heading, new_figure, styled, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 4_000  # points that are drawn one by one; more are counted in hexagons


@styled
def matrix(values: Any, names: Sequence[str], *, title: str | None = None, note: str | None = None) -> Figure:
    """A symmetric matrix of correlations as coloured squares with their numbers.

    Args:
        values: (M, M) in [-1, 1]; NaN is left white.
        names: of rows and columns.
    """
    array = np.asarray(values, np.float64)
    if array.shape != (len(names), len(names)):
        raise DatadietError(f"a matrix of shape {array.shape} for {len(names)} names", where="values")
    if not len(names):
        raise DatadietError("there is no correlation to draw", where="values", fix="give at least one name")
    side = 0.58 * len(names)
    longest = max(len(name) for name in names)
    figure = new_figure(max(5.2, side + 0.075 * longest + 1.7), max(3.6, side + 0.06 * longest + 1.3))
    axes = figure.add_subplot()
    shown = axes.imshow(array, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(names)), list(names), rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), list(names))
    for (row, place), value in np.ndenumerate(array):
        text = "" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.0f}"
        colour = "white" if abs(value) > 0.65 else "black"
        axes.text(place, row, text, ha="center", va="center", fontsize=SMALL, color=colour)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    axes.set_anchor("W")  # else they move to the bar, the farther the less height the heading leaves them
    heading(axes, title, note)
    return figure


@styled
def scatters(
    pairs: Mapping[str, tuple[Any, Any, str, str]],
    *,
    marked: Any = None,
    marked_label: str = "corrupted label",
    columns: int = 3,
    title: str | None = None,
) -> Figure:
    """A small scatter for each pair; where there are thousands of points, how many fall into each hexagon.

    Args:
        pairs: {title: (x (N,), y (N,), name of x, name of y)}.
        marked: (N,) bool; such points are drawn in another colour.
    """
    if not pairs:
        raise DatadietError("there is no pair to draw", where="pairs", fix="give at least one")
    wide = min(columns, len(pairs))
    rows = -(-len(pairs) // wide)
    figure = new_figure(max(2.75 * wide, 4.4), 2.75 * rows + (0.5 if title else 0.1))
    grid = figure.subplots(rows, wide, squeeze=False)
    for place, (name, (x, y, xlabel, ylabel)) in enumerate(pairs.items()):
        axes = grid[place // wide, place % wide]
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        there = np.isfinite(x) & np.isfinite(y)
        mask = np.zeros(len(x), bool) if marked is None else np.asarray(marked, bool)
        if there.sum() > DOTS:
            axes.hexbin(x[there], y[there], gridsize=34, bins="log", cmap="Blues", mincnt=1, linewidths=0.1)
        else:
            clean = there & ~mask
            axes.plot(x[clean], y[clean], ".", color="#0072b2", markersize=3, alpha=0.45, markeredgewidth=0)
        if mask.any():
            seen = there & mask
            axes.plot(
                x[seen], y[seen], ".", color=CORRUPTED, markersize=4, alpha=0.7, markeredgewidth=0, label=marked_label
            )
        axes.set_title(wrapped(name, 28), fontsize=NORMAL)
        axes.set_xlabel(xlabel, fontsize=SMALL)
        axes.set_ylabel(ylabel, fontsize=SMALL)
        axes.tick_params(labelsize=SMALL)
        axes.locator_params(nbins=5)
    for place in range(len(pairs), rows * wide):
        grid[place // wide, place % wide].set_axis_off()
    if title:
        figure.suptitle(wrapped(title, 27 * max(wide, 2)), fontweight="bold", fontsize=12, x=0.012, ha="left")
    return figure
