"""How many runs a mean score needs: rank correlations, subsets of one run and of K (DD Figures 9, 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.flows.compare import FULL
from datadiet.flows.select import select
from datadiet.scores import SCORES, ScoreTable
from datadiet.scores.table import rank_correlation
from datadiet.selection import select as select_rows
from datadiet.studies.job import StudyJob
from datadiet.studies.series import RANDOM, curve, names_of, points, rows_of
from datadiet.studies.study import STUDIES, Numbers, Study, column
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEEP = 0.5
TIMES = (0.25, 0.5, 0.75, 0.9, 1.0)  # of the horizon: the learning curves
ONE_RUN, ABOUT = 0.75, 0.1  # DD: one run's GraNd at init correlates about 0.75 with the mean of ten
RELIABLE = 0.9  # split-half reliability from which a mean is called reliable
TOLERANCE = 1.0  # points of accuracy


def measure(job: StudyJob) -> Numbers:
    count = job.scale.score_runs
    if count < 4:
        raise DatadietError(f"{count} scoring runs", where="--score-runs", fix="averaging needs 4 at least")
    asked = {"grand": ("grand", 0), "el2n": ("el2n", job.early_step)}
    for name in job.scores:  # beside those of the claims, whose names stand for their step
        if (name, job.early_step) not in asked.values():
            asked[name if name not in asked else f"{name}-at-{job.early_step}"] = (name, job.early_step)
    table = job.score([name for name, _ in asked.values()], sorted({step for _, step in asked.values()}))
    out: Numbers = []
    for title, (name, step) in asked.items():
        out += _correlations(table, name, step, title)
        out.append(
            {
                "what": "reliability",
                "score": title,
                "at": step,
                "k": count,
                "reliability": table.reliability(name, step),
                "runs_needed": runs_needed(table.reliability(name, step), count),
            }
        )
    subsets: dict[str, Any] = {}
    about: dict[str, dict[str, Any]] = {}
    for title, (name, step) in asked.items():
        sizes = {1: "1 run", count // 2: f"{count // 2} runs", count: f"{count} runs"}
        for k, said in sizes.items():
            label = f"{title}, {said}"
            subsets[label] = _subsets(job, table, name, step, k)
            about[label] = {"series": label, "score": title, "at": step, "k": k, "keep": KEEP}
    for until in sorted({job.part(time) for time in TIMES}):
        rows = rows_of(job.compare(subsets, until=until), about)
        out += [{"what": "accuracy", "step": until, "epoch": until / job.steps_per_epoch, **row} for row in rows]
    return out


def _correlations(table: ScoreTable, name: str, step: int, title: str) -> Numbers:
    """Rank correlation of means of k runs, over disjoint groups of k, with the mean of all and of the others."""
    values = table.values(name, step).astype(np.float64)
    count = len(values)
    out: Numbers = []
    for k in sorted({1, 2, 3, count // 2, count - 1} - {0}):
        for group in range(count // k):
            rows = np.zeros(count, bool)
            rows[group * k : (group + 1) * k] = True
            some, rest = values[rows].mean(0), values[~rows].mean(0)
            out.append(
                {
                    "what": "correlation",
                    "score": title,
                    "at": step,
                    "k": k,
                    "of": count,
                    "group": group,
                    "with_all": rank_correlation(some, values.mean(0)),
                    "with_others": rank_correlation(some, rest),
                }
            )
    return out


def _subsets(job: StudyJob, table: ScoreTable, name: str, step: int, k: int) -> Any:
    """The subset of a mean of k runs: another group of them for each retraining run, as far as they go round."""
    if k == table.runs:
        return select(table, name, KEEP, at=step, seed=job.seed)
    values = SCORES.get(name).sign * table.values(name, step).astype(np.float64)
    groups = table.runs // k
    means = [values[g * k : (g + 1) * k].mean(0) for g in range(groups)]
    return [
        select_rows(means[run % groups], KEEP, fingerprint=table.fingerprint, labels=table.labels, seed=job.seed)
        for run in range(job.scale.runs)
    ]


def runs_needed(reliability: float, count: int, wanted: float = RELIABLE) -> int:
    """How many runs a mean needs for a reliability, by Spearman and Brown's formula; 0 where none suffices.

    >>> runs_needed(0.8, 10)
    23
    """
    if not reliability > 0:
        return 0
    if reliability >= 1:
        return 1
    return int(np.ceil(round(count * wanted / (1 - wanted) * (1 - reliability) / reliability, 9)))


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 7: one run's GraNd at init, how many runs are enough, and what one run's subset costs."""
    out = []
    one = np.array(column(numbers, "with_all", what="correlation", score="grand", k=1))
    mean = f", the mean over runs is {one.mean():.2f}" if len(one) else ""
    count = max(column(numbers, "of", what="correlation"), default=0)
    out.append(
        verdict(
            7,
            f"one run's GraNd at initialisation correlates about {ONE_RUN} (within {ABOUT}) with the {count}-run mean",
            ABOUT - np.abs(one - ONE_RUN),
            unit="to spare",
            note="how far within the tolerance each run lies" + mean,
        )
    )
    last = max(column(numbers, "step", what="accuracy"))
    for name, said in (("grand", "GraNd at initialisation"), ("el2n", "early EL2N")):

        def accuracy(k: int, name: str = name) -> np.ndarray:
            return points(numbers, what="accuracy", score=name, k=k, step=last)

        known = column(numbers, "reliability", what="reliability", score=name)
        needed = column(numbers, "runs_needed", what="reliability", score=name)
        answer = (
            f"split-half reliability of {count} runs is {known[0]:.2f}; for {RELIABLE} {_some(needed[0])}"
            if known
            else ""
        )
        out.append(
            verdict(
                7,
                f"{said}: {count // 2} runs are enough, {count} gain less than {TOLERANCE:g} point more",
                accuracy(count // 2),
                accuracy(count),
                margin=-TOLERANCE,
                unit="points",
                note=answer,
            )
        )
        out.append(
            verdict(
                7,
                f"{said}: a subset by one run's scores is worse than by the mean of {count}",
                accuracy(count),
                accuracy(1),
                unit="points",
            )
        )
    return out


def _some(runs: int) -> str:
    return "no number of runs would do" if runs == 0 else f"{runs} run{'s are' if runs != 1 else ' is'} needed"


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    out = {}
    curves: dict[str, dict[float, list[float]]] = {}
    for name in names_of(numbers, "score", what="correlation"):
        for kind, said in (("with_all", "with the mean of all"), ("with_others", "with the mean of the others")):
            found: dict[float, list[float]] = {}
            for row in numbers:
                # Beyond a half, the others are fewer than those averaged.
                shown = kind == "with_all" or 2 * row.get("k", 0) <= row.get("of", 0)
                if row.get("what") == "correlation" and row["score"] == name and shown:
                    found.setdefault(row["k"], []).append(row[kind])
            curves[f"{name} {said}"] = found
    out["averaging-correlation"] = lines(
        curves,
        xlabel="scoring runs that are averaged",
        ylabel="Spearman correlation",
        title=f"{job.data.name}: what averaging over runs adds",
        note="mean and 16th–84th percentile over disjoint groups of runs",
    )
    flat_of = {label: curve(numbers, "epoch", what="accuracy", series=label) for label in (FULL, RANDOM)}
    for name in names_of(numbers, "score", what="accuracy"):
        labels = names_of(numbers, "series", what="accuracy", score=name)
        own = {label: curve(numbers, "epoch", what="accuracy", series=label) for label in labels}
        out[f"averaging-{name}"] = lines(
            {**own, **flat_of},
            xlabel="epoch of retraining",
            ylabel="test accuracy",
            title=f"{job.data.name}: {KEEP:.0%} kept by {name} of one run and of more",
            percent=True,
        )
    return out


STUDIES.register(
    "averaging",
    Study(
        "averaging",
        "How many runs a mean score needs: correlations, learning curves, reliability",
        "DD Fig. 9, 10",
        (7,),
        measure,
        judge,
        draw,
        takes=frozenset({"score"}),
    ),
)
