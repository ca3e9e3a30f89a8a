"""How the values of a score are distributed, for clean and for corrupted labels (DD Figure 14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.figures.style import CLEAN, CORRUPTED, INK, NORMAL, SMALL, broken, new_figure, styled, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40


@styled
def score_histogram(
    values: Any, corrupted: Any = None, *, name: str = "score", label: str | None = None, bins: int = BINS
) -> Figure:
    """Histogram of one score with its median; two overlaid where corrupted labels are known.

    Args:
        values: (N,) scores; those that are not finite are left out and counted in the note.
        corrupted: (N,) bool, whether the label was changed.
        name: what the score is called, on the axis.
        label: what is shown, as title.
    """
    groups, missing = _groups(values, corrupted, name)
    figure = new_figure(6.6, 4.2)
    axes = figure.add_subplot()
    edges = bin_edges(np.concatenate([group for _, group, _ in groups]), bins)
    _draw(axes, groups, edges)
    axes.set_xlabel(name + (f" ({_unscored(missing)})" if missing else ""))
    axes.set_ylabel("examples" + (" (logarithmic)" if axes.get_yscale() == "log" else ""))
    handles = axes.get_legend_handles_labels()[0]
    names = [
        f"{kind}: {len(group):,}" + (f", median {np.median(group):.3g}" if len(group) else "")
        for kind, group, _ in groups
    ]
    if handles:
        axes.legend(
            handles,
            names,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=2,
            borderaxespad=0.2,
            handlelength=1.2,
            columnspacing=1.6,
            borderpad=0.2,
        )
    axes.set_title(wrapped(label or f"Distribution of {name}", 60), pad=26, fontweight="bold")
    return figure


@styled
def score_histograms(
    panels: Mapping[str, Any],
    corrupted: Any = None,
    *,
    name: str = "score",
    title: str | None = None,
    columns: int = 3,
    same_range: bool = False,
    bins: int = BINS,
) -> Figure:
    """A small histogram for each score or step, each with its median, and one legend.

    Args:
        panels: {title: values (N,)}.
        corrupted: (N,) bool, whether the label was changed; the same for all panels.
        name: what the values are, on every axis.
        same_range: one range of values for all panels, for several steps of the same score.
    """
    if not panels:
        raise DatadietError("there is no score to draw", where="panels", fix="give at least one")
    found = {str(panel): _groups(values, corrupted, str(panel)) for panel, values in panels.items()}
    wide = min(columns, len(found))
    rows = -(-len(found) // wide)
    width = max(2.7 * wide, 4.8)
    room = width / wide - 0.8  # of an axis, without what stands left of it
    heads = [broken(panel, room, NORMAL) for panel in found]
    names = [
        broken(name + (f" ({_unscored(missing)})" if missing else ""), room, NORMAL) for _, missing in found.values()
    ]
    lines = max(text.count("\n") for text in heads) + max(text.count("\n") for text in names)
    words = broken(title, 0.94 * width, 12, "bold") if title else ""
    height = (2.7 + 0.17 * lines) * rows + 0.75 + (0.2 * (words.count("\n") + 1) if title else 0)
    figure = new_figure(width, height)
    grid = figure.subplots(rows, wide, squeeze=False)
    everything = np.concatenate([group for groups, _ in found.values() for _, group, _ in groups])
    for place, (groups, _) in enumerate(found.values()):
        axes = grid[place // wide, place % wide]
        own = np.concatenate([group for _, group, _ in groups])
        _draw(axes, groups, bin_edges(everything if same_range else own, bins))
        middles = [f"{np.median(group):.3g}" for _, group, _ in groups if len(group)]
        text = heads[place]
        if middles:
            text += f"\nmedian{'s' * (len(middles) > 1)} {' / '.join(middles)}"
        axes.set_xlabel(names[place])
        axes.set_title(text, fontsize=NORMAL)
        axes.tick_params(labelsize=SMALL)
        axes.locator_params(axis="x", nbins=5)
        if axes.get_yscale() == "log":
            axes.set_ylabel("examples (log)")
        elif place % wide == 0:
            axes.set_ylabel("examples")
    for place in range(len(found), rows * wide):
        grid[place // wide, place % wide].set_axis_off()
    handles = _handles([kind for kind, _, _ in next(iter(found.values()))[0]])
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.4)
    if title:
        figure.suptitle(words, fontweight="bold", fontsize=12, x=0.012, ha="left")
    return figure


def bin_edges(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Edges (B+1,) of even bins over finite values; whole numbers are never gathered unevenly."""
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if low == high:
        # One value: a bar with room around it.
        half = 0.5 if low == 0 or float(low).is_integer() else abs(low) * 0.05
        return low + half * np.array([-5.0, -3.0, -1.0, 1.0, 3.0, 5.0])
    if high - low < 1e6 and np.all(values == np.rint(values)):
        width = int(np.ceil((high - low + 1) / bins))
        return np.arange(low - 0.5, high + width, width)
    return np.linspace(low, high, bins + 1)


