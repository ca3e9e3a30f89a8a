"""Training on few easy examples: accuracy, coherence of batch gradients and their norms (LT Figures 7 and 8)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from datadiet.flows.compare import FULL, plan_compare
from datadiet.flows.measures import Accuracies, GradientCoherence, TrainingGradientNorms
from datadiet.flows.select import select
from datadiet.flows.tasks import folder_of
from datadiet.lottery.plan import BATCHES
from datadiet.studies.job import StudyJob
from datadiet.studies.settling import gone, measured, runs_of
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 10  # along the pre-training
PRETRAINED = 1600 / 62400  # of the horizon; the first NORMS of it for gradient norms
NORMS = 200 / 62400


def keep_of(job: StudyJob) -> float:
    """The paper's 2,048 of 50,000 examples; at quick, where that would be less than a batch, a fifth."""
    return 0.2 if job.scale.name == "quick" else 2048 / 50000


def steps_of(job: StudyJob) -> list[int]:
    """Steps at which the pre-training is looked at, 0 included; at quick over a tenth of the horizon."""
    last = job.part(0.1 if job.scale.name == "quick" else PRETRAINED)
    return sorted({round(last * i / POINTS) for i in range(POINTS + 1)})


def measure(job: StudyJob) -> Numbers:
    table = job.score(["el2n"], [job.curve_step])
    at, keep = job.curve_step, keep_of(job)
    size = min(job.recipe.batch_size, len(job.data))
    job.need(math.ceil(2 * size / keep), f"{100 * keep:.3g} % of it to be two batches")
    easy = select(table, "el2n", keep, "easiest", at=at, seed=job.seed)
    easy_half = select(table, "el2n", 0.5, "easiest", at=at, seed=job.seed)
    few = plan_compare(
        job.data, {"easiest": easy}, runs=job.scale.runs, recipe=job.recipe, seed=job.seed, setup=job.setup
    )
    half = plan_compare(
        job.data, {"easiest": easy_half}, runs=job.scale.runs, recipe=job.recipe, seed=job.seed, setup=job.setup,
        baselines=("random",),
    )  # fmt: skip
    steps = steps_of(job)
    first = max(4, job.part(0.1 if job.scale.name == "quick" else NORMS))
    batches = min(BATCHES, 4) if job.scale.name == "quick" else BATCHES
    norms = TrainingGradientNorms(first)
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
    there = job.execute("pre-training", runs_of(job, job.recipe, tasks))
    rows = np.asarray(easy.indices)
    numbers: Numbers = []
    for (kind, run, wanted), (_, task) in zip(kinds, tasks, strict=False):
        for step in steps:
            if there:
                correct = folder_of(task).load_result(Accuracies().key, step)
                agree = folder_of(task).load_result(wanted.key, step)
                if correct is None or agree is None:
                    raise gone(folder_of(task).path)
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
                    "epoch": step / job.steps_per_epoch, "batches": batches, **values,
                }
            )  # fmt: skip
    for kind, run, task in halves:
        found = folder_of(task).load_result(norms.key, 0) if there else None
        value = job.made_up((1,), "norms", kind, run)[0] if found is None else found["norms"].mean()
        numbers.append(
            {"what": "gradient norms", "subset": kind, "run": run, "step": first, "norm": float(value), "keep": 0.5}
        )
    return numbers


def means(numbers: Numbers, subset: str, column: str, what: str = "pre-training") -> np.ndarray:
    """(runs,) means over steps after 0."""
    rows = [r for r in numbers if r["what"] == what and r["subset"] == subset and r["step"] > 0]
    runs = sorted({r["run"] for r in rows})
    return np.array([np.mean([r[column] for r in rows if r["run"] == run]) for run in runs])


def judge(numbers: Numbers) -> list[Verdict]:
    """Claims 16 and 17: easy against random examples, run by run, over the steps looked at."""
    out = []
    for column, words in (("test", "test"), ("train", "training"), ("easy", "the easy examples'")):
        out.append(
            verdict(
                16, f"few easy examples train faster than random ones: higher {words} accuracy on the way",
                100 * means(numbers, "easiest", column), 100 * means(numbers, "random", column), unit="points",
            )
        )  # fmt: skip
    out.append(
        verdict(
            16, "batch gradients on easy examples are more coherent than on random ones (cosine to their mean)",
            means(numbers, "easiest", "cosine"), means(numbers, "random", "cosine"),
        )
    )  # fmt: skip
    out.append(
        verdict(
            17, "batch gradient norms in the first steps are larger on the easier half than on a random half",
            means(numbers, "easiest", "norm", "gradient norms"), means(numbers, "random", "norm", "gradient norms"),
        )
    )  # fmt: skip
    return out


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
        flat = {"orthogonal gradients": [1 / math.sqrt(count)]} if column == "cosine" else None
        out[f"coherence-{column}"] = lines(
            curves, xlabel="step", ylabel=label, percent=percent, flat=flat,
            title=f"{job.data.name}: training on {100 * keep_of(job):.3g} % of the examples",
        )  # fmt: skip
    return out


STUDIES.register(
    "coherence",
    Study(
        "coherence", "Why few easy examples suffice at first: accuracy, coherent gradients, gradient norms",
        "LT Fig. 7, 8", (16, 17), measure, judge, draw,
    ),
)  # fmt: skip
