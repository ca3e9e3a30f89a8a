"""Sparse networks from easy data for t*/2, beside all, random and hard data, and none (LT Figures 13, 14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datadiet.lottery import Outcome, Pretraining
from datadiet.studies.job import StudyJob
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.tickets import TOLERANCE, Terms, by_sparsity, deepest, kept, left, points, rows_of, terms, tickets
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL, ALL, NONE = "all at t*", "all at t*/2", "no pre-training"
POLICIES = ("easiest", "random", "hardest")


def pretrainings(given: Terms, sizes: Sequence[int]) -> dict[str, Pretraining]:
    """The pre-trainings of Figure 13: all data for t* and t*/2, none, and subsets of each size for t*/2."""
    out = {
        FULL: Pretraining("all", steps=f"{given.full}it"),
        ALL: Pretraining("all", steps=f"{given.half}it"),
        NONE: Pretraining("all", steps="0"),
    }
    for size in sizes:
        for policy in POLICIES:
            by = None if policy == "random" else "el2n"
            out[f"{policy}:{size}"] = Pretraining(policy, by, size, f"{given.half}it")
    return out


def numbers_of(
    given: Terms, wanted: Mapping[str, Pretraining], found: Mapping[str, Outcome], count: int, **common: Any
) -> Numbers:
    """Rows that also say the kind of pre-training, its examples, and whether its size is the one of the claim."""
    numbers: Numbers = []
    for name, one in wanted.items():
        numbers += rows_of(
            {name: found[name]}, kind=name.partition(":")[0], examples=one.size or count,
            claimed=one.size in (None, given.size), full=given.full, half=given.half, **common,
        )  # fmt: skip
    return numbers


def measure(job: StudyJob) -> Numbers:
    given = terms(job)
    wanted = pretrainings(given, given.sizes)
    return numbers_of(given, wanted, tickets(job, wanted), len(job.data))


def verdicts(numbers: Numbers, under: str = "") -> list[Verdict]:
    """Claim 12 on subsets of the claim's size, at the deepest level; `under` says which noise, where there is one."""
    numbers = [row for row in numbers if row["claimed"]]
    level = deepest(numbers)
    easy = points(numbers, level, kind="easiest")
    size = next(row["examples"] for row in numbers if row["kind"] == "easiest")
    who = f"{under}pre-training on the {size:,} easiest for t*/2"
    half = f"{numbers[0]['half']:,} steps"
    first = (
        f"{who} ({half}) loses nothing against all data for t*, at {left(numbers, level):.3g} % of the weights "
        f"(tolerance {TOLERANCE:g} points)"
    )
    out = [verdict(12, first, easy, points(numbers, level, kind=FULL), margin=-TOLERANCE, unit="points")]
    others = {
        ALL: "all data for t*/2", "random": "as many random ones", "hardest": "as many of the hardest",
        NONE: "no pre-training",
    }  # fmt: skip
    for kind, words in others.items():
        other = points(numbers, level, kind=kind)
        if len(other):
            out.append(verdict(12, f"{under}… and gives more accuracy there than {words}", easy, other, unit="points"))
    matches = {
        "easiest": f"{who} finds a matching network: it keeps the accuracy of its dense network",
        FULL: f"{under}… as all data for t* does",
    }
    for kind, words in matches.items():
        change, worst = kept(numbers, kind=kind)
        worst_of = f"{words} (at the worst level, {left(numbers, worst):.3g} % left; tolerance {TOLERANCE:g} points)"
        out.append(verdict(12, worst_of, change, margin=-TOLERANCE, unit="points"))
    return out


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 12."""
    return verdicts(numbers)


def figures(job: StudyJob, numbers: Numbers, name: str, title: str) -> dict[str, Figure]:
    """Accuracy against sparsity at the claim's size, and against the size at the deepest level."""
    from datadiet.figures.lines import lines

    steps = {FULL: numbers[0]["full"], ALL: numbers[0]["half"]}
    words = {kind: f"{kind} ({step:,} steps)" for kind, step in steps.items()} | {NONE: NONE}
    claimed = [row for row in numbers if row["claimed"]]
    curves = {
        words.get(kind, f"{kind} at t*/2"): by_sparsity(claimed, kind=kind)
        for kind in dict.fromkeys(row["kind"] for row in claimed)
    }
    size = max(row["examples"] for row in claimed if row["kind"] in POLICIES)
    out = {
        name: lines(
            curves, xlabel="all weights / weights left", ylabel="test accuracy", percent=True, log=True,
            title=f"{job.data.name}: {title}; subsets of {size:,}", deviation=True,
        )
    }  # fmt: skip
    level = deepest(numbers)
    swept: dict[str, dict[float, list[float]]] = {}
    for row in sorted((r for r in numbers if r["level"] == level), key=lambda row: row["run"]):
        if row["kind"] in POLICIES:
            at = swept.setdefault(f"{row['kind']} at t*/2", {})
            at.setdefault(float(row["examples"]), []).append(row["accuracy"])
    if max(len(one) for one in swept.values()) > 1:
        flat = {words[kind]: points(numbers, level, kind=kind) / 100 for kind in (FULL, ALL, NONE)}
        out[f"{name}-size"] = lines(
            swept, xlabel="examples pre-trained on", ylabel="test accuracy", percent=True, log=True, flat=flat,
            title=f"{job.data.name}: {title}, at {left(numbers, level):.3g} % of the weights", deviation=True,
        )  # fmt: skip
    return out


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    return figures(job, numbers, "lottery", "sparse networks by pre-training")


STUDIES.register(
    "lottery",
    Study(
        "lottery", "Sparse networks rewound to a pre-training on easy, random, hard or all data", "LT Fig. 13, 14",
        (12,), measure, judge, draw,
    ),
)  # fmt: skip
