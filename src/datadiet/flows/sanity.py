"""The sanity page: what a user should know about scores before selecting by them.

A score may be worth nothing on one's own data, above all at initialisation: it may follow the norm of the input, be
another one with other seeds, rank classes rather than examples, or be the same for most. All of that can be seen
without retraining, so every scoring says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from datadiet.data.batches import Batches
from datadiet.data.dataset import Dataset
from datadiet.scores import SCORES, ScoreTable, input_norm
from datadiet.scores.table import rank_correlation
from datadiet.selection import select

# From where on a figure is worth a sentence. They are conventions, not tests: the figures themselves stand beside.
FOLLOWS_NORM = 0.5  # |rank correlation| with the input norm
UNRELIABLE = 0.5  # split-half reliability below
UNSETTLED = 0.3  # rank correlation with the same score at its last step, below
FALLEN = 0.5  # a class's share in the hardest half, as a part of its share in the data, below
CHANCE = 4.0  # standard deviations that a class's number must lie off for it not to be chance
TIED = 0.5  # part of the examples that have one and the same value
NEVER = 0.25  # part of the examples that no run ever classified correctly

CONTROLS = ("random", "input_norm")  # are what they are
NORMS_OF = 100_000  # inputs whose norm is computed; more rows add nothing to a correlation


@dataclass(frozen=True)
class Check:
    """What was found of one score at one step; None where a figure does not exist.

    Args:
        score, step, epochs, runs: of what.
        scored: examples that have a value.
        input_norm: rank correlation with the norm of the normalised input.
        reliability: split-half reliability of the mean over runs.
        settled: rank correlation with the same score at the last step it was taken at.
        drift: for each class its share in the hardest half less its share in the data (of the scored examples).
        most: the class with the largest drift in size.
        tied: examples whose mean value another one has too; largest: the most that have one and the same.
        never_learned: examples that no run classified correctly so far, of scores that follow it.
        warnings: what of this makes the score worth little, a sentence each.
    """

    score: str
    step: int
    epochs: float
    runs: int
    scored: int
    input_norm: float | None
    reliability: float | None
    settled: float | None
    drift: tuple[float, ...]
    most: int | None
    tied: int
    largest: int
    never_learned: int | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sanity:
    """The page: a Check for every score and step, in the table's order.

    Args:
        dataset, fingerprint, examples, classes: of the data.
        checks: one for each score and step.
        norms_of: inputs whose norm was taken; 0 where inputs have none (tokens).
    """

    dataset: str
    fingerprint: str
    examples: int
    classes: tuple[str, ...]
    checks: tuple[Check, ...]
    norms_of: int

    @property
    def warnings(self) -> list[str]:
        """Every warning with the score and step that it is about."""
        return [f"{check.score} at step {check.step:,} {line}" for check in self.checks for line in check.warnings]

    def __getitem__(self, key: tuple[str, int]) -> Check:
        for check in self.checks:
            if (check.score, check.step) == key:
                return check
        raise KeyError(key)

    def __str__(self) -> str:
        return self.text()

    def to_json(self) -> dict[str, Any]:
        """As `sanity.json` has it; `from_json` is the way back."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "checks"}
        return {"what": "sanity", **own, "checks": [asdict(check) for check in self.checks], "warnings": self.warnings}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Sanity:
        checks = []
        for entry in content["checks"]:
            known = {field.name: entry[field.name] for field in fields(Check)}
            checks.append(Check(**{**known, "drift": tuple(known["drift"]), "warnings": tuple(known["warnings"])}))
        own = {name: content[name] for name in ("dataset", "fingerprint", "examples", "norms_of")}
        return cls(**own, classes=tuple(content["classes"]), checks=tuple(checks))

    def rows(self) -> list[tuple[str, ...]]:
        """The figures as cells: a head and a row for each score and step."""
        head = (
            "score",
            "step",
            "epochs",
            "reliability",
            "input norm",
            "last step",
            "class drift",
            "tied",
            "never learned",
        )
        out: list[tuple[str, ...]] = [head]
        for check in self.checks:
            figures = (check.reliability, check.input_norm, check.settled)
            drift = "" if check.most is None else f"{self._class(check.most)} {100 * check.drift[check.most]:+.1f}"
            out.append(
                (
                    check.score,
                    f"{check.step:,}",
                    f"{check.epochs:g}",
                    *("" if figure is None else f"{figure:.2f}" for figure in figures),
                    drift,
                    f"{check.tied:,}",
                    "" if check.never_learned is None else f"{check.never_learned:,}",
                )
            )
        return out

    def text(self) -> str:
        """The page in plain lines: figures, what they mean, warnings."""
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [f"Sanity of the scores of {self.dataset}, {self.examples:,} examples"]
        for row in rows:
            cells = (
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join(cells).rstrip())
        lines.append(
            "reliability: split-half, of the mean over runs; input norm, last step: rank correlation with the norm of "
            "the input and with the same score at its last step; class drift: the class whose share of the hardest "
            "half differs most from its share of the data, in percentage points; tied: examples that share their value."
        )
        lines += [f"warning: {line}" for line in self.warnings] or ["Nothing here speaks against these scores."]
        return "\n".join(lines)

    def _class(self, label: int) -> str:
        return self.classes[label] if label < len(self.classes) else str(label)


def sanity(table: ScoreTable, data: Dataset) -> Sanity:
    """The sanity page of a table, from its values and the inputs; trains nothing.

    Args:
        table: scores of `data`.
        data: the dataset, for the norms of its inputs and its labels.
    """
    table.check(data.fingerprint)
    rows = np.arange(len(data)) if len(data) <= NORMS_OF else np.arange(NORMS_OF) * len(data) // NORMS_OF
    norms = input_norms(data, rows)
    checks = [
        _check(table, name, step, rows, norms, len(data.classes))
        for name in table.names
        if name in SCORES
        for step in table.steps(name)
    ]
    return Sanity(
        data.name, data.fingerprint, len(data), data.classes, tuple(checks), 0 if norms is None else len(norms)
    )


