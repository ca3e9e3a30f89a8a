"""A few examples during the warm-up of a large batch, and then all data (LT, the warm-up study)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from datadiet.errors import DatadietError
from datadiet.flows.plan import Runs
from datadiet.flows.shared import DataCard
from datadiet.flows.tasks import RunTask, accuracy_of, functions_of
from datadiet.lottery import Pretraining
from datadiet.scores import ScoreTable
from datadiet.selection import Subset
from datadiet.studies.job import StudyJob
from datadiet.studies.scales import PAPER_MODEL
from datadiet.studies.settling import RESTLESS, runs_of
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe, RunSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PURPOSE, AFTER = "warm-up", "after the warm-up"
ALL = "all"
POLICIES = ("easiest", "random", "hardest")
BATCH, TIMES = 1024, 8  # the paper's batch, 8 times that of its other runs
RATE = 4.0  # its rate of 3.2 is 4 times what grows with the batch from 0.1
FIRST, LENGTHS = 100, 6  # warm-ups of 100, 200, … 3,200 steps
SIZES = (5120 / 50000, 10240 / 50000, 25600 / 50000)
REPLICATES = 8
TOLERANCE = 0.5  # points


def as_in_the_paper(job: StudyJob) -> bool:
    """Whether the paper's network and steps are meant."""
    return job.scale.name == "paper" and job.recipe.model == PAPER_MODEL and not job.own


