"""Labels beside the ends of curves that never lie on each other, and ticks likewise."""

from __future__ import annotations

from typing import Any, NamedTuple

from datadiet.figures.style import NORMAL, Look, percent, wrapped

_THREAD = {"arrowstyle": "-", "linewidth": 0.8, "alpha": 0.7, "shrinkA": 0, "shrinkB": 0}
WIDTH = 22  # characters of a label in one line
_LINE = 1.35 * NORMAL / 72  # inches that a line of text takes


class End(NamedTuple):
    """The end of a curve at (x, y) in data units; no x for a line across, neither where nothing is drawn."""

    label: str
    look: Look
    x: float | None
    y: float | None
    dash: Any = "-"


def height(labels: list[str], least: float) -> float:
    """Inches a figure must have for these labels beside its curves."""
    lines = sum(wrapped(label, WIDTH).count("\n") + 1 for label in labels)
    return max(least, 1.3 + 1.02 * _LINE * lines)


def label_ends(axes: Any, ends: list[End], limits: tuple[float, float]) -> None:
    """Name each curve in the right margin, as near its end as the others allow, with a key in its look."""
    # Title, note and the axis below take about an inch; the layout is not known before the labels are.
    inches = axes.figure.get_figheight() - 1.15
    texts = [wrapped(end.label, WIDTH) for end in ends]
    sizes = [(text.count("\n") + 1) * _LINE / inches for text in texts]
    low, high = limits
    wanted = [0.0 if end.y is None else (end.y - low) / (high - low) for end in ends]
    places = apart(wanted, sizes)
    across = axes.get_yaxis_transform()
    place_of = axes.transScale + axes.transLimits
    for end, text, place in zip(ends, texts, places, strict=True):
        # Thin, from the curve's end to its name, since neighbours may have pushed the name away; not across
        # the other curves from one that ends early.
        if end.y is not None and (end.x is None or place_of.transform((end.x, end.y))[0] > 0.85):
            start = 1.0 if end.x is None else end.x
            axes.annotate(
                "",
                (1.03, place),
                (start, end.y),
                xycoords="axes fraction",
                textcoords=across if end.x is None else "data",
                annotation_clip=False,
                arrowprops={"color": end.look.colour, **_THREAD},
            )
        axes.plot(
            [1.035, 1.055, 1.075],
            [place] * 3,
            transform=axes.transAxes,
            clip_on=False,
            color=end.look.colour,
            linestyle=end.dash,
            linewidth=1.7,
            marker=end.look.marker,
            markevery=[1],
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label="_key",
            scalex=False,
            scaley=False,
        )
        axes.text(1.09, place, text, transform=axes.transAxes, va="center", ha="left", gid="end label")


def apart(wanted: list[float], sizes: list[float]) -> list[float]:
    """Places nearest to those wanted, in the same order, in which no two of the given sizes overlap.

    Neighbours that collide become one block around the mean of their wishes; blocks stay within [0, 1] where
    they fit.
    """
    order = sorted(range(len(wanted)), key=lambda k: (wanted[k], -k))
    blocks: list[list[int]] = []
    spans: list[tuple[float, float]] = []  # the bottom of a block and its size

    def settle(members: list[int]) -> tuple[float, float]:
        size = sum(sizes[k] for k in members)
        offset, wishes = 0.0, []
        for k in members:
            wishes.append(wanted[k] - offset - sizes[k] / 2)
            offset += sizes[k]
        bottom = sum(wishes) / len(wishes)
        return max(min(bottom, 1 + sizes[members[-1]] / 2 - size), -sizes[members[0]] / 2), size

    for k in order:
        blocks.append([k])
        spans.append(settle([k]))
        while len(blocks) > 1 and spans[-2][0] + spans[-2][1] > spans[-1][0]:
            merged = blocks.pop(-2) + blocks.pop()
            spans[-2:] = [settle(merged)]
            blocks.append(merged)
    places = [0.0] * len(wanted)
    for members, (bottom, _) in zip(blocks, spans, strict=True):
        for k in members:
            places[k] = bottom + sizes[k] / 2
            bottom += sizes[k]
    return places


def spaced_ticks(axes: Any, fractions: list[float], *, logarithmic: bool = False) -> None:
    """A tick in percent at each fraction (ascending) on the x axis; labels that would touch are left out."""
    from matplotlib.ticker import NullLocator

    if logarithmic:
        axes.set_xscale("log")
    ticks = [100 * fraction for fraction in fractions]
    left, right = axes.transData.transform([[ticks[0], 1], [ticks[-1], 1]])[:, 0]
    places = axes.transData.transform([[tick, 1] for tick in ticks])[:, 0]
    # In inches of an axis near 4.6 wide; a digit is 0.09 wide.
    inches = [4.6 * (place - left) / (right - left) if right > left else 0.0 for place in places]
    names: list[str] = []
    end = float("-inf")
    for place, fraction in zip(inches, fractions, strict=True):
        name = percent(fraction)
        half = 0.045 * len(name)
        shown = place - half >= end + 0.06
        names.append(name if shown else "")
        end = place + half if shown else end
    axes.set_xticks(ticks, names)
    axes.xaxis.set_minor_locator(NullLocator())
