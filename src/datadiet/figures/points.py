"""Points of several groups in panels side by side: one quantity against each of some others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.figures.style import NORMAL, looks, new_figure, styled, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def points(
    panels: Mapping[str, tuple[str, Mapping[str, tuple[Any, Any]]]],
    *,
    ylabel: str,
    title: str | None = None,
    log: tuple[str, ...] = (),
) -> Figure:
    """A panel for each quantity, in which each group has its colour and marker.

    Args:
        panels: {title of the panel: (name of x, {group: (x (n,), y (n,))})}.
        log: titles of the panels whose x is logarithmic, where all of it is positive.
    """
    if not panels:
        raise DatadietError("there is nothing to draw", where="panels", fix="give at least one")
    for name, (_, found) in panels.items():
        sizes = {group: (np.size(x), np.size(y)) for group, (x, y) in found.items()}
        if not sizes or any(not x or x != y for x, y in sizes.values()):
            said = ", ".join(f"{group} with {x} x and {y} y" for group, (x, y) in sizes.items()) or "no group"
            raise DatadietError(f"{name} has {said}", where="panels", fix="give as many x as y, at least one a group")
    groups = list(dict.fromkeys(group for _, found in panels.values() for group in found))
    styles = looks(groups)
    figure = new_figure(4.1 * len(panels) + 0.3, 4.6)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, (xlabel, found)) in zip(grid, panels.items(), strict=True):
        for group, (x, y) in found.items():
            look = styles[group]
            axes.plot(
                np.asarray(x), np.asarray(y), look.marker, color=look.colour, alpha=0.75, markersize=6.5,
                markeredgecolor="white", markeredgewidth=0.6, label=group,
            )  # fmt: skip
        if name in log and min(float(np.min(x)) for x, _ in found.values()) > 0:
            axes.set_xscale("log")
            from matplotlib.ticker import LogLocator, NullFormatter

            every = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x, _ in found.values()])
            short = every.max() < 100 * every.min()  # decades alone would be a label or two
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(xlabel)
        axes.set_title(wrapped(name, 38), fontsize=NORMAL)
    grid[0].set_ylabel(ylabel)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, handlelength=1.0)
    if title:
        figure.suptitle(wrapped(title, 34 * len(panels)), fontweight="bold", fontsize=12, x=0.012, ha="left")
    return figure
