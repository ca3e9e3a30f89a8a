"""Per-example errors at the pre-trained point, before and after the sparse projection (LT Figure 9)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from datadiet.flows.compare import FULL
from datadiet.lottery import Pretraining
from datadiet.lottery.plan import PROJECTED
from datadiet.lottery.pruning import FRACTION
from datadiet.studies.job import StudyJob
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.tickets import Terms, terms, tickets
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 28
LOW, HIGH = 0.25, 1.0  # EL2N below which an example is learned, and above which it is wrong with confidence
DENSE, SPARSE = "before", "after"


def projected(given: Terms) -> int:
    """The level that is looked at, beyond which nothing need be trained: it leaves about what the paper's 6 leave."""
    return max(1, min(given.levels, round(PROJECTED * math.log(1 - FRACTION) / math.log(1 - given.fraction))))


def shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(B,) parts of the values in each bin; those beyond the ends are in the outermost."""
    return np.asarray(np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values))


def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(runs,) total variation between two histograms of each run, (runs, B): 0 for the same, 1 for disjoint ones."""
    return np.asarray(np.abs(np.asarray(first) - np.asarray(second)).sum(1) / 2)


def measure(job: StudyJob) -> Numbers:
    given = terms(job)
    ways = {
        (FULL, "t*"): Pretraining("all", steps=f"{given.full}it"),
        (FULL, "t*/2"): Pretraining("all"),
        ("easiest", "t*/2"): Pretraining("easiest", "el2n", given.size),
    }
    asked = {f"{subset}, {part}": way for (subset, part), way in ways.items()}
    found = tickets(job, asked, instruments=("errors",), levels=projected(given))
    edges = np.linspace(0, np.sqrt(2), BINS + 1)
    numbers: Numbers = []
    for (subset, part), name in zip(ways, asked, strict=True):
        one = found[name]
        assert one.errors_dense is not None
        assert one.errors_sparse is not None
        for when, errors in ((DENSE, one.errors_dense), (SPARSE, one.errors_sparse)):
            for run, values in enumerate(errors):
                numbers += [
                    {
                        "subset": subset, "run": run, "step": one.step, "part": part, "projection": when,
                        "density": 1.0 if when == DENSE else float(one.density[-1]), "bin": i,
                        "error": float((edges[i] + edges[i + 1]) / 2), "share": float(share),
                        "ends": float(np.mean((values < LOW) | (values > HIGH))), "spread": float(np.std(values)),
                    }
                    for i, share in enumerate(shares(values, edges))
                ]  # fmt: skip
    return numbers


def per_run(numbers: Numbers, subset: str, part: str, column: str, when: str = DENSE) -> np.ndarray:
    """(runs,) values of a column that is the same in all bins."""
    at = (subset, part, when, 0)
    rows = [r for r in numbers if (r["subset"], r["part"], r["projection"], r["bin"]) == at]
    return np.array([r[column] for r in sorted(rows, key=lambda r: r["run"])])


def histogram(numbers: Numbers, subset: str, part: str, when: str) -> np.ndarray:
    """(runs, BINS) parts of the examples by their error."""
    rows = [r for r in numbers if (r["subset"], r["part"], r["projection"]) == (subset, part, when)]
    rows.sort(key=lambda r: (r["run"], r["bin"]))
    return np.array([r["share"] for r in rows]).reshape(len({r["run"] for r in rows}), -1)


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 18: before the sparse projection, across it, and after it. Distances are total variations, run by run."""
    out = [
        verdict(
            18, "before the projection, easy data at t*/2 shows a split: errors spread wider than of all data then",
            per_run(numbers, "easiest", "t*/2", "spread"), per_run(numbers, FULL, "t*/2", "spread"),
        ),
        verdict(
            18, f"… and more examples lie at its ends (EL2N below {LOW:g} or above {HIGH:g})",
            100 * per_run(numbers, "easiest", "t*/2", "ends"), 100 * per_run(numbers, FULL, "t*/2", "ends"),
            unit="points",
        ),
    ]  # fmt: skip

    def at(subset: str, part: str, when: str) -> np.ndarray:
        return histogram(numbers, subset, part, when)

    moved = distance(at("easiest", "t*/2", DENSE), at("easiest", "t*/2", SPARSE))
    for part in ("t*", "t*/2"):
        out.append(
            verdict(
                18, f"the projection changes the errors of easy data at t*/2 more than those of all data at {part}",
                moved, distance(at(FULL, part, DENSE), at(FULL, part, SPARSE)),
            )
        )  # fmt: skip
    late, early, easy = (at(*which, SPARSE) for which in ((FULL, "t*"), (FULL, "t*/2"), ("easiest", "t*/2")))
    out += [
        verdict(
            18, "after the projection, easy data at t*/2 is nearer to all data at t* than all data at t*/2 is",
            distance(early, late), distance(easy, late),
        ),
        verdict(
            18, "… and nearer to all data at t* than to all data at t*/2", distance(easy, early), distance(easy, late)
        ),
    ]  # fmt: skip
    return out


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    out = {}
    for when in (DENSE, SPARSE):
        curves: dict[str, dict[float, list[float]]] = {}
        here = [row for row in numbers if row["projection"] == when]
        for row in sorted(here, key=lambda row: row["run"]):
            name = f"{'all' if row['subset'] == FULL else row['subset']}, {row['part']}"
            curves.setdefault(name, {}).setdefault(row["error"], []).append(row["share"])
        left = "" if when == DENSE else f" to {100 * here[0]['density']:.3g} % of the weights"
        out["error-distribution" if when == DENSE else "error-distribution-projected"] = lines(
            curves, xlabel="EL2N of the example", ylabel="examples", percent=True, ticks=False,
            title=f"{job.data.name}: errors {when} the sparse projection{left}",
        )  # fmt: skip
    return out


STUDIES.register(
    "error-distribution",
    Study(
        "error-distribution", "How errors are distributed over examples at the pre-trained point", "LT Fig. 9", (18,),
        measure, judge, draw,
    ),
)  # fmt: skip
