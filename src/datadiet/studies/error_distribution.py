"""Per-example errors of networks pre-trained on all data and on few easy examples (LT Figure 9, the dense half)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from datadiet.flows.compare import FULL, plan_compare
from datadiet.flows.select import select
from datadiet.flows.tasks import folder_of
from datadiet.studies.coherence import PRETRAINED, keep_of
from datadiet.studies.job import StudyJob
from datadiet.studies.settling import runs_of
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 28
LOW, HIGH = 0.25, 1.0  # EL2N below which an example is learned, and above which it is wrong with confidence


def pretraining_steps(job: StudyJob) -> int:
    """t*: after as many steps as all data needs in the paper; a tenth of the horizon at quick."""
    return job.part(0.1 if job.scale.name == "quick" else PRETRAINED)


def measure(job: StudyJob) -> Numbers:
    table = job.score(["el2n"], [job.curve_step])
    easy = select(table, "el2n", keep_of(job), "easiest", at=job.curve_step, seed=job.seed)
    full = pretraining_steps(job)
    half = max(1, full // 2)
    plan = plan_compare(
        job.data, {"easiest": easy}, runs=job.scale.runs, recipe=job.recipe, seed=job.seed, setup=job.setup
    )
    tasks, about = [], []
    for name, _, _, group in plan.groups:
        kind = name if name in (FULL, "easiest") else "random"
        for run, (label, task) in enumerate(group):
            asked = replace(task, marks=(half, full), scores=("el2n",), evaluate=(), until=full)
            tasks.append((label, asked))
            about.append((kind, run))
    there = job.execute("pre-training", runs_of(job, job.recipe, tasks))
    numbers: Numbers = []
    edges = np.linspace(0, np.sqrt(2), BINS + 1)
    for (kind, run), (_, task) in zip(about, tasks, strict=True):
        for step in (half, full):
            found = folder_of(task).load_shard("el2n", step) if there else None
            values = found[0] if found is not None else job.made_up((len(job.data),), "el2n", kind, run, step)
            counts = np.histogram(np.clip(values, 0, edges[-1]), edges)[0] / len(values)
            numbers += [
                {
                    "subset": kind, "run": run, "step": step, "part": "t*" if step == full else "t*/2", "bin": i,
                    "error": float((edges[i] + edges[i + 1]) / 2), "share": float(count),
                    "ends": float(np.mean((values < LOW) | (values > HIGH))), "spread": float(np.std(values)),
                }
                for i, count in enumerate(counts)
            ]  # fmt: skip
    return numbers


def per_run(numbers: Numbers, subset: str, part: str, column: str) -> np.ndarray:
    """(runs,) values of a column that is the same in all bins."""
    rows = [r for r in numbers if r["subset"] == subset and r["part"] == part and r["bin"] == 0]
    return np.array([r[column] for r in sorted(rows, key=lambda r: r["run"])])


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 18 before the sparse projection; its other half needs masks."""
    return [
        verdict(
            18, "before the projection, easy data at t*/2 shows a split: errors spread wider than of all data at t*",
            per_run(numbers, "easiest", "t*/2", "spread"), per_run(numbers, FULL, "t*", "spread"),
        ),
        verdict(
            18, f"… and more examples lie at its ends (EL2N below {LOW:g} or above {HIGH:g})",
            100 * per_run(numbers, "easiest", "t*/2", "ends"), 100 * per_run(numbers, FULL, "t*", "ends"),
            unit="points",
        ),
    ]  # fmt: skip


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    curves: dict[str, dict[float, list[float]]] = {}
    for row in sorted(numbers, key=lambda row: row["run"]):
        if (row["subset"], row["part"]) in ((FULL, "t*"), (FULL, "t*/2"), ("easiest", "t*/2"), ("random", "t*/2")):
            curves.setdefault(f"{row['subset']}, {row['part']}", {}).setdefault(row["error"], []).append(row["share"])
    title = f"{job.data.name}: error of each example before the sparse projection"
    figure = lines(curves, xlabel="EL2N of the example", ylabel="examples", percent=True, title=title, ticks=False)
    return {"error-distribution": figure}


STUDIES.register(
    "error-distribution",
    Study(
        "error-distribution", "How errors are distributed over examples at the pre-trained point", "LT Fig. 9", (18,),
        measure, judge, draw,
    ),
)  # fmt: skip