def input_norms(data: Dataset, rows: np.ndarray) -> np.ndarray | None:
    """(M,) float64 norms of the normalised training inputs at `rows`; None for token inputs, which have none."""
    if data.kind == "tokens":
        return None
    batches = Batches(data.train, data)
    parts = (torch.from_numpy(rows[start : start + 1024]) for start in range(0, len(rows), 1024))
    found: np.ndarray = torch.cat([input_norm(None, batches.inputs(part)) for part in parts]).double().numpy()
    return found


def _check(table: ScoreTable, name: str, step: int, rows: np.ndarray, norms: np.ndarray | None, classes: int) -> Check:
    at = f"{step}it"
    difficulty = table.difficulty(name, at)
    there = np.isfinite(difficulty)
    values, labels = difficulty[there], table.labels[there]
    last = table.steps(name)[-1]
    equal = np.unique(values, return_counts=True)[1]
    drift, most = _drift(values, labels, classes, table.fingerprint)
    check = Check(
        score=name,
        step=step,
        epochs=step / table.steps_per_epoch,
        runs=len(table.shards[(name, step)]),
        scored=len(values),
        input_norm=None if norms is None else _figure(rank_correlation(table.mean(name, at)[rows], norms)),
        reliability=_figure(table.reliability(name, at)),
        settled=None if step == last else _figure(table.spearman(name, at=at, second_at=f"{last}it")),
        drift=drift,
        most=most,
        tied=int(equal[equal > 1].sum()),
        largest=int(equal.max(initial=0)),
        never_learned=_never_learned(table, name, step),
    )
    if name in CONTROLS:
        return check
    counts = np.bincount(labels, minlength=classes)
    return replace(check, warnings=tuple(_warnings(check, table, last, counts)))


def _figure(value: float) -> float | None:
    return None if value != value else float(value)


def _drift(
    values: np.ndarray, labels: np.ndarray, classes: int, fingerprint: str
) -> tuple[tuple[float, ...], int | None]:
    """Share in the hardest half less share in the data, of every class; and the class that drifts most."""
    if len(values) < 2 or (values == values[0]).all():
        return (), None
    half = np.asarray(select(values, 0.5, "hardest", fingerprint=fingerprint))
    after = np.bincount(labels[half], minlength=classes) / len(half)
    drift = after - np.bincount(labels, minlength=classes) / len(labels)
    return tuple(drift.tolist()), int(np.abs(drift).argmax())


def _never_learned(table: ScoreTable, name: str, step: int) -> int | None:
    column = "never_learned"
    if column not in SCORES.get(name).columns or (column, step) not in table.shards:
        return None
    return int((table.mean(column, f"{step}it") == 1).sum())


def _warnings(check: Check, table: ScoreTable, last: int, counts: np.ndarray) -> list[str]:
    lines = []
    examples = len(table)
    if check.scored == 0:
        return ["has no value for any example yet: take it later"]
    if check.scored < examples:
        lines.append(f"has no value for {examples - check.scored:,} of {examples:,} examples yet: take it later")
    if check.most is None:
        return [*lines, "is the same for all examples: it ranks nothing"]
    if check.input_norm is not None and abs(check.input_norm) >= FOLLOWS_NORM:
        lines.append(
            f"follows the norm of the input (rank correlation {check.input_norm:.2f}), for which no network is needed"
        )
    if check.reliability is None and check.runs == 1:
        lines.append("comes from one run: nothing says whether another run would rank alike")
    elif check.reliability is None:
        lines.append("has two halves of runs that do not compare: nothing says whether another run would rank alike")
    elif check.reliability < UNRELIABLE:
        lines.append(
            f"would rank otherwise with other seeds (split-half reliability {check.reliability:.2f}, {check.runs} runs)"
        )
    if check.settled is not None and check.settled < UNSETTLED:
        lines.append(f"ranks unlike itself at step {last:,} (rank correlation {check.settled:.2f})")
    lines += _fallen(check, table.classes, counts)
    if check.largest >= TIED * check.scored:
        lines.append(f"is the same for {check.largest:,} of {check.scored:,} examples: among them the order is chance")
    if check.never_learned is not None and check.never_learned >= NEVER * check.scored:
        lines.append(
            f"puts {check.never_learned:,} of {check.scored:,} examples on top that no run has learned yet, "
            "and does not tell them apart"
        )
    return lines


def _fallen(check: Check, names: Sequence[str], counts: np.ndarray) -> list[str]:
    """A sentence where classes nearly vanish from the hardest half, beyond what chance does to small ones."""
    before = counts / counts.sum()
    after = before + np.asarray(check.drift)
    # Among half of all examples, a class of n has n/2 of them by chance, give or take √n/2.
    short = (before - after) * counts.sum() / 2 > CHANCE * np.sqrt(counts) / 2
    low = np.flatnonzero((counts > 0) & (after < FALLEN * before) & short)
    if not len(low):
        return []
    worst = int(low[np.argmin(after[low] / before[low])])
    name = names[worst] if worst < len(names) else str(worst)
    shares = f"class {name} is {before[worst]:.1%} of the data and {after[worst]:.1%} of the hardest half"
    if len(low) > 1:
        shares += f"; {len(low) - 1} more {'class falls' if len(low) == 2 else 'classes fall'} below half their share"
    return [f"ranks classes as much as examples: {shares}"]
