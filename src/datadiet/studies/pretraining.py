"""What a network is like at the pre-trained point, by what it was pre-trained on (LT Figures 7 and 9, appendix B)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from datadiet.lottery import Pretraining
from datadiet.lottery.plan import BATCHES
from datadiet.studies.error_distribution import HIGH, LOW
from datadiet.studies.job import StudyJob
from datadiet.studies.settling import restless
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.tickets import Terms, terms, tickets
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL, ALL_HALF = "all, t*", "all, t*/2"
EASY, RANDOM, HARD = "easiest, t*/2", "random, t*/2", "hardest, t*/2"
ORTHOGONAL = 1 / math.sqrt(BATCHES)  # the cosine to their mean of gradients that have nothing in common


def unsettled(job: StudyJob) -> StudyJob:
    """The job with a network whose barriers can be seen; at quick on half as many epochs, for time."""
    recipe = restless(job)
    return job if recipe == job.recipe else replace(job, recipe=recipe.with_(steps="5ep"))


def wanted(given: Terms) -> dict[str, Pretraining]:
    """The pre-trainings that are compared, by their names in the numbers."""
    return {
        ALL: Pretraining("all", steps=f"{given.full}it"),
        ALL_HALF: Pretraining("all"),
        EASY: Pretraining("easiest", "el2n", given.size),
        RANDOM: Pretraining("random", None, given.size),
        HARD: Pretraining("hardest", "el2n", given.size),
    }


def measure(job: StudyJob) -> Numbers:
    own = unsettled(job)
    given = terms(own)
    found = tickets(own, wanted(given), instruments=("barrier", "coherence", "errors"), levels=0)
    numbers: Numbers = []
    for name, one in found.items():
        assert one.barriers is not None
        assert one.error_barriers is not None
        assert one.cosines is not None
        assert one.errors_dense is not None
        for run, errors in enumerate(one.errors_dense):
            numbers.append(
                {
                    "pretraining": name, "run": run, "step": one.step,
                    "examples": len(job.data) if name in (ALL, ALL_HALF) else given.size,
                    "test": float(one.test[run]), "train": float(one.train[run]),
                    "cosine": float(one.cosines[run]), "loss_barrier": float(one.barriers[run].mean()),
                    "error_barrier": float(one.error_barriers[run]), "error": float(errors.mean()),
                    "spread": float(errors.std()), "ends": float(np.mean((errors < LOW) | (errors > HIGH))),
                }
            )  # fmt: skip
    return numbers


def per_run(numbers: Numbers, name: str, column: str) -> np.ndarray:
    """(replicates,) values of one pre-training."""
    rows = [row for row in numbers if row["pretraining"] == name]
    return np.array([row[column] for row in sorted(rows, key=lambda row: row["run"])])


def judge(numbers: Numbers) -> list[Verdict]:
    """Claims 15, 16 and 18 at the pre-trained point: easy data against all data after as many steps."""
    out = []
    for column, words in (("test", "test"), ("train", "training")):
        out.append(
            verdict(
                16, f"after t*/2 steps, easy examples give a higher {words} accuracy than all data",
                100 * per_run(numbers, EASY, column), 100 * per_run(numbers, ALL_HALF, column), unit="points",
            )
        )  # fmt: skip
    out.append(
        verdict(
            16, "after t*/2 steps, batch gradients on easy examples are more coherent than on all data",
            per_run(numbers, EASY, "cosine"), per_run(numbers, ALL_HALF, "cosine"),
        )
    )  # fmt: skip
    for other, words in ((ALL_HALF, "all data"), (RANDOM, "random examples")):
        out.append(
            verdict(
                15, f"after t*/2 steps, the loss barrier is lower for easy examples than for {words}",
                per_run(numbers, other, "loss_barrier"), per_run(numbers, EASY, "loss_barrier"),
            )
        )  # fmt: skip
    out.append(
        verdict(
            18, "after t*/2 steps, easy data shows a split: errors spread wider than of all data",
            per_run(numbers, EASY, "spread"), per_run(numbers, ALL_HALF, "spread"),
        )
    )  # fmt: skip
    return out


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.dots import dots

    names = list(dict.fromkeys(row["pretraining"] for row in numbers))[::-1]
    half = next(row["step"] for row in numbers if row["pretraining"] == ALL_HALF)
    out = {}
    for column, label, by in (
        ("test", "test accuracy (%)", 100), ("train", "accuracy on all training examples (%)", 100),
        ("cosine", "cosine of batch gradients to their mean", 1),
        ("loss_barrier", "loss barrier between children, mean over examples", 1),
        ("error", "EL2N, mean over examples", 1),
    ):  # fmt: skip
        floor = "; dashed: orthogonal gradients" if column == "cosine" else ""
        rows = {name: (by * per_run(numbers, name, column), None) for name in names}
        out[f"pretraining-{column.replace('_', '-')}"] = dots(
            rows, xlabel=label, title=f"{job.data.name}: networks at the pre-trained point",
            reference=ORTHOGONAL if column == "cosine" else None,
            note=f"a dot for each replicate, a bar at the mean; t*/2 is {half:,} steps{floor}",
        )  # fmt: skip
    return out


STUDIES.register(
    "pretraining",
    Study(
        "pretraining", "What few easy examples make of a network by the point that is rewound to",
        "LT Fig. 7, 9, B", (15, 16, 18), measure, judge, draw,
    ),
)  # fmt: skip
