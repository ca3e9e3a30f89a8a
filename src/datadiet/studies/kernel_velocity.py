"""How fast the kernel of groups of examples moves, by their EL2N rank, clean and with noise (DD Figure 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.flows.measures import Kernel
from datadiet.flows.score import plan_score
from datadiet.flows.tasks import arrays_of
from datadiet.selection.order import ascending
from datadiet.studies.job import StudyJob
from datadiet.studies.settling import groups_of, measured, runs_of
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = 8
BEFORE = (0.6, 0.9)  # ranks of the groups that the topmost is compared with


def size_of(job: StudyJob) -> int:
    """Examples of a group: the paper's 100, fewer at quick."""
    return 40 if job.scale.name == "quick" else 100


def epochs_of(job: StudyJob) -> list[int]:
    """Whole epochs at which kernels are compared with the next epoch's."""
    last = job.horizon // job.steps_per_epoch - 1
    early = max(1, round(job.early_step / job.steps_per_epoch))
    return sorted({min(max(1, epoch), last) for epoch in (early // 2, early, 2 * early)})


def measure(job: StudyJob) -> Numbers:
    size = size_of(job)
    job.need_epoch("the kernel velocity of an epoch")
    job.need(GROUPS * size, f"{GROUPS} groups of {size} examples")
    numbers: Numbers = []
    for kind, data in (("clean", job.data), ("noisy", job.noisy)):
        assert data is not None
        numbers += _of(job, kind, data, size)
    return numbers


def _of(job: StudyJob, kind: str, data: Any, size: int) -> Numbers:
    from datadiet.dynamics.kernel import kernel_velocity

    per, epochs, runs = job.steps_per_epoch, epochs_of(job), min(job.scale.runs, job.scale.score_runs)
    table = job.score(["el2n"], [epoch * per for epoch in epochs], data=data)
    groups = {
        epoch: groups_of(ascending(table.mean("el2n", at=epoch * per), data.fingerprint), GROUPS, size)
        for epoch in epochs
    }
    plan = plan_score(
        data, scores=["el2n"], runs=runs, at=[epoch * per for epoch in epochs], recipe=job.recipe, seed=job.seed,
        setup=job.setup,
    )  # fmt: skip
    wanted = [(step * per, Kernel(rows)) for epoch in epochs for rows in groups[epoch] for step in (epoch, epoch + 1)]
    tasks = [(f"kernels of {label} ({kind} labels)", measured(task, wanted)) for label, task in plan.tasks]
    there = job.execute("kernels", runs_of(job, job.recipe, tasks, noisy=kind == "noisy"))
    numbers: Numbers = []
    for run, (_, task) in enumerate(tasks):
        for epoch in epochs:
            for place, rows in enumerate(groups[epoch]):
                if there:
                    found = [arrays_of(task, Kernel(rows).key, at * per) for at in (epoch, epoch + 1)]
                    velocity = float(kernel_velocity(*(one["kernel"] for one in found)))
                else:
                    velocity = float(job.made_up((1,), "velocity", kind, run, epoch, place)[0])
                numbers.append(
                    {
                        "labels": kind, "epoch": epoch, "group": place, "rank": place / (GROUPS - 1), "run": run,
                        "examples": size, "velocity": velocity,
                    }
                )  # fmt: skip
    return numbers


def velocities(numbers: Numbers, labels: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(runs, groups) velocities, and the (groups,) ranks."""
    rows = [row for row in numbers if row["labels"] == labels and row["epoch"] == epoch]
    ranks, runs = sorted({row["rank"] for row in rows}), sorted({row["run"] for row in rows})
    at = {(row["run"], row["rank"]): row["velocity"] for row in rows}
    return np.array([[at[run, rank] for rank in ranks] for run in runs]), np.array(ranks)


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 5, at each epoch."""
    from scipy.stats import spearmanr

    out = []
    for epoch in sorted({row["epoch"] for row in numbers}):
        clean, ranks = velocities(numbers, "clean", epoch)
        rising = [float(spearmanr(one, ranks)[0]) for one in clean]
        words = f"epoch {epoch}: kernel velocity grows with the EL2N rank (Spearman over {len(ranks)} groups above 0)"
        out.append(verdict(5, words, rising))
        noisy, ranks = velocities(numbers, "noisy", epoch)
        below = (ranks >= BEFORE[0]) & (ranks < BEFORE[1])
        falls = noisy[:, below].mean(1) - noisy[:, -1]
        words = f"epoch {epoch}, noisy labels: velocity falls off at the very top, below that of ranks 60 to 90 %"
        out.append(verdict(5, words, falls))
    return out


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    out = {}
    for labels in ("clean", "noisy"):
        curves = {}
        for epoch in sorted({row["epoch"] for row in numbers}):
            found, ranks = velocities(numbers, labels, epoch)
            curves[f"epoch {epoch}"] = {100 * float(rank): found[:, i] for i, rank in enumerate(ranks)}
        out[f"kernel-velocity-{labels}"] = lines(
            curves, xlabel="rank by EL2N at the same epoch (%)", ylabel="kernel velocity over one epoch",
            title=f"{job.data.name}: velocity of groups of {size_of(job)} examples, {labels} labels", ordered=True,
        )  # fmt: skip
    return out


STUDIES.register(
    "kernel-velocity",
    Study(
        "kernel-velocity", "Which examples drive the change of the network: kernel velocity by EL2N rank", "DD Fig. 3",
        (5,), measure, judge, draw, noisy=True,
    ),
)  # fmt: skip
