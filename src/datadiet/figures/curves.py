"""Accuracy of retraining against the part of the data that was kept (DD Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from datadiet.errors import DatadietError
from datadiet.figures import runs
from datadiet.figures.labels import End, height, label_ends, spaced_ticks
from datadiet.figures.style import FULL, SMALL, Look, heading, looks, new_figure, percent, styled, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def accuracy_against_keep(
    curves: Mapping[str, Mapping[float, Any]],
    full: Any = None,
    *,
    title: str | None = None,
    accuracy: str = "test accuracy",
    full_label: str = "full data",
) -> Figure:
    """Mean accuracy with its 16th-84th percentile over runs, a line for each way of choosing the kept part.

    With a single keep in all curves, a point with an error bar for each of them instead.

    Args:
        curves: {label: {keep: accuracies (runs,)}}, all fractions from 0 to 1; NaN is a run without a result.
        full: accuracies (runs,) of training on everything; drawn as a horizontal line and band.
        accuracy: what the accuracy is of, for the axis.
    """
    if not curves:
        raise DatadietError("there is no curve to draw", where="curves", fix="give at least one label")
    lines = {str(label): runs.line(points, str(label)) for label, points in curves.items()}
    whole = None if full is None else runs.spread(full, full_label)
    whole = whole if whole is not None and whole.runs else None
    keeps = sorted({keep for line in lines.values() for keep in line})
    if len(keeps) <= 1:
        figure, axes = _points(lines, keeps, whole, full_label)
    else:
        figure, axes = _lines(lines, keeps, whole, full_label)
    spreads = [one for line in lines.values() for one in line.values()] + ([whole] if whole else [])
    low, high = runs.limits(spreads)
    room = 0.05 * (high - low) if len(keeps) <= 1 else 0  # for the values beside the points
    axes.set_ylim(low - room, high + room)
    axes.set_ylabel(f"{accuracy} (%)")
    heading(axes, title, runs.note(spreads))
    return figure


def _lines(
    lines: Mapping[str, dict[float, runs.Spread]],
    keeps: list[float],
    whole: runs.Spread | None,
    full_label: str,
) -> tuple[Figure, Any]:
    figure = new_figure(7.2, height([*lines, full_label], 4.3))
    axes = figure.add_subplot()
    styles = looks(lines)
    ends = []
    if whole:
        ends.append(horizontal(axes, whole, full_label))
    for label, line in lines.items():
        if line:
            ends.append(banded(axes, line, label, styles[label]))
        else:
            ends.append(End(f"{label} (no result)", styles[label], None, None))
    # On a linear axis, keeps such as 1, 2, 5, 10 and 50 % would lie on each other.
    gaps = [(b - a) / (keeps[-1] - keeps[0]) for a, b in pairwise(keeps)]
    logarithmic = 0 < keeps[0] < keeps[-1] / 8 and min(gaps) < 0.06
    spaced_ticks(axes, keeps, logarithmic=logarithmic)
    axes.set_xlabel("part of the training data kept (%" + (", logarithmic)" if logarithmic else ")"))
    spreads = [one for line in lines.values() for one in line.values()] + ([whole] if whole else [])
    label_ends(axes, ends, runs.limits(spreads))
    return figure, axes


def _points(
    lines: Mapping[str, dict[float, runs.Spread]],
    keeps: list[float],
    whole: runs.Spread | None,
    full_label: str,
) -> tuple[Figure, Any]:
    figure = new_figure(max(6.4, 1.6 + 1.15 * len(lines)), 4.3)
    axes = figure.add_subplot()
    styles = looks(lines)
    if whole:
        horizontal(axes, whole, full_label)
        axes.annotate(
            wrapped(full_label, 16),
            (1, whole.mean),
            (6, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
            gid="end label",
        )
    for place, (label, line) in enumerate(lines.items()):
        for one in line.values():
            errors = [[max(one.mean - one.low, 0)], [max(one.high - one.mean, 0)]] if one.runs > 1 else None
            axes.errorbar(
                place,
                one.mean,
                yerr=errors,
                label=label,
                color=styles[label].colour,
                marker=styles[label].marker,
                markersize=9,
                capsize=6,
                elinewidth=2,
                capthick=2,
            )
            # On the point's side of the full data's line, which so never strikes it through; the white hides the
            # grid alone, and lies beneath line and band.
            side = 0 if whole is None else 1 if one.mean >= whole.mean else -1
            axes.annotate(
                f"{one.mean:.2f}",
                (place, one.mean),
                (10, side),
                textcoords="offset points",
                va=("center", "bottom", "top")[side],
                fontsize=SMALL,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                zorder=0.7,
                gid="value",
            )
    names = [label if line else f"{label} (no result)" for label, line in lines.items()]
    axes.set_xticks(range(len(names)), [wrapped(name, 14) for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(False, axis="x")
    if keeps:
        axes.set_xlabel(f"{percent(keeps[0])} % of the training data kept")
    return figure, axes


def banded(axes: Any, line: Mapping[float, runs.Spread], label: str, look: Look) -> End:
    """A mean line with markers and its band (none where every point is of one run); where it ends."""
    x = [100 * fraction for fraction in line]
    if any(one.runs > 1 for one in line.values()):
        axes.fill_between(
            x,
            [one.low for one in line.values()],
            [one.high for one in line.values()],
            color=look.colour,
            alpha=0.17,
            linewidth=0,
            zorder=2,
        )
    if len(line) == 1 and next(iter(line.values())).runs > 1:
        # A band of no width would not be seen.
        one = next(iter(line.values()))
        axes.vlines(x, one.low, one.high, color=look.colour, linewidth=2.2, zorder=2.5)
    means = [one.mean for one in line.values()]
    axes.plot(
        x,
        means,
        color=look.colour,
        marker=look.marker,
        label=label,
        zorder=3,
        markeredgecolor="white",
        markeredgewidth=0.6,
    )
    return End(label, look, x[-1], means[-1])


def horizontal(axes: Any, one: runs.Spread, label: str, look: Look | None = None, dash: Any = (0, (5, 2))) -> End:
    """A dashed horizontal line with its band, such as training on everything; where it ends."""
    look = look or Look(FULL, "")
    if one.runs > 1:
        axes.axhspan(one.low, one.high, color=look.colour, alpha=0.09, linewidth=0, zorder=1)
    axes.axhline(one.mean, color=look.colour, linestyle=dash, linewidth=1.5, label=label, zorder=2)
    return End(label, Look(look.colour, ""), None, one.mean, dash)
