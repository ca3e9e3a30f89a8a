"""ScoreTable: the scores of every run and step as one thing, in dataset order, with labels and where they come from.

Values stay in their shards until asked for. Means are over runs, in run order, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.errors import DatadietError, unknown
from datadiet.machine import expanded
from datadiet.scores.base import SCORES
from datadiet.steps import Step, counted
from datadiet.store.parquet import write_parquet

SINGLE_RUNS_UP_TO = 2_000_000  # values of single runs in an exported table before they are left out


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of N examples, from several runs, at several steps.

    Args:
        shards: for (score, step) a list of functions, one a run, each of which gives (N,) float32.
        labels: (N,) int64 as training saw them.
        fingerprint: of the dataset.
        steps_per_epoch: to read "2ep".
        corrupted, chosen: (N,) bool where label noise was added.
        ids: what the source calls each row.
        rows: each example's row in the source as loaded, where the training set is not all of it.
        classes: names of the classes.
        provenance: recipe, seed, runs, numerics: the manifest.
        path: its folder, where it has one.
    """

    shards: Mapping[tuple[str, int], Sequence[Callable[[], np.ndarray]]]
    labels: np.ndarray
    fingerprint: str
    steps_per_epoch: int = 1
    corrupted: np.ndarray | None = None
    chosen: np.ndarray | None = None
    ids: Sequence[str] | None = None
    rows: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    _cache: dict[tuple[str, int], np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        runs = counted(self.runs, "run")
        return f"ScoreTable({len(self)} examples, {runs}, {', '.join(self.names)} at steps {self.steps()})"

    @property
    def names(self) -> list[str]:
        """Scores and their further columns."""
        return list(dict.fromkeys(name for name, _ in self.shards))

    @property
    def runs(self) -> int:
        """The most runs that any score has."""
        return max((len(parts) for parts in self.shards.values()), default=0)

    def steps(self, name: str | None = None) -> list[int]:
        """Steps at which a score (or any) is there, ascending."""
        return sorted({step for score, step in self.shards if name in (None, score)})

    def step(self, name: str, at: str | int | None = None) -> int:
        """The step that `at` means for a score; None is the last it was taken at."""
        return self._key(name, at)[1]

    def values(self, name: str, at: str | int | None = None) -> np.ndarray:
        """(runs, N) float32, one row a run in run order; the table's own: copy what is to be written to."""
        key = self._key(name, at)
        if key not in self._cache:
            self._cache[key] = np.stack([load() for load in self.shards[key]])
            self._cache[key].setflags(write=False)  # it is what all else is computed from
        return self._cache[key]

    def mean(self, name: str, at: str | int | None = None) -> np.ndarray:
        """(N,) float64 mean over the runs that have a value; NaN where none has."""
        values = self.values(name, at).astype(np.float64)
        there = ~np.isnan(values)
        if there.all():
            return values.mean(0)
        count = there.sum(0)
        total = np.where(there, values, 0.0).sum(0)
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)

    def sem(self, name: str, at: str | int | None = None) -> np.ndarray:
        """(N,) float64 standard error of the mean; NaN below two runs."""
        values = self.values(name, at).astype(np.float64)
        there = ~np.isnan(values)
        count = there.sum(0)
        with np.errstate(invalid="ignore"):  # infinite values, of somebody's score, have no spread
            centred = np.where(there, values - self.mean(name, at), 0.0)
        enough = count > 1
        variance = np.divide((centred**2).sum(0), count - 1, out=np.full(values.shape[1], np.nan), where=enough)
        return np.sqrt(np.divide(variance, count, out=variance, where=enough))

    def difficulty(self, name: str, at: str | int | None = None) -> np.ndarray:
        """(N,) float64 mean, turned so that higher means harder."""
        sign = SCORES.get(name).sign if name in SCORES else 1
        return sign * self.mean(name, at)

    def spearman(
        self, first: str, second: str | None = None, at: str | int | None = None, second_at: str | int | None = None
    ) -> float:
        """Rank correlation of two mean scores, or of one score at two steps, over examples that have both."""
        a = self.mean(first, at)
        b = self.mean(second or first, at if second_at is None else second_at)
        return rank_correlation(a, b)

    def reliability(self, name: str, at: str | int | None = None) -> float:
        """Split-half reliability of the mean: rank correlation of even with odd runs, stepped up to all runs.

        Spearman and Brown's formula 2r/(1 + r) where r is positive, else r itself; NaN below two runs.
        """
        values = self.values(name, at).astype(np.float64)
        if len(values) < 2:
            return float("nan")
        r = rank_correlation(values[0::2].mean(0), values[1::2].mean(0))
        return 2 * r / (1 + r) if r > 0 else r

    def auroc(self, name: str, at: str | int | None = None) -> float:
        """How well the score finds corrupted labels: the area under the ROC curve; NaN without any."""
        if self.corrupted is None or not self.corrupted.any() or self.corrupted.all():
            return float("nan")
        return area_under_roc(self.difficulty(name, at), self.corrupted)

    def columns(self, single_runs: bool | None = None) -> dict[str, Any]:
        """Columns of the exported table, in order: one row an example."""
        out: dict[str, Any] = {"index": np.arange(len(self))}
        if self.rows is not None:
            out["row"] = self.rows
        if self.ids is not None:
            out["id"] = list(self.ids)
        out["label"] = self.labels
        if self.corrupted is not None:
            out["corrupted"] = self.corrupted
        if self.chosen is not None:
            out["chosen"] = self.chosen
        total = sum(len(parts) for parts in self.shards.values()) * len(self)
        singles = total <= SINGLE_RUNS_UP_TO if single_runs is None else single_runs
        for name, step in sorted(self.shards, key=lambda key: (self.names.index(key[0]), key[1])):
            label = f"{name}@{step}it"
            out[f"{label}.mean"] = self.mean(name, step)
            out[f"{label}.sem"] = self.sem(name, step)
            if singles:
                for run, values in enumerate(self.values(name, step)):
                    out[f"{label}.run{run}"] = values
        return out

    def to_parquet(self, path: str | Path) -> Path:
        """Write `columns()` as Parquet, with the provenance in its metadata."""
        from datadiet.scores.export import SCHEMA

        meta = {"schema": SCHEMA, "fingerprint": self.fingerprint, **self.provenance}
        return write_parquet(expanded(path), self.columns(), meta)

    def check(self, fingerprint: str) -> None:
        """Raise unless the table is of the dataset with this fingerprint."""
        if fingerprint != self.fingerprint:
            raise DatadietError(
                f"the scores are of another dataset (fingerprint {self.fingerprint}, this one has {fingerprint})",
                where=self.path,
                fix="score this dataset",
            )

    def _key(self, name: str, at: str | int | None) -> tuple[str, int]:
        known = ", ".join(one for one in self.names if one in SCORES)
        if name not in self.names and name in SCORES and known:
            raise DatadietError(
                f"{name} was not taken", where=self.path, fix=f"score with --score {name}, or take one of {known}"
            )
        if name not in self.names:
            raise unknown("score", name, self.names, where=self.path)
        there = self.steps(name)
        if at is None:
            return name, there[-1]
        step = Step.parse(at, where="at").resolve(self.steps_per_epoch)
        if step not in there:
            known = ", ".join(f"{s}it" for s in there)
            raise DatadietError(f"no {name} at step {step} ({at})", where=self.path, fix=f"there is: {known}")
        return name, step


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) float64 ranks from 1, equal values sharing their mean rank."""
    # As scipy.stats.rankdata, whose import takes every worker a second.
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
    ends = np.r_[starts[1:], len(values)]
    out = np.empty(len(values))
    out[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return out


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, over entries finite in both; NaN where either is constant."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return float("nan")
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def area_under_roc(values: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive ranks above a negative, ties by half; NaN values count as neither."""
    there = ~np.isnan(values)
    values, positive = values[there], positive[there]
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    return float((ranks(values)[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
