"""Accuracy at a fixed keep against the step at which each score was taken (DD Figure 1, top)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.flows.compare import FULL, percent
from datadiet.flows.select import select
from datadiet.studies.job import StudyJob
from datadiet.studies.series import RANDOM, curve, names_of, points, refuse_random, rows_of
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 1.0  # points of accuracy: "as good as"
KEEPS = {"cinic10": 0.6, "cifar100": 0.75}  # DD's; a half elsewhere
SCORED = ("el2n", "grand", "forgetting")
CONTROL = "grand_calibrated"  # of GraNd at initialisation, where batch norm in eval mode does nothing


def measure(job: StudyJob) -> Numbers:
    refuse_random(job.scores)
    job.need_epoch("forgetting")
    keep = KEEPS.get(job.data.name, 0.5)
    names = list(dict.fromkeys([*SCORED, *job.scores]))
    marks = sorted({*job.marks, job.early_step})
    table = job.score(names, marks)
    subsets: dict[str, Any] = {}
    about: dict[str, dict[str, Any]] = {}
    for name in names:
        for step in table.steps(name):
            if not np.isfinite(table.mean(name, step)).all():
                if name == "forgetting" and step == marks[-1]:
                    raise DatadietError(
                        "an example has no forgetting at the end of the run: it was in no batch of any scoring run",
                        where=job.data.name,
                        fix="score in more runs (--score-runs), or train for longer",
                    )
                continue  # it follows training, and not every example has come up often enough yet
            label = f"{name} at {step}"
            subsets[label] = select(table, name, keep, at=step, seed=job.seed)
            about[label] = {"series": name, "at": step, "keep": keep, "epoch": step / job.steps_per_epoch}
    control = job.score([CONTROL], [0])
    subsets[f"{CONTROL} at 0"] = select(control, CONTROL, keep, at=0, seed=job.seed)
    about[f"{CONTROL} at 0"] = {"series": CONTROL, "at": 0, "keep": keep, "epoch": 0.0}
    rows = rows_of(job.compare(subsets), about)
    return [{**row, "early": row.get("at") == job.early_step} for row in rows]


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 1: early is as good as forgetting over the whole run, and far better than random; init is not reliable."""
    drawn, full_run = points(numbers, series=RANDOM), max(names_of(numbers, "at"))
    end = points(numbers, series="forgetting", at=full_run)
    out = []
    for name, said in (("el2n", "EL2N"), ("grand", "GraNd")):
        early = points(numbers, series=name, early=True)
        out += [
            verdict(
                1,
                f"early {said} finds a subset as good as forgetting over the whole run (within {TOLERANCE:g} point)",
                early,
                end,
                margin=-TOLERANCE,
                unit="points",
            ),
            verdict(1, f"a subset by early {said} is better than a random one", early, drawn, unit="points"),
        ]
    for name, said in (("el2n", "EL2N"), ("grand", "GraNd")):
        init = points(numbers, series=name, at=0)
        out.append(
            verdict(
                1,
                f"{said} at initialisation is worse than a few epochs in",
                points(numbers, series=name, early=True),
                init,
                unit="points",
            )
        )
        out.append(
            verdict(
                1,
                f"{said} at initialisation is better than random",
                init,
                drawn,
                unit="points",
                note="" if name == "el2n" else "claimed by DD; later work did not reproduce it",
            )
        )
    said = "… also where batch norm's statistics are estimated first (a control)"
    return [*out, verdict(1, said, points(numbers, series=CONTROL, at=0), drawn, unit="points")]


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    keep = next(row["keep"] for row in numbers if row["series"] == RANDOM)
    flat = {label: points(numbers, series=label) / 100 for label in (FULL, RANDOM)}
    curves = {name: curve(numbers, "epoch", series=name) for name in names_of(numbers) if name not in flat}
    return {
        "score-time": lines(
            curves,
            flat=flat,
            xlabel=f"epoch at which the score was taken (of {job.epochs(job.horizon)})",
            ylabel="test accuracy",
            title=f"{job.data.name}: {percent(keep)} kept, by when the score was taken",
            percent=True,
            log=True,
        )
    }


STUDIES.register(
    "score-time",
    Study(
        "score-time",
        "Test accuracy of kept subsets against the step at which the score was taken",
        "DD Fig. 1, top",
        (1,),
        measure,
        judge,
        draw,
        takes=frozenset({"score"}),
    ),
)
