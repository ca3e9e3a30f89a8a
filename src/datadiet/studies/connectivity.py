"""When children of one run stay connected, on the lowest, highest and random examples (DD Figure 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datadiet.dynamics.connectivity import CONNECTED, onset
from datadiet.flows.connectivity import execute_connectivity, plan_connectivity
from datadiet.seeds import stream
from datadiet.selection.order import ascending
from datadiet.studies.job import StudyJob
from datadiet.studies.settling import restless, runs_of, spawn_steps
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUBSETS = ("lowest", "random", "highest", "all")


def size_of(job: StudyJob) -> int:
    """Examples of a subset: the paper's 1,000; 200 at quick."""
    return 200 if job.scale.name == "quick" else 1000


def measure(job: StudyJob) -> Numbers:
    size, recipe = size_of(job), restless(job)
    job.need(3 * size, f"subsets of {size} examples")
    spawned = spawn_steps(recipe, len(job.data))
    per, horizon = recipe.steps_per_epoch(len(job.data)), recipe.horizon(len(job.data))
    # The parent's own scores: at epoch 10 of the paper's 200.
    at = min(10 * per, horizon) if job.scale.name == "paper" else min(max(per, round(0.1 * horizon)), horizon)
    table = job.score(["el2n"], [at], runs=job.scale.runs, recipe=recipe)
    plan = plan_connectivity(
        job.data, at=spawned, runs=job.scale.runs, children=2, recipe=recipe, seed=job.seed, setup=job.setup,
        alphas=(0.5,),
    )  # fmt: skip
    job.add("parents", runs_of(job, recipe, plan.families.parents))
    grown = plan.families
    job.add("children", runs_of(job, recipe, grown.children, paths=list(grown.paths.values())))
    found = None if job.rehearsal else execute_connectivity(plan, job.on_progress)
    numbers: Numbers = []
    values = table.values("el2n", at=at)
    for run in range(job.scale.runs):
        order = ascending(values[run], job.data.fingerprint)
        drawn = stream(job.seed, "connectivity", run, "random").choice(len(order), size, replace=False)
        rows = {"lowest": order[:size], "random": drawn, "highest": order[-size:], "all": None}
        for subset in SUBSETS:
            for place, step in enumerate(spawned):
                if found is None:
                    error = loss = float(job.made_up((1,), "barrier", run, subset, place)[0])
                else:
                    (path,) = found.paths[run, step]
                    error, loss = path.error_barrier(rows[subset]), path.loss_barrier(rows[subset])
                numbers.append(
                    {
                        "subset": subset, "run": run, "step": step, "epoch": step / per, "horizon": horizon,
                        "examples": len(order) if rows[subset] is None else size, "scores_at": at,
                        "error_barrier": error, "loss_barrier": loss,
                    }
                )  # fmt: skip
    return numbers


def barriers(numbers: Numbers, subset: str, what: str = "error_barrier") -> tuple[np.ndarray, list[int]]:
    """(runs, steps) barriers of a subset, and the spawn steps."""
    rows = [row for row in numbers if row["subset"] == subset]
    steps, runs = sorted({row["step"] for row in rows}), sorted({row["run"] for row in rows})
    at = {(row["run"], row["step"]): row[what] for row in rows}
    return np.array([[at[run, step] for step in steps] for run in runs]), steps


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 6."""
    (low, steps), (high, _), (drawn, _), (whole, _) = (
        barriers(numbers, name) for name in ("lowest", "highest", "random", "all")
    )
    horizon = numbers[0]["horizon"]

    def onsets(found: np.ndarray) -> np.ndarray:
        settled = [onset(steps, one.tolist()) for one in found]
        return np.array([horizon if step is None else step for step in settled], np.float64)

    points = 100 * np.array([low.mean(1), drawn.mean(1), high.mean(1)])
    late = f"children spawned at step {steps[-1]:,} are connected: their error barrier is below 2 points"
    return [
        verdict(
            6, "the barrier vanishes earlier for the lowest scores than for the highest (spawn step of 2 points)",
            onsets(high), onsets(low), unit="steps",
        ),
        verdict(
            6, "over all spawn steps the highest scores have the larger barrier", points[2], points[0], unit="points"
        ),
        verdict(6, "… larger than random examples have", points[2], points[1], unit="points"),
        verdict(6, "… and random examples a larger one than the lowest", points[1], points[0], unit="points"),
        verdict(
            6, "children spawned at initialisation are not connected: their error barrier exceeds 2 points",
            100 * whole[:, 0], margin=100 * CONNECTED, unit="points",
        ),
        verdict(6, late, 100 * CONNECTED - 100 * whole[:, -1], unit="points to spare"),
    ]  # fmt: skip


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    out = {}
    for what, name, percent in (("error_barrier", "error barrier", True), ("loss_barrier", "loss barrier", False)):
        curves = {}
        for subset in SUBSETS:
            found, steps = barriers(numbers, subset, what)
            label = subset if subset == "all" else f"{size_of(job)} {subset}"
            curves[label] = {float(step): found[:, i] for i, step in enumerate(steps)}
        out[f"connectivity-{what.split('_')[0]}"] = lines(
            curves, xlabel="spawn step", ylabel=name, percent=percent, log=True,
            title=f"{job.data.name}: {name} between children, by spawn step",
        )  # fmt: skip
    return out


STUDIES.register(
    "connectivity",
    Study(
        "connectivity", "When the loss surface of easy, hard and random examples settles", "DD Fig. 4", (6,), measure,
        judge, draw,
    ),
)  # fmt: skip
