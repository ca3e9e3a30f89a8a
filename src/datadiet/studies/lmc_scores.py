"""LMC scores beside EL2N: a low EL2N implies a low barrier, not the reverse (LT Figure 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datadiet.dynamics.connectivity import CONNECTED
from datadiet.flows.lmc import lmc_families
from datadiet.flows.score import plan_score
from datadiet.selection.order import ascending
from datadiet.studies.job import StudyJob
from datadiet.studies.settling import restless, runs_of
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.tickets import terms
from datadiet.studies.verdict import Verdict, verdict
from datadiet.training.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPAWN_AT, EL2N_AT = 0.0125, 0.1  # parts of the horizon: before the network is connected, and early
PAPER_SPAWNS = (400, 800, 1600)  # EL2N is taken at the last of them
BINS = 10
REVERSE = 0.1  # a part of the harder half that is more than an exception


def replicates(job: StudyJob) -> int:
    """The paper's two; more where a verdict needs an interval and runs are cheap."""
    return job.scale.runs if job.own_runs else {"quick": 4, "small": 3}.get(job.scale.name, 2)


def recipe_and_steps(job: StudyJob) -> tuple[Recipe, list[int], int]:
    """The recipe, the steps at which children are spawned, and that of EL2N: the paper's at its scale."""
    given = terms(job)
    if job.scale.name == "paper" and given.preset is not None:
        return given.recipe, list(PAPER_SPAWNS), PAPER_SPAWNS[-1]
    recipe = restless(job)
    horizon = recipe.horizon(len(job.data))
    return recipe, [max(1, round(SPAWN_AT * horizon))], max(1, round(EL2N_AT * horizon))


def measure(job: StudyJob) -> Numbers:
    (recipe, spawns, late), runs = recipe_and_steps(job), replicates(job)
    job.need(10 * BINS, f"{BINS} bins of 10 examples")
    plan = plan_score(job.data, scores=["lmc"], runs=runs, at=spawns, recipe=recipe, seed=job.seed, setup=job.setup)
    planned = lmc_families(plan.tasks, job.data, spawns, recipe.horizon(len(job.data)))
    job.add("children", runs_of(job, recipe, planned.children, paths=list(planned.paths.values())))
    scored = job.score(["lmc"], spawns, runs=runs, recipe=recipe)
    el2n = job.score(["el2n"], [late], runs=runs, recipe=recipe).values("el2n", at=late)
    numbers: Numbers = []
    for spawn in spawns:
        numbers += _by_rank(
            scored.values("lmc", at=spawn), el2n, job.data.fingerprint, {"spawn_step": spawn, "el2n_step": late}
        )
    return numbers


def _by_rank(lmc: np.ndarray, el2n: np.ndarray, fingerprint: str, steps: dict[str, int]) -> Numbers:
    """A row for each run (R, N) and tenth of the examples by EL2N."""
    numbers: Numbers = []
    for run in range(len(lmc)):
        low = lmc[run] < CONNECTED
        easy = np.zeros(len(low), bool)
        order = ascending(el2n[run], fingerprint)
        easy[order[: len(low) // 2]] = True
        for part, rows in enumerate(np.array_split(order, BINS)):
            numbers.append(
                {
                    "run": run, "bin": part, "rank": (part + 0.5) / BINS, "examples": len(rows), **steps,
                    "lmc": float(lmc[run][rows].mean()), "connected": float(low[rows].mean()),
                    "connected_if_easy": float(low[easy].mean()), "connected_all": float(low.mean()),
                    "connected_if_hard": float(low[~easy].mean()),
                }
            )  # fmt: skip
    return numbers


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 14, second half: per run, one way and the other."""
    spawned = min(row["spawn_step"] for row in numbers)  # later ones are the more connected
    numbers = [row for row in numbers if row["spawn_step"] == spawned]
    first = sorted((row for row in numbers if row["bin"] == 0), key=lambda row: row["run"])
    last = {row["run"]: row for row in numbers if row["bin"] == max(r["bin"] for r in numbers)}
    given = {name: np.array([row[name] for row in first]) for name in first[0]}
    hardest = np.array([last[row["run"]]["lmc"] for row in first])
    return [
        verdict(
            14, "low EL2N implies a low LMC score: more of the easier half is connected (LMC below 0.02) than of all",
            100 * given["connected_if_easy"], 100 * given["connected_all"], unit="points",
        ),
        verdict(14, "the hardest tenth by EL2N has a higher LMC score than the easiest", hardest, given["lmc"]),
        verdict(
            14, f"not the reverse: of the harder half more than {100 * REVERSE:g} % are connected too",
            100 * given["connected_if_hard"], margin=100 * REVERSE, unit="%",
        ),
    ]  # fmt: skip


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    def by_rank(name: str) -> dict[str, dict[float, list[float]]]:
        out: dict[str, dict[float, list[float]]] = {}
        for row in sorted(numbers, key=lambda row: (row["spawn_step"], row["run"])):
            curve = out.setdefault(f"children of step {row['spawn_step']:,}", {})
            curve.setdefault(100 * row["rank"], []).append(row[name])
        return out

    return {
        "lmc-scores": lines(
            by_rank("lmc"), xlabel="rank by EL2N (%)", ylabel="loss barrier",
            title=f"{job.data.name}: mean LMC score by EL2N rank",
        ),
        "lmc-connected": lines(
            by_rank("connected"), xlabel="rank by EL2N (%)", ylabel="examples with LMC below 0.02", percent=True,
            title=f"{job.data.name}: examples that are connected, by EL2N rank",
        ),
    }  # fmt: skip


STUDIES.register(
    "lmc-scores",
    Study("lmc-scores", "The LMC score of each example beside its EL2N", "LT Fig. 10", (14,), measure, judge, draw),
)
