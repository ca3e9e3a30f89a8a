"""Which score says what is easy: EL2N, LMC and forgetting subsets beside random ones (LT Figures 11, 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datadiet.lottery import Pretraining
from datadiet.studies.job import StudyJob
from datadiet.studies.pretraining import unsettled
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.tickets import TOLERANCE, Terms, by_sparsity, deepest, left, points, rows_of, terms, tickets
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = ("el2n", "lmc", "forgetting")
RANDOM = "random"
COMPARED = (1024, 2048, 3200)  # examples of CIFAR-10 in Figure 12


def sizes_of(given: Terms) -> tuple[int, ...]:
    """The paper's; below its scale the one of the other claims."""
    if given.preset is None:
        return (given.size,)
    return COMPARED if given.preset == "lt-cifar10" else given.sizes


def measure(job: StudyJob) -> Numbers:
    job = unsettled(job)  # where all children are connected, an LMC score says nothing
    given = terms(job)
    wanted = {
        f"{kind}:{size}": Pretraining(RANDOM if kind == RANDOM else "easiest", None if kind == RANDOM else kind, size)
        for size in sizes_of(given)
        for kind in (*SCORES, RANDOM)
    }
    found = tickets(job, wanted)
    numbers: Numbers = []
    for name, one in wanted.items():
        numbers += rows_of(
            {name: found[name]}, kind=name.partition(":")[0], examples=one.size, full=given.full, half=given.half
        )
    return numbers


def mean_points(numbers: Numbers, kind: str) -> np.ndarray:
    """(replicates,) accuracies in percent at the deepest level, the mean over sizes."""
    sizes = sorted({row["examples"] for row in numbers})
    return np.mean([points(numbers, deepest(numbers), kind=kind, examples=size) for size in sizes], axis=0)


def judge(numbers: Numbers) -> list[Verdict]:
    """Claims 13 and 14; where there are several sizes, of the mean over them."""
    el2n, lmc, forgetting, drawn = (mean_points(numbers, kind) for kind in (*SCORES, RANDOM))
    there = f"at {left(numbers, deepest(numbers)):.3g} % of the weights"
    return [
        verdict(
            13, f"pre-training on low EL2N gives more accuracy than on low forgetting, {there}", el2n, forgetting,
            unit="points",
        ),
        verdict(14, f"low LMC gives more than random examples, {there}", lmc, drawn, unit="points"),
        verdict(
            14, f"low EL2N gives at least what low LMC gives, {there} (tolerance {TOLERANCE:g} points)", el2n, lmc,
            margin=-TOLERANCE, unit="points",
        ),
    ]  # fmt: skip


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    sizes = sorted({row["examples"] for row in numbers})
    words = {"el2n": "lowest EL2N", "lmc": "lowest LMC", "forgetting": "lowest forgetting", RANDOM: RANDOM}
    return {
        "lottery-scores" if len(sizes) == 1 else f"lottery-scores-{size}": lines(
            {name: by_sparsity(numbers, kind=kind, examples=size) for kind, name in words.items()},
            xlabel="all weights / weights left", ylabel="test accuracy", percent=True, log=True,
            title=f"{job.data.name}: sparse networks after {numbers[0]['half']:,} steps on {size:,} examples",
            deviation=True,
        )
        for size in sizes
    }  # fmt: skip


STUDIES.register(
    "lottery-scores",
    Study(
        "lottery-scores", "Which score finds the easy examples that make the best sparse networks", "LT Fig. 11, 12",
        (13, 14), measure, judge, draw,
    ),
)  # fmt: skip
