"""Accuracies of a comparison as rows of numbers, and back: what the judging and drawing of several studies share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.flows.compare import FULL, Comparison
from datadiet.studies.study import Numbers

RANDOM = "random"


def refuse_random(scores: Sequence[str]) -> None:
    """Of a study whose curves are named by their scores: random subsets are one of them already."""
    if RANDOM in scores:
        raise DatadietError(f"{RANDOM} subsets stand in it already", where="--score", fix=f"leave {RANDOM} out")


def rows_of(comparison: Comparison, about: Mapping[str, Mapping[str, Any]], **common: Any) -> Numbers:
    """A row for each run of each line of a comparison.

    Args:
        about: for the name of a line what to say of it, its `series` above all, and its `keep` as it was asked for;
            full data and random subsets are known.
        common: what is so of every row.
    """
    out: Numbers = []
    asked = {row.examples: about[row.name]["keep"] for row in comparison.rows if "keep" in about.get(row.name, {})}
    for row in comparison.rows:
        keep = asked.get(row.examples, row.keep)  # 5 %, not 67 of 1,346
        if row.name == FULL:
            known: Mapping[str, Any] = {"series": FULL}
        elif row.name.startswith(f"{RANDOM} ") and row.name not in about:
            known = {"series": RANDOM}
        else:
            known = about[row.name]
        for run, accuracy in enumerate(row.accuracies):
            out.append({**common, **known, "keep": keep, "examples": row.examples, "run": run, "accuracy": accuracy})
    return out


def points(numbers: Numbers, **where: Any) -> np.ndarray:
    """(runs,) accuracies in percent of the rows in which all of `where` is so, in run order."""
    found = [row for row in numbers if "accuracy" in row and all(row.get(key) == value for key, value in where.items())]
    return np.array([100 * row["accuracy"] for row in sorted(found, key=lambda row: row["run"])])


def curve(numbers: Numbers, x: str, **where: Any) -> dict[float, list[float]]:
    """{value of column x: accuracies (runs,) as fractions}, ascending in x."""
    found: dict[float, list[float]] = {}
    for row in sorted((r for r in numbers if "accuracy" in r), key=lambda r: r["run"]):
        if x in row and all(row.get(key) == value for key, value in where.items()):
            found.setdefault(row[x], []).append(row["accuracy"])
    return dict(sorted(found.items()))


def names_of(numbers: Numbers, name: str = "series", **where: Any) -> list[Any]:
    """The different values of a column, in order of appearance."""
    return list(
        dict.fromkeys(
            row[name] for row in numbers if name in row and all(row.get(key) == value for key, value in where.items())
        )
    )
