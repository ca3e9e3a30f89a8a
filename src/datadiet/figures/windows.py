"""Accuracy of keeping a window of the difficulty order, against where the window lies (DD Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datadiet.errors import DatadietError
from datadiet.figures import runs
from datadiet.figures.curves import banded, horizontal
from datadiet.figures.labels import End, height, label_ends, spaced_ticks
from datadiet.figures.style import heading, looks, new_figure, percent, ramp, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def windows(
    grid: Mapping[float, Mapping[float, Any]],
    chosen: tuple[float, float] | None = None,
    *,
    baselines: Mapping[str, Any] | None = None,
    title: str | None = None,
    accuracy: str = "validation accuracy",
) -> Figure:
    """Mean accuracy with its band against a window's offset, a line for each keep, the chosen one ringed.

    Args:
        grid: {keep: {offset: accuracies (runs,)}}, all fractions from 0 to 1; NaN is a run without a result.
        chosen: (keep, offset) that was taken; None for the highest mean.
        baselines: {label: accuracies (runs,)} drawn as horizontal lines, such as full data.
    """
    lines = {float(keep): runs.line(line, f"keep {keep}", "offset") for keep, line in sorted(grid.items())}
    lines = {keep: line for keep, line in lines.items() if line}
    if not lines:
        raise DatadietError("there is no finished window to draw", where="grid", fix="give at least one")
    if chosen is None:
        chosen = max(
            ((keep, offset) for keep, line in lines.items() for offset in line),
            key=lambda one: lines[one[0]][one[1]].mean,
        )
    keep, offset = float(chosen[0]), float(chosen[1])
    if offset not in lines.get(keep, {}):
        raise DatadietError(
            f"the chosen window (keep {keep:g}, offset {offset:g}) is not in the grid",
            where="chosen",
            fix="give the keep and offset of one that is",
        )
    flat = {str(label): runs.spread(values, str(label)) for label, values in (baselines or {}).items()}
    flat = {label: one for label, one in flat.items() if one.runs}

    figure = new_figure(7.2, height([f"keep {keep}" for keep in lines] + list(flat), 4.5))
    axes = figure.add_subplot()
    ends: list[End] = []
    styles = looks(flat)
    for label, one in flat.items():
        dash = (0, (5, 2)) if "full" in label else (0, (1.5, 1.5))
        ends.append(horizontal(axes, one, label, styles[label], dash))
    for (fraction, line), look in zip(lines.items(), ramp(len(lines)), strict=True):
        ends.append(banded(axes, line, f"keep {percent(fraction)} %", look))
    best = lines[keep][offset]
    axes.plot(
        [100 * offset],
        [best.mean],
        marker="o",
        markersize=16,
        linestyle="none",
        markerfacecolor="none",
        markeredgecolor="#d55e00",
        markeredgewidth=2.2,
        zorder=5,
        label="chosen",
    )
    spreads = [one for line in lines.values() for one in line.values()] + list(flat.values())
    low, high = runs.limits(spreads)
    room = 0.05 * (high - low)  # for the ring
    axes.set_ylim(low - room, high + room)
    spaced_ticks(axes, sorted({offset for line in lines.values() for offset in line}))
    axes.margins(x=0.06)
    label_ends(axes, ends, (low - room, high + room))
    axes.set_xlabel("offset: part with the lowest scores left out (%)")
    axes.set_ylabel(f"{accuracy} (%)")
    heading(
        axes,
        title,
        f"{runs.note(spreads)}; ringed: chosen, keep {percent(keep)} %, offset {percent(offset)} % ({best.mean:.2f} %)",
    )
    return figure
