"""The same with wrong labels during pre-training, and right ones after it (LT Figure 15)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from datadiet.data.dataset import Dataset
from datadiet.data.noise import KINDS, parse
from datadiet.errors import DatadietError
from datadiet.lottery import Outcome
from datadiet.studies.job import StudyJob
from datadiet.studies.lottery import NONE, figures, numbers_of, pretrainings, verdicts
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.tickets import terms, tickets
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOISES = ("redraw:0.1", "redraw:0.5")


def clean_and_noises(job: StudyJob) -> tuple[Dataset, tuple[str, ...], int]:
    """The clean labels, the noises of pre-training (the one that was asked for, else the paper's two, or one), and
    their seed."""
    data = job.data
    if data.noise is None:
        return data, NOISES[-1:] if job.scale.name == "quick" else NOISES, job.seed
    if data.noise.kind not in KINDS:
        raise DatadietError(
            "the labels are noisy already, and the study adds noise for the pre-training alone", where=data.name,
            fix="give clean labels",
        )  # fmt: skip
    clean = replace(data, train=replace(data.train, labels=data.original_labels), noise=None)
    return clean, (f"{data.noise.kind}:{float(data.noise.fraction)!r}",), data.noise.seed


def measure(job: StudyJob) -> Numbers:
    clean, noises, seed = clean_and_noises(job)
    own = replace(job, data=clean)
    given = terms(own)
    wanted = pretrainings(given, given.sizes if job.scale.name == "paper" else (given.size,))
    # Nothing is trained on wrong labels without a pre-training: one and the same for every noise.
    none = {NONE: wanted.pop(NONE)}
    bare = tickets(own, none)
    numbers: Numbers = []
    for noise in noises:
        found = tickets(own, wanted, noise=noise, noise_seed=seed)
        kind, part = parse(noise)
        wrong = clean.with_noise(kind, part, seed).corrupted
        rows = numbers_of(given, {**wanted, **none}, {**found, **bare}, len(clean), noise=noise)
        for row in rows:
            if row["way"] in found:
                row["wrong"] = share(found[row["way"]], row["run"], wrong)
        numbers += rows
    return numbers


def share(outcome: Outcome, run: int, wrong: np.ndarray) -> float:
    """The part of a replicate's pre-training examples whose label is wrong."""
    rows = outcome.rows[run]
    return float(wrong.mean() if rows is None else wrong[rows].mean())


def noises_of(numbers: Numbers) -> list[str]:
    return list(dict.fromkeys(row["noise"] for row in numbers))


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 12 under noisy labels; and that easy subsets leave the wrong labels out."""
    out = []
    for noise in noises_of(numbers):
        rows = [row for row in numbers if row["noise"] == noise]
        out += verdicts(rows, f"{noise}: ")
        dense = sorted((r for r in rows if r["level"] == 0 and r["claimed"]), key=lambda row: row["run"])
        shares = {kind: [100 * row["wrong"] for row in dense if row["kind"] == kind] for kind in ("easiest", "random")}
        out.append(
            verdict(
                12, f"{noise}: fewer labels of the easiest examples are wrong than of random ones", shares["random"],
                shares["easiest"], unit="points",
            )
        )  # fmt: skip
    return out


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    out: dict[str, Figure] = {}
    for noise in noises_of(numbers):
        rows = [row for row in numbers if row["noise"] == noise]
        out |= figures(job, rows, f"lottery-{noise.replace(':', '')}", f"sparse networks, pre-trained under {noise}")
    return out


STUDIES.register(
    "lottery-noise",
    Study(
        "lottery-noise", "The same where labels are wrong during pre-training only", "LT Fig. 15", (12,), measure,
        judge, draw,
    ),
)  # fmt: skip