def recipe_of(job: StudyJob) -> Recipe:
    """The paper's: ResNet-20, batch 1,024, rate 3.2, divided by 10 at a half and at three quarters of the run.

    Below its scale, or by a recipe of one's own, that network and its epochs in the same form: a batch 8 times as large
    (4 at quick, where digits would have two batches), a rate 4 times what the batch asks for, plain SGD.
    """
    base, quick = job.recipe, job.scale.name == "quick"
    if as_in_the_paper(job):
        # 160 passes of 49 steps on CIFAR-10: the paper drops no batch, though an epoch here is of whole ones.
        passes = -(-len(job.data) // (TIMES * PRESETS.get("lt-cifar10").recipe.batch_size))
        base = PRESETS.get("lt-cifar10").recipe.with_(steps=f"{160 * passes}it")
    elif quick and base.model == "small-cnn" and not job.own:
        base = base.with_(model=RESTLESS["model"])
    times = TIMES // 2 if quick else TIMES
    large = base.with_(
        batch_size=times * base.batch_size, lr=RATE * times * base.lr, optimizer="sgd", momentum=0.9, nesterov=False,
        weight_decay=1e-4,
    )  # fmt: skip
    horizon = large.horizon(len(job.data))
    at = tuple(f"{max(1, part * horizon // 4)}it" for part in (2, 3))
    return large.with_(schedule="steps", milestones=at, gamma=0.1, warmup="0")


def lengths_of(job: StudyJob) -> list[int]:
    """Steps of warm-up, each twice the one before; below the paper's scale from a 64th of the run on."""
    horizon = recipe_of(job).horizon(len(job.data))
    first, count = max(1, round(horizon / 64)), 4 if job.scale.name == "quick" else 3
    if job.scale.name == "paper":
        first, count = FIRST, LENGTHS
    found = [length for length in (first * 2**k for k in range(count)) if length < horizon]
    if len(found) < 2:
        raise DatadietError(
            f"a run of {horizon:,} steps has no room for two lengths of warm-up", where="--recipe",
            fix="train for more steps",
        )  # fmt: skip
    return found


def sizes_of(job: StudyJob) -> list[int]:
    """Examples of a subset: the paper's three parts of the data; the middle one below its scale."""
    parts = SIZES if job.scale.name == "paper" else SIZES[1:2]
    return [max(1, round(part * len(job.data))) for part in parts]


def runs_for(job: StudyJob) -> int:
    """The paper's 8 replicates, unless another number is asked for."""
    return REPLICATES if job.scale.name == "paper" and not job.own_runs else job.scale.runs


def scored(job: StudyJob) -> tuple[ScoreTable, int]:
    """EL2N, and the step at which it was taken: the paper's 7,800 of its own training; else where curves have it."""
    if as_in_the_paper(job):
        preset = PRESETS.get("lt-cifar10")
        at = preset.recipe.with_(steps=preset.at[0]).horizon(len(job.data))
        return job.score(["el2n"], [at], recipe=preset.recipe), at
    return job.score(["el2n"], [job.curve_step]), job.curve_step


def warmed(plan: Runs, seed: int, length: int, run: int, subset: Subset | None) -> tuple[RunTask, RunTask]:
    """A run on a subset (None: all data) during its warm-up, and the one that goes on from it, on all data.

    The second begins with the weights and the momentum of the first, on the same schedule. Whatever the warm-up was
    on, its order of examples is the same.
    """
    data = plan.data
    spec = RunSpec(
        recipe=plan.recipe.with_(warmup=f"{length}it"), dataset=data.fingerprint, seed=seed, run=run, purpose=PURPOSE,
        classes=len(data.classes), noise=None if data.noise is None else data.noise.describe(),
        subset=None if subset is None else subset.digest, weights=plan.network.weights,
    )  # fmt: skip
    first = RunTask(
        spec, str(plan.setup.store), DataCard.of(data), plan.numerics, until=length, keep=(length,),
        rows=None if subset is None else np.asarray(subset.indices), resume_every=plan.setup.resume_every,
        needs=functions_of(plan.recipe.model),
    )  # fmt: skip
    then = replace(spec, purpose=AFTER, subset=None, parent=(spec.name, length))
    horizon = plan.recipe.horizon(len(data))
    return first, replace(first, spec=then, until=horizon, keep=(), rows=None, evaluate=("test",))


def measure(job: StudyJob) -> Numbers:
    table, at = scored(job)
    recipe, data = recipe_of(job), job.data
    plan = runs_of(job, recipe, [])
    ways: list[tuple[str, int, Pretraining]] = [(ALL, len(data), Pretraining("all"))]
    for size in sizes_of(job):
        for policy in POLICIES:
            ways.append((policy, size, Pretraining(policy, None if policy == "random" else "el2n", size)))
    before, after, about = [], [], []
    for name, size, way in ways:
        try:
            way.check(data, way.balanced)
        except DatadietError as error:  # in the words of another command
            fix = "take more data, evenly spread over classes"
            raise DatadietError(error.what, where=data.name, fix=fix) from None
        # By a score they are the same in all runs; random ones are drawn anew.
        draws = runs_for(job) if name == "random" else 1
        drawn = [way.subset(data, table, at, way.balanced, job.seed, run) for run in range(draws)]
        for run in range(runs_for(job)):
            subset = drawn[run % draws]
            for length in lengths_of(job):
                first, then = warmed(plan, job.seed, length, run, subset)
                label = f"{name} ({size:,}) for {length:,} steps, run {run}"
                before.append((f"warm-up on {label}", first))
                after.append((f"after the warm-up on {label}", then))
                about.append((name, size, run, length, then))
    job.execute("warm-up", replace(plan, tasks=before))
    there = job.execute("after the warm-up", replace(plan, tasks=after))
    numbers: Numbers = []
    for name, size, run, length, task in about:
        if there:
            accuracy = accuracy_of(task, "test", data)
        else:
            accuracy = float(job.made_up((1,), "warm-up", name, size, run, length)[0])
        numbers.append(
            {
                "subset": name, "examples": size, "run": run, "warmup": length, "accuracy": accuracy,
                "steps": task.until, "batch": recipe.batch_size, "rate": recipe.lr,
                "steps_per_epoch": recipe.steps_per_epoch(len(data)), "scores_at": at,
            }
        )  # fmt: skip
    return numbers


def accuracies(numbers: Numbers, subset: str) -> tuple[np.ndarray, list[int]]:
    """(runs, lengths) accuracies in points, the mean over sizes of the subset; and the lengths, ascending."""
    rows = [row for row in numbers if row["subset"] == subset]
    runs, lengths = (sorted({row[name] for row in rows}) for name in ("run", "warmup"))
    found: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        found.setdefault((row["run"], row["warmup"]), []).append(row["accuracy"])
    return 100 * np.array([[np.mean(found[run, length]) for length in lengths] for run in runs]), lengths


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 19; where there are several sizes, of the mean over them."""
    (every, lengths), (easy, _), (drawn, _) = (accuracies(numbers, name) for name in (ALL, "easiest", "random"))
    short = f"after the shortest warm-up, {lengths[0]:,} steps,"
    return [
        verdict(
            19, f"on all data a short warm-up costs accuracy: less after {lengths[0]:,} steps than after "
            f"{lengths[-1]:,}", every[:, -1], every[:, 0], unit="points",
        ),
        verdict(19, f"{short} easy examples in it give more accuracy than all data", easy[:, 0], every[:, 0],
                unit="points"),
        verdict(19, f"{short} easy examples in it give more accuracy than random ones", easy[:, 0], drawn[:, 0],
                unit="points"),
        verdict(
            19, "easy examples for half as many steps of warm-up lose nothing against all data (mean over lengths; "
            f"tolerance {TOLERANCE:g} points)",
            easy[:, :-1].mean(1), every[:, 1:].mean(1), margin=-TOLERANCE, unit="points",
        ),
    ]  # fmt: skip


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    sizes = sorted({row["examples"] for row in numbers if row["subset"] != ALL})
    out = {}
    for size in sizes:
        curves: dict[str, dict[float, list[float]]] = {}
        for row in sorted(numbers, key=lambda row: row["run"]):
            if row["subset"] == ALL or row["examples"] == size:
                name = "full data" if row["subset"] == ALL else f"{size:,} {row['subset']}"
                curves.setdefault(name, {}).setdefault(float(row["warmup"]), []).append(row["accuracy"])
        out["warmup" if len(sizes) == 1 else f"warmup-{size}"] = lines(
            curves, xlabel="steps of warm-up", ylabel="test accuracy", percent=True, log=True,
            title=f"{job.data.name}, batch {numbers[0]['batch']:,}: examples used during the warm-up",
            deviation=True,
        )  # fmt: skip
    return out


STUDIES.register(
    "warmup",
    Study(
        "warmup", "Whether easy examples shorten the warm-up of a large batch", "LT, warm-up study (Fig. 6)", (19,),
        measure, judge, draw,
    ),
)  # fmt: skip