def needs_log(counts: list[np.ndarray]) -> bool:
    """Whether bars would vanish on a linear axis.

    So it is where the tallest of one group, or half of all filled bins, are under 2 % of the tallest of all.
    """
    tallest = [int(one.max()) for one in counts if one.size and one.max() > 0]
    if not tallest:
        return False
    top = max(tallest)
    filled = np.concatenate([one[one > 0] for one in counts])
    return bool(min(tallest) < 0.02 * top or np.median(filled) < 0.02 * top)


_Groups = list[tuple[str, np.ndarray, str]]


def _groups(values: Any, corrupted: Any, name: str) -> tuple[_Groups, int]:
    """[(kind, finite values, colour)] and how many were not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DatadietError(f"scores of shape {array.shape}", where=name, fix="give one value an example, (N,)")
    finite = np.isfinite(array)
    missing = int((~finite).sum())
    if corrupted is None:
        return [("examples", array[finite], CLEAN)], missing
    mask = np.asarray(corrupted, dtype=bool)
    if mask.shape != array.shape:
        raise DatadietError(
            f"{len(array):,} scores but a mask of shape {mask.shape}",
            where=name,
            fix="give both in dataset order",
        )
    return [
        ("clean label", array[finite & ~mask], CLEAN),
        ("corrupted label", array[finite & mask], CORRUPTED),
    ], missing


def _draw(axes: Any, groups: _Groups, edges: np.ndarray) -> None:
    counts = [np.histogram(group, edges)[0] for _, group, _ in groups]
    if not any(len(group) for _, group, _ in groups):
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    log = needs_log(counts)
    for (kind, _, colour), one in zip(groups, counts, strict=True):
        axes.stairs(one, edges, fill=True, color=colour, alpha=0.42, baseline=0.5 if log else 0, label=kind)
    for (_, _, colour), one in zip(groups, counts, strict=True):
        axes.stairs(one, edges, color=colour, linewidth=1.3, baseline=0.5 if log else 0)
    if log:
        axes.set_yscale("log")
        axes.set_ylim(0.5, 2 * max(int(one.max()) for one in counts))
        axes.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}" if count >= 1 else "")
        axes.yaxis.set_minor_formatter(lambda count, _: "")
    else:
        axes.set_ylim(0, 1.06 * max(int(one.max()) for one in counts))
        axes.yaxis.get_major_locator().set_params(integer=True)
    for place, (_, group, colour) in enumerate(groups):
        if len(group):
            middle = float(np.median(group))
            # Darker than a bar and narrower, so that it hides none; the dashes of the second fall into the gaps
            # of the first, where both medians are one.
            dashes = (2.5 * place, (2.5, 2.5))
            dark = _darker(colour)
            axes.axvline(middle, color=dark, linewidth=1.6, linestyle=dashes, zorder=4, label="_median")
    axes.grid(False, axis="x")
    room = 0.015 * (edges[-1] - edges[0])
    axes.set_xlim(edges[0] - room, edges[-1] + room)


def _handles(kinds: list[str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colours = [CLEAN, CORRUPTED][: len(kinds)]
    patches: list[Any] = [
        Patch(facecolor=(colour, 0.42), edgecolor=colour, linewidth=1.3, label=kind)
        for kind, colour in zip(kinds, colours, strict=True)
    ]
    return [*patches, Line2D([], [], color=INK, linewidth=1.6, linestyle=(0, (2.5, 2.5)), label="median")]


def _darker(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return tuple(0.5 * part for part in to_rgb(colour))


def _unscored(missing: int) -> str:
    return f"{missing:,} not finite, left out"
