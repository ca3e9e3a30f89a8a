"""The lowest and highest scoring images of each class (DD Figures 5-8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datadiet.selection.order import ascending
from datadiet.studies.job import StudyJob
from datadiet.studies.study import STUDIES, Numbers, Study, column
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_CLASS = 4  # images shown at each end
ENDS = 0.05  # part of a class that each end is, for the distances


def measure(job: StudyJob) -> Numbers:
    at = dict.fromkeys(dict.fromkeys(["el2n", *job.scores]), job.early_step)
    out: Numbers = []
    table = job.score(list(at), [job.early_step])
    distance = distances(np.asarray(job.data.train.inputs), job.data.labels)
    for name, step in at.items():
        for run, values in enumerate(table.values(name, step)):
            low, high = ends(values.astype(np.float64), job.data.labels, distance, job.data.fingerprint)
            out.append({"what": "distance", "score": name, "at": step, "run": run, "lowest": low, "highest": high})
        mean = table.mean(name, step)
        for label in np.unique(job.data.labels):
            rows = np.flatnonzero(job.data.labels == label)
            rows = ascending(mean, job.data.fingerprint, rows)
            for end, chosen in (("lowest", rows[:PER_CLASS]), ("highest", rows[-PER_CLASS:])):
                for row in chosen:
                    out.append(
                        {
                            "what": "shown",
                            "score": name,
                            "at": step,
                            "end": end,
                            "label": int(label),
                            "index": int(row),
                            "value": float(mean[row]),
                        }
                    )
    return out


def distances(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) root mean square difference of each image's pixels from the mean image of its class."""
    out = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        mean = images[rows].mean(axis=0, dtype=np.float64)
        for start in range(0, len(rows), 1024):
            part = rows[start : start + 1024]
            off = images[part].astype(np.float64) - mean
            out[part] = np.sqrt((off**2).reshape(len(part), -1).mean(1))
    return out


def ends(
    values: np.ndarray, labels: np.ndarray, distance: np.ndarray, fingerprint: str | None = None
) -> tuple[float, float]:
    """The mean distance of the lowest and of the highest scoring part of each class."""
    low, high = [], []
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & np.isfinite(values))
        rows = ascending(values, fingerprint, rows)
        count = max(1, round(ENDS * len(rows)))
        low.append(distance[rows[:count]].mean())
        high.append(distance[rows[-count:]].mean())
    return float(np.mean(low)), float(np.mean(high))


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 11 is for eyes; what can be counted is how far the images lie from the mean image of their class."""
    return [
        verdict(
            11,
            f"the highest {ENDS:.0%} of each class by EL2N lie farther from the class's mean image than the lowest",
            column(numbers, "highest", what="distance", score="el2n"),
            column(numbers, "lowest", what="distance", score="el2n"),
            unit="of a pixel's value",
            note="a stand-in for canonical and odd; look at the gallery",
        )
    ]


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet import figures

    data, out = job.data, {}
    table = job.score(list(dict.fromkeys(["el2n", *job.scores])), [job.early_step])
    for name in table.names:
        if name not in ("el2n", *job.scores):
            continue
        out[f"gallery-{name}"] = figures.gallery(
            data.gather,
            data.labels,
            table.mean(name, job.early_step),
            data.classes,
            PER_CLASS,
            corrupted=table.corrupted,
            original=data.original_labels if data.noise is not None else None,
            name=name,
            fingerprint=data.fingerprint,
            title=f"{data.name}: lowest and highest {name} of each class, epoch {job.epochs(job.early_step)}",
        )
    return out


STUDIES.register(
    "gallery",
    Study(
        "gallery",
        "The lowest and highest scoring images of each class",
        "DD Fig. 5-8",
        (11,),
        measure,
        judge,
        draw,
        images=True,
        takes=frozenset({"score"}),
    ),
)
