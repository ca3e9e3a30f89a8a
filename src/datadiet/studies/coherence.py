"""Training on few easy examples: accuracy, coherence of batch gradients and their norms (LT Figures 7 and 8)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datadiet.flows.compare import FULL, plan_compare
from datadiet.flows.measures import Accuracies, GradientCoherence, TrainingGradientNorms
from datadiet.flows.select import select
from datadiet.flows.tasks import arrays_of
from datadiet.lottery import LOTTERIES
from datadiet.lottery.plan import BATCHES
from datadiet.steps import Step
from datadiet.studies.job import StudyJob
from datadiet.studies.settling import measured, runs_of
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.tickets import terms
from datadiet.studies.verdict import Verdict, verdict
from datadiet.training.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

POINTS = 10  # along the pre-training, below the paper's scale
PRETRAINED, EASY, EVERY = 1600, 2048, 10  # the paper's steps, examples, and steps between two looks
NORMS, HALF = 200, 25600  # the paper's steps whose gradient norms are taken, and examples
HORIZON, EXAMPLES = 62400, 50000  # of which those are parts


@dataclass(frozen=True)
class Course:
    """What is trained, and when it is looked at.

    Args:
        recipe: of the pre-training; scored: of the scoring runs, and at: their step.
        steps: at which the pre-training is looked at; first: how many of its steps give gradient norms.
        keep: the part of the examples that is few; half: that of the gradient norms.
        batches: how many gradients are compared.
    """

    recipe: Recipe
    scored: Recipe
    at: int
    steps: list[int]
    first: int
    keep: float
    half: float
    batches: int


def course(job: StudyJob) -> Course:
    """The paper's at its scale; else parts of the job's own training as large, at quick larger ones."""
    count, recipe = len(job.data), job.recipe
    given = terms(job)
    if job.scale.name == "paper" and given.preset is not None:
        usual, per = LOTTERIES.get(given.preset), given.recipe.steps_per_epoch(count)
        return Course(
            given.recipe.with_(lr=usual.lr), given.recipe, Step.parse(usual.scores_at).resolve(per),
            list(range(0, PRETRAINED + 1, EVERY)), NORMS, min(1.0, EASY / count), min(1.0, HALF / count), BATCHES,
        )  # fmt: skip
    quick = job.scale.name == "quick"
    last = job.part(0.1 if quick else PRETRAINED / HORIZON)
    return Course(
        recipe, recipe, job.curve_step, sorted({round(last * i / POINTS) for i in range(POINTS + 1)}),
        max(4, job.part(0.1 if quick else NORMS / HORIZON)), 0.2 if quick else EASY / EXAMPLES, 0.5,
        min(BATCHES, 4) if quick else BATCHES,
    )  # fmt: skip


def measure(job: StudyJob) -> Numbers:
    given = course(job)
    recipe, steps, batches, at = given.recipe, given.steps, given.batches, given.at
    size = min(recipe.batch_size, len(job.data))
    job.need(math.ceil(2 * size / given.keep), f"{100 * given.keep:.3g} % of it to be two batches")
    table = job.score(["el2n"], [at], recipe=given.scored)
    easy = select(table, "el2n", given.keep, "easiest", at=at, seed=job.seed)
    easy_half = select(table, "el2n", given.half, "easiest", at=at, seed=job.seed)
    few = plan_compare(
        job.data, {"easiest": easy}, runs=job.scale.runs, recipe=recipe, seed=job.seed, setup=job.setup,
        baselines=("full", _random(job, len(easy))),
    )  # fmt: skip
    half = plan_compare(
        job.data, {"easiest": easy_half}, runs=job.scale.runs, recipe=recipe, seed=job.seed, setup=job.setup,
        baselines=(_random(job, len(easy_half)),),
    )  # fmt: skip
    norms = TrainingGradientNorms(given.first)
    kinds, tasks = [], []
    for name, _, _, group in few.groups:
        kind = name if name in (FULL, "easiest") else "random"
        for run, (label, task) in enumerate(group):
            rows = np.arange(len(job.data)) if task.rows is None else np.asarray(task.rows)
            wanted = GradientCoherence(rows, batches, size)
            kinds.append((kind, run, wanted))
            tasks.append((label, measured(task, [(s, m) for s in steps for m in (Accuracies(), wanted)])))
    halves = []
    for name, _, _, group in half.groups:
        for run, (label, task) in enumerate(group):
            halves.append(("easiest" if name == "easiest" else "random", run, measured(task, [(0, norms)])))
            tasks.append((f"{label}, gradient norms", halves[-1][2]))
    there = job.execute("pre-training", runs_of(job, recipe, tasks))
    rows = np.asarray(easy.indices)
    numbers: Numbers = []
    for (kind, run, wanted), (_, task) in zip(kinds, tasks, strict=False):
        for step in steps:
            if there:
                correct, agree = (arrays_of(task, one.key, step) for one in (Accuracies(), wanted))
                values = {
                    "test": float(correct["test"].mean()), "train": float(correct["train"].mean()),
                    "easy": float(correct["train"][rows].mean()), "cosine": float(agree["cosines"].mean()),
                }  # fmt: skip
            else:
                names = ("test", "train", "easy", "cosine")
                values = dict(zip(names, job.made_up((4,), kind, run, step).tolist(), strict=True))
            numbers.append(
                {
                    "what": "pre-training", "subset": kind, "run": run, "step": step,
                    "epoch": step / recipe.steps_per_epoch(len(job.data)), "batches": batches, **values,
                }
            )  # fmt: skip
    for kind, run, task in halves:
        value = arrays_of(task, norms.key, 0)["norms"].mean() if there else job.made_up((1,), "norms", kind, run)[0]
        numbers.append(
            {
                "what": "gradient norms", "subset": kind, "run": run, "step": given.first, "norm": float(value),
                "keep": given.half,
            }
        )  # fmt: skip
    return numbers


def means(numbers: Numbers, subset: str, column: str, what: str = "pre-training") -> np.ndarray:
    """(runs,) means over steps after 0."""
    rows = [r for r in numbers if r["what"] == what and r["subset"] == subset and r["step"] > 0]
    runs = sorted({r["run"] for r in rows})
    return np.array([np.mean([r[column] for r in rows if r["run"] == run]) for run in runs])


def _random(job: StudyJob, size: int) -> str:
    """The same number of each class, as the paper's; where one has too few for that, of all together."""
    sizes = np.bincount(job.data.labels)
    sizes = sizes[sizes > 0]
    each, smallest = size // len(sizes), int(sizes.min())
    if smallest >= each:
        return "balanced-random"
    log.warning("random subsets of %d are not class-balanced: a class has %d examples of %d", size, smallest, each)
    return "random"


