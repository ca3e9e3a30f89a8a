"""Accuracy of a window of the difficulty order against where it lies, clean and noisy (DD Figures 2, 13, 15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.flows.compare import FULL
from datadiet.flows.select import select
from datadiet.flows.tune import grid_of
from datadiet.scores import ScoreTable
from datadiet.studies.job import StudyJob
from datadiet.studies.series import RANDOM, curve, names_of, points, refuse_random, rows_of
from datadiet.studies.study import STUDIES, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEEP, WIDE = 0.4, 0.5
TOP = 0.01  # of the data: DD's best clean window left out about the top 500 of 50 000
SPARED = 0.1  # of the data, the top tenth: as much as DD's label noise chooses
TOLERANCE = 1.0  # points of accuracy: "no gain"


def measure(job: StudyJob) -> Numbers:
    refuse_random(job.scores)
    assert job.noisy is not None
    if TOP * len(job.data) < 1:
        raise DatadietError(
            f"{len(job.data)} training examples are too few to leave out the top {TOP:.0%}",
            where=job.data.name,
            fix=f"at least {round(1 / TOP)} are needed",
        )
    out: Numbers = []
    for labels, data in (("clean", job.data), ("noisy", job.noisy)):
        table = job.score(list(dict.fromkeys(["el2n", "grand", *job.scores])), [0, job.early_step], data=data)
        out += _windows(job, data, table, labels)
    return out


def _windows(job: StudyJob, data: Dataset, table: ScoreTable, labels: str) -> Numbers:
    """Every window under clean or noisy labels, and the tuned one among them."""
    subsets: dict[str, Any] = {}
    about: dict[str, dict[str, Any]] = {}

    def add(score: str, at: int, keep: float, offsets: Sequence[float]) -> None:
        for _, offset in grid_of([keep], offsets):
            name = f"{score}@{at} {keep:g} from {offset:g}"
            subsets[name] = select(table, score, keep, "window", at=at, offset=offset, seed=job.seed)
            about[name] = {"series": score, "at": at, "keep": keep, "offset": offset}

    early, room = job.early_step, 1 - KEEP
    steps = [*np.arange(0, room - 1e-9, job.scale.window_step), room]
    add("el2n", early, KEEP, [*steps, room - TOP, room - SPARED])
    add("el2n", early, WIDE, [1 - WIDE - SPARED, 1 - WIDE])
    add("grand", 0, KEEP, [0, room / 2, room])
    for score in job.scores:
        if score not in ("el2n", "grand"):
            add(score, early, KEEP, [*steps, room - SPARED])
    rows = rows_of(job.compare(subsets, data=data), about, labels=labels)
    if labels == "noisy":
        tuned = job.tune(table, "el2n", data=data, keep=KEEP, at=early)
        test = job.compare({"tuned": tuned.subset}, data=data, baselines=())
        rows += rows_of(test, {"tuned": {"series": "tuned", "keep": KEEP, "offset": tuned.offset}}, labels=labels)
    return rows


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 3; each window is fixed beforehand, except where the best one is the claim."""

    def window(labels: str, keep: float, offset: float, series: str = "el2n") -> np.ndarray:
        return points(numbers, labels=labels, series=series, keep=keep, offset=round(offset, 9))

    def best(labels: str) -> np.ndarray:
        """The offset of each run's most accurate window, in percent of the data."""
        found = curve(numbers, "offset", labels=labels, series="el2n", keep=KEEP)
        offsets = np.array(list(found))
        return 100 * offsets[np.argmax(np.array(list(found.values())), axis=0)]

    room = 1 - KEEP
    tuned = points(numbers, labels="noisy", series="tuned")
    drawn = points(numbers, labels="noisy", series=RANDOM, keep=KEEP)
    return [
        verdict(
            3,
            f"clean labels, {KEEP:.0%} kept: leaving out the very top {TOP:.0%} helps",
            window("clean", KEEP, room - TOP),
            window("clean", KEEP, room),
            unit="points",
        ),
        verdict(
            3,
            f"noisy labels, {KEEP:.0%} kept: leaving out the top {SPARED:.0%} helps",
            window("noisy", KEEP, room - SPARED),
            window("noisy", KEEP, room),
            unit="points",
        ),
        verdict(
            3,
            f"with noise the best window ({KEEP:.0%} kept) starts lower and leaves out more",
            best("clean"),
            best("noisy"),
            unit="% of the data",
        ),
        verdict(
            3,
            f"clean labels, {WIDE:.0%} kept: leaving out the top {SPARED:.0%} gains nothing (less than {TOLERANCE:g} "
            "point)",
            window("clean", WIDE, 1 - WIDE),
            window("clean", WIDE, 1 - WIDE - SPARED),
            margin=-TOLERANCE,
            unit="points",
        ),
        verdict(
            3,
            "noisy labels: the window tuned on validation is better than the hardest",
            tuned,
            window("noisy", KEEP, room),
            unit="points",
        ),
        verdict(3, "noisy labels: the window tuned on validation is better than random", tuned, drawn, unit="points"),
        verdict(
            3,
            f"noisy labels: GraNd at initialisation (hardest {KEEP:.0%}) is worse than random",
            drawn,
            window("noisy", KEEP, room, "grand"),
            unit="points",
        ),
    ]


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet.figures.lines import lines

    out = {}
    assert job.noisy is not None
    noise = f"{int(job.noisy.corrupted.sum()):,} of {len(job.noisy):,} labels wrong"
    for labels, said in (("clean", "clean labels"), ("noisy", noise)):
        curves = {}
        for series in names_of(numbers, labels=labels):
            if series in (FULL, RANDOM, "tuned"):
                continue
            when = 0 if series == "grand" else job.early_step
            found = curve(numbers, "offset", labels=labels, series=series, keep=KEEP)
            curves[f"{series}, epoch {job.epochs(when)}"] = {100 * x: values for x, values in found.items()}
        flat = {
            FULL: points(numbers, labels=labels, series=FULL) / 100,
            f"random {KEEP:.0%}": points(numbers, labels=labels, series=RANDOM, keep=KEEP) / 100,
        }
        out[f"sliding-window-{labels}"] = lines(
            curves,
            flat=flat,
            xlabel="offset: part with the lowest scores left out (%)",
            ylabel="test accuracy",
            title=f"{job.data.name}, {said}: {KEEP:.0%} kept from each offset",
            percent=True,
        )
    return out


STUDIES.register(
    "sliding-window",
    Study(
        "sliding-window",
        "Test accuracy of windows of the difficulty order, with and without label noise, and the tuned window",
        "DD Fig. 2, 13, 15",
        (3,),
        measure,
        judge,
        draw,
        noisy=True,
        takes=frozenset({"score"}),
    ),
)
