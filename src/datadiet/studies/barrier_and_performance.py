"""Whether the loss barrier of a pre-trained network tells how good its sparse networks become (LT Figure 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datadiet.lottery import Pretraining
from datadiet.scores.table import rank_correlation
from datadiet.studies.error_distribution import distance, shares
from datadiet.studies.job import StudyJob
from datadiet.studies.pretraining import ALL, ALL_HALF, EASY, RANDOM, unsettled, wanted
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.tickets import terms, tickets
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTHING = "none"  # of the pre-trainings: plain iterative magnitude pruning
BINS = 20


def measure(job: StudyJob) -> Numbers:
    own = unsettled(job)
    given = terms(own)
    ways = {**wanted(given), NOTHING: Pretraining("all", steps="0")}
    found = tickets(own, ways, instruments=("barrier",))
    numbers: Numbers = []
    # Most barriers are near 0, so bins are as full as each other, of all but the far ones of no pre-training.
    pooled = np.concatenate([np.ravel(one.barriers) for name, one in found.items() if name != NOTHING])  # type: ignore[arg-type]
    edges = np.percentile(pooled, np.linspace(0, 100, BINS + 1))
    for name, one in found.items():
        assert one.barriers is not None
        assert one.error_barriers is not None
        for run, barriers in enumerate(one.barriers):
            about = {"pretraining": name, "run": run, "step": one.step}
            numbers.append(
                {
                    "what": "point", **about, "barrier": float(barriers.mean()),
                    "error_barrier": float(one.error_barriers[run]), "own": float(one.test[run]),
                    "sparse": float(one.accuracy[run, -1]), "dense": float(one.accuracy[run, 0]),
                    "density": float(one.density[-1]), "levels": one.levels,
                }
            )  # fmt: skip
            for i, share in enumerate(shares(barriers, edges)):
                ends = {"low": float(edges[i]), "high": float(edges[i + 1]), "place": 100 * (i + 0.5) / BINS}
                numbers.append({"what": "barriers", **about, "bin": i, **ends, "share": float(share)})
    return numbers


def points(numbers: Numbers, column: str) -> np.ndarray:
    """(replicates, pre-trainings) values at the pre-trained points, or of their sparse networks."""
    rows = [row for row in numbers if row["what"] == "point"]
    names = list(dict.fromkeys(row["pretraining"] for row in rows))
    at = {(row["run"], row["pretraining"]): row[column] for row in rows}
    return np.array([[at[run, name] for name in names] for run in sorted({row["run"] for row in rows})])


def correlations(numbers: Numbers, column: str) -> tuple[np.ndarray, float]:
    """Spearman's of a column with the sparse accuracy: (replicates,) over pre-trainings, and of all points together."""
    values, sparse = points(numbers, column), points(numbers, "sparse")
    own = [rank_correlation(v, s) for v, s in zip(values, sparse, strict=True)]
    return np.array(own), rank_correlation(values.ravel(), sparse.ravel())


def histogram(numbers: Numbers, name: str) -> np.ndarray:
    """(replicates, BINS) shares of examples by their barrier."""
    rows = [row for row in numbers if row["what"] == "barriers" and row["pretraining"] == name]
    rows.sort(key=lambda row: (row["run"], row["bin"]))
    return np.array([row["share"] for row in rows]).reshape(len({row["run"] for row in rows}), -1)


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 15; correlations are over pre-trainings, run by run."""
    (barrier, together), (own, own_together) = (correlations(numbers, name) for name in ("barrier", "own"))
    count = points(numbers, "sparse").shape[1]
    left = 100 * next(row["density"] for row in numbers if row["what"] == "point")
    sparse = f"the sparse network ({left:.3g} % of the weights)"
    full, half, easy = (histogram(numbers, name) for name in (ALL, ALL_HALF, EASY))
    return [
        verdict(
            15, f"the lower the loss barrier of the pre-trained network, the more accurate is {sparse}: Spearman over "
            f"{count} pre-trainings, its sign changed",
            -barrier, note=f"Spearman {together:+.2f} over all points together",
        ),
        verdict(
            15, "… more closely than by the pre-trained network's own accuracy (its Spearman of either sign)",
            -barrier, np.abs(own), note=f"its own: {np.mean(own):+.2f}, {own_together:+.2f} over all points together",
        ),
        verdict(
            15, "in the distribution of barriers over examples, easy data at t*/2 is nearer to all data at t* than all "
            "data at t*/2 is (total variation)",
            distance(half, full), distance(easy, full),
        ),
        verdict(
            15, "… and nearer to all data at t* than to all data at t*/2", distance(easy, half), distance(easy, full)
        ),
    ]  # fmt: skip


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines
    from datadiet.figures.points import points as panels

    rows = [row for row in numbers if row["what"] == "point"]
    names = list(dict.fromkeys(row["pretraining"] for row in rows))

    def against(column: str, by: float) -> dict[str, tuple[list[float], list[float]]]:
        own = {name: [row for row in rows if row["pretraining"] == name] for name in names}
        return {name: ([by * r[column] for r in some], [100 * r["sparse"] for r in some]) for name, some in own.items()}

    first = f"loss barrier: Spearman {correlations(numbers, 'barrier')[1]:+.2f}"
    second = f"accuracy before: Spearman {correlations(numbers, 'own')[1]:+.2f}"
    curves: dict[str, dict[float, list[float]]] = {}
    for row in sorted(numbers, key=lambda row: row["run"]):
        if row["what"] == "barriers" and row["pretraining"] in (ALL, ALL_HALF, EASY, RANDOM):
            curves.setdefault(row["pretraining"], {}).setdefault(row["place"], []).append(row["share"])
    return {
        "barrier-and-performance": panels(
            {
                first: ("loss barrier of the pre-trained network", against("barrier", 1)),
                second: ("test accuracy of the pre-trained network (%)", against("own", 100)),
            },
            ylabel=f"test accuracy at {100 * rows[0]['density']:.3g} % of the weights (%)", log=(first,),
            title=f"{job.data.name}: sparse networks by their pre-trained point",
        ),
        "barrier-distribution": lines(
            curves, xlabel="where a barrier stands among those of all pre-trainings (%), low to high",
            ylabel="examples", percent=True, ticks=False, flat={"all alike": [1 / BINS] * (rows[-1]["run"] + 1)},
            title=f"{job.data.name}: loss barriers of examples",
        ),
    }  # fmt: skip


STUDIES.register(
    "barrier-and-performance",
    Study(
        "barrier-and-performance", "What tells how good a sparse network becomes: loss barrier or accuracy before",
        "LT Fig. 5", (15,), measure, judge, draw,
    ),
)  # fmt: skip