def judge(numbers: Numbers) -> list[Verdict]:
    """Claims 16 and 17: easy against all examples, and against as few random ones, run by run, over the steps."""
    out = []
    for other, words in ((FULL, "all data"), ("random", "as few random ones")):
        for column, which in (("test", "test"), ("train", "training"), ("easy", "easy")):
            easy, beside = 100 * means(numbers, "easiest", column), 100 * means(numbers, other, column)
            said = f"few easy examples train faster than {words}: higher accuracy on {which} examples on the way"
            out.append(verdict(16, said, easy, beside, unit="points"))
        said = f"batch gradients are more coherent with few easy examples than with {words} (cosine to their mean)"
        out.append(verdict(16, said, means(numbers, "easiest", "cosine"), means(numbers, other, "cosine")))
    said = "batch gradient norms in the first steps are larger on the easier part than on as many random examples"
    norms = [means(numbers, subset, "norm", "gradient norms") for subset in ("easiest", "random")]
    return [*out, verdict(17, said, norms[0], norms[1])]


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    along = [row for row in numbers if row["what"] == "pre-training"]
    count = along[0]["batches"]
    out = {}
    for column, label, percent in (
        ("test", "test accuracy", True), ("easy", "accuracy on the easy examples", True),
        ("cosine", f"cosine of {count} batch gradients to their mean", False),
    ):  # fmt: skip
        curves: dict[str, dict[float, list[float]]] = {}
        for row in sorted(along, key=lambda row: row["run"]):
            curves.setdefault(row["subset"], {}).setdefault(float(row["step"]), []).append(row[column])
        runs = len({row["run"] for row in along})  # the floor is that of every run
        flat = {"orthogonal gradients": [1 / math.sqrt(count)] * runs} if column == "cosine" else None
        out[f"coherence-{column}"] = lines(
            curves, xlabel="step", ylabel=label, percent=percent, flat=flat,
            title=f"{job.data.name}: training on {100 * course(job).keep:.3g} % of the examples", deviation=True,
        )  # fmt: skip
    return out


STUDIES.register(
    "coherence",
    Study(
        "coherence", "Why few easy examples suffice at first: accuracy, coherent gradients, gradient norms",
        "LT Fig. 7, 8", (16, 17), measure, judge, draw,
    ),
)  # fmt: skip
