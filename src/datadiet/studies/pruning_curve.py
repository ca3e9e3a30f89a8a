"""Accuracy against the part kept, for each score, random subsets, and CCS as the remedy (DD Figure 1, bottom)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datadiet.flows.compare import FULL, percent
from datadiet.flows.select import select
from datadiet.studies.job import StudyJob
from datadiet.studies.score_time import KEEPS
from datadiet.studies.series import RANDOM, curve, names_of, points, refuse_random, rows_of
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 1.0  # points of accuracy: "nothing is lost"
CCS_BETA = 0.1  # the part of the hardest that CCS leaves out
CCS = "ccs"


def measure(job: StudyJob) -> Numbers:
    refuse_random(job.scores)
    claimed = KEEPS.get(job.data.name, 0.5)
    keeps = sorted({*job.scale.keeps, claimed}, reverse=True)
    job.need_keeps(keeps)
    at = {"el2n": job.curve_step, "grand": 0, "forgetting": job.horizon}
    for name in job.scores:
        at.setdefault(name, job.curve_step)
    table = job.score(list(at), sorted(set(at.values())))
    subsets: dict[str, Any] = {}
    about: dict[str, dict[str, Any]] = {}
    for keep in keeps:
        for name, step in at.items():
            subsets[f"{name} {percent(keep)}"] = select(table, name, keep, at=step, seed=job.seed)
            about[f"{name} {percent(keep)}"] = {"series": name, "at": step, "keep": keep}
        subsets[f"{CCS} {percent(keep)}"] = select(
            table, "el2n", keep, "stratified", at=at["el2n"], beta=min(CCS_BETA, 1 - keep), seed=job.seed
        )
        about[f"{CCS} {percent(keep)}"] = {"series": CCS, "at": at["el2n"], "keep": keep}
    return [{**row, "claimed": row.get("keep") == claimed} for row in rows_of(job.compare(subsets), about)]


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 2 at the keep that DD names for the data; what happens at the least that is kept; CCS there."""
    half, least = names_of(numbers, "keep", claimed=True)[0], min(curve(numbers, "keep", series="el2n"))
    full = points(numbers, series=FULL)
    top = points(numbers, series="el2n", keep=half)
    hardest = points(numbers, series="el2n", keep=least)
    drawn = points(numbers, series=RANDOM, keep=least)
    spread = points(numbers, series=CCS, keep=least)
    some, few = percent(half), percent(least)
    return [
        verdict(
            2,
            f"keeping the hardest {some} by EL2N loses nothing (less than {TOLERANCE:g} point) against full data",
            top,
            full,
            margin=-TOLERANCE,
            unit="points",
        ),
        verdict(
            2,
            f"keeping the hardest {some} by EL2N is better than a random {some}",
            top,
            points(numbers, series=RANDOM, keep=half),
            unit="points",
        ),
        verdict(
            2,
            f"at extreme pruning ({few} kept) accuracy drops sharply: EL2N loses more than random subsets do",
            drawn,
            hardest,
            unit="points",
        ),
        verdict(2, f"CCS is a remedy: at {few} kept it is better than the hardest", spread, hardest, unit="points"),
        verdict(2, f"CCS is a remedy: at {few} kept it is better than random", spread, drawn, unit="points"),
    ]


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet import figures

    when = {"el2n": f"el2n, epoch {job.epochs(job.curve_step)}", "grand": "grand, epoch 0"}
    curves = {when.get(name, name): curve(numbers, "keep", series=name) for name in names_of(numbers) if name != FULL}
    full = points(numbers, series=FULL) / 100
    title = f"{job.data.name}: hardest kept by each score, random, and CCS on el2n"
    return {"pruning-curve": figures.accuracy_against_keep(curves, full=full, title=title)}


STUDIES.register(
    "pruning-curve",
    Study(
        "pruning-curve",
        "Test accuracy against the part of the data that is kept",
        "DD Fig. 1, bottom",
        (2,),
        measure,
        judge,
        draw,
        takes=frozenset({"score"}),
    ),
)
