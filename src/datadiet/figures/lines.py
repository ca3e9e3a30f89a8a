"""Curves over any axis, with their band over runs: time, number of networks, offset of a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.figures import runs
from datadiet.figures.curves import banded, horizontal
from datadiet.figures.labels import End, height, label_ends
from datadiet.figures.style import Look, heading, looks, new_figure, ramp, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def lines(
    curves: Mapping[str, Mapping[float, Any]],
    *,
    xlabel: str,
    ylabel: str,
    flat: Mapping[str, Any] | None = None,
    title: str | None = None,
    note: str | None = None,
    log: bool = False,
    percent: bool = False,
    ordered: bool = False,
    ticks: bool = True,
    deviation: bool = False,
) -> Figure:
    """Mean with its 16th-84th percentile over runs against x, a line for each label.

    Args:
        curves: {label: {x: values (runs,)}}; NaN is a run without a result.
        flat: {label: values (runs,)} drawn across, such as full data.
        note: beneath the title; default what the band is.
        log: a logarithmic x axis; where x = 0 is among the points, it is linear up to the smallest x above 0.
        percent: the values are fractions, shown in percent.
        ordered: the labels stand for an ordered quantity, drawn from light to dark.
        ticks: a tick at each x, as far as there is room; else matplotlib's own.
        deviation: the band is the standard deviation over runs to both sides, as the lottery's paper reports.
    """
    by = 100.0 if percent else 1.0
    found = {str(label): _line(points, by, deviation) for label, points in curves.items()}
    across = {str(label): _spread(values, by, deviation) for label, values in (flat or {}).items()}
    spreads = [one for line in found.values() for one in line.values()] + list(across.values())
    if not any(found.values()):
        raise DatadietError("there is no finished run to draw", where="curves", fix="give at least one")
    figure = new_figure(7.2, height([*found, *across], 4.3))
    axes = figure.add_subplot()
    low, high = _limits(spreads)
    axes.set_ylim(low, high)
    xs = sorted({x for line in found.values() for x in line})
    scale = _x_axis(axes, xs, log, ticks)
    styles = looks([*found, *across])
    if ordered:
        styles |= dict(zip(found, ramp(len(found)), strict=True))
    ends: list[End] = []
    for label, one in across.items():
        if one.runs:
            full = "full" in label
            look = Look("#000000", "") if full else styles[label]
            ends.append(horizontal(axes, one, label, look, (0, (5, 2)) if full else (0, (1.5, 1.5))))
    for label, line in found.items():
        if line:
            # banded's keys are fractions of 100.
            ends.append(banded(axes, {x / 100: one for x, one in line.items()}, label, styles[label]))
        else:
            ends.append(End(f"{label} (no result)", styles[label], None, None))
    label_ends(axes, ends, (low, high))
    if scale:
        xlabel = f"{xlabel[:-1]}, {scale})" if xlabel.endswith(")") else f"{xlabel} ({scale})"
    axes.set_xlabel(xlabel)
    axes.set_ylabel(f"{ylabel} (%)" if percent else ylabel)
    band = "standard deviation" if deviation else runs.PERCENTILES
    heading(axes, title, runs.note(spreads, band) if note is None else note)
    return figure


def _line(points: Mapping[float, Any], by: float, deviation: bool) -> dict[float, runs.Spread]:
    found = {float(x): _spread(values, by, deviation) for x, values in points.items()}
    for x in found:
        if not np.isfinite(x):
            raise DatadietError(f"a point at x = {x}", where="curves", fix="give finite numbers")
    return {x: found[x] for x in sorted(found) if found[x].runs}


def _spread(values: Any, by: float, deviation: bool) -> runs.Spread:
    """Any values (runs,) -> their mean and 16th and 84th percentile, or what lies a deviation off, times `by`."""
    array = by * np.atleast_1d(np.asarray(values, np.float64)).ravel()
    array = array[np.isfinite(array)]
    if not array.size:
        return runs.Spread(np.nan, np.nan, np.nan, 0)
    low, high = np.percentile(array, [16, 84])
    if deviation:
        off = array.std(ddof=1) if array.size > 1 else 0.0
        low, high = array.mean() - off, array.mean() + off
    return runs.Spread(float(array.mean()), float(low), float(high), array.size)


def _limits(spreads: list[runs.Spread]) -> tuple[float, float]:
    shown = [one for one in spreads if one.runs]
    low = min(min(one.low, one.mean) for one in shown)
    high = max(max(one.high, one.mean) for one in shown)
    pad = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _x_axis(axes: Any, xs: list[float], log: bool, ticks: bool) -> str:
    """The scale, and a tick at each x whose label has room; what is to be said of a scale that is not linear."""
    from matplotlib.ticker import NullLocator

    scale = ""
    above = [x for x in xs if x > 0]
    if log and above:
        if above[0] == xs[0]:
            axes.set_xscale("log")
            scale = "logarithmic"
        else:
            axes.set_xscale("symlog", linthresh=above[0], linscale=0.6)
            scale = f"logarithmic from {_written(above[0])}"
    pad = 0.04
    axes.plot(xs, [axes.get_ylim()[0]] * len(xs), alpha=0, label="_range", scaley=False)
    axes.margins(x=pad)
    if not ticks:
        return scale
    places = axes.transLimits.transform(axes.transScale.transform([(x, axes.get_ylim()[0]) for x in xs]))[:, 0]
    names, end = [], float("-inf")
    for x, place in zip(xs, places, strict=True):
        name = _written(x)
        half = 0.0115 * len(name) + 0.008
        shown = place - half >= end
        names.append(name if shown else "")
        end = place + half if shown else end
    axes.set_xticks(xs, names)
    axes.xaxis.set_minor_locator(NullLocator())
    return scale


def _written(x: float) -> str:
    return f"{x:,.10g}" if x == int(x) else f"{x:.3g}"
