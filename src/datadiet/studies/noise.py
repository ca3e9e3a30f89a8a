"""Scores as detectors of wrong labels, and what they were before the labels were wrong (DD Figure 14)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.scores import SCORES, ScoreTable
from datadiet.scores.table import area_under_roc
from datadiet.studies.job import StudyJob
from datadiet.studies.scored import every_score
from datadiet.studies.study import STUDIES, Numbers, Study, column
from datadiet.studies.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JUDGED = (("el2n", "EL2N"), ("grand", "GraNd"))


def measure(job: StudyJob) -> Numbers:
    assert job.noisy is not None
    if not job.noisy.corrupted.any():
        raise DatadietError("the noise changes no label", where=job.data.name, fix="a larger part, or more data")
    names = every_score(job)
    early = job.early_step
    after = job.score(names, [early], data=job.noisy)
    before = job.score([name for name, _ in JUDGED], [early])
    out = _detectors(after, names, job.noisy, "added")
    wrong = job.noisy.corrupted
    for name, _ in JUDGED:
        rise = after.values(name, early).astype(np.float64) - before.values(name, early)
        for run, values in enumerate(rise):
            out.append(
                {
                    "what": "rise",
                    "score": name,
                    "at": early,
                    "run": run,
                    "corrupted": float(values[wrong].mean()),
                    "clean": float(values[~wrong].mean()),
                }
            )
    if job.human is not None:
        data = job.data.with_labels(job.human)
        if not data.corrupted.any():
            raise DatadietError("the second labels are the first ones", where=job.data.name)
        out += _detectors(job.score(names, [early], data=data), names, data, "human")
    return out


def _detectors(table: ScoreTable, names: list[str], data: Dataset, noise: str) -> Numbers:
    """AUROC, and precision at as many examples as are wrong: of every run, and of the mean over runs."""
    out: Numbers = []
    wrong = data.corrupted
    for name in names:
        sign = SCORES.get(name).sign
        common: dict[str, Any] = {"what": "detector", "noise": noise, "score": name, "at": table.step(name)}
        for run, values in enumerate(table.values(name)):
            out.append({**common, "of": "run", "run": run, **_quality(sign * values.astype(np.float64), wrong)})
        out.append({**common, "of": "mean", **_quality(table.difficulty(name), wrong)})
    return out


def _quality(difficulty: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    return {"auroc": area_under_roc(difficulty, wrong), "precision": precision_at(difficulty, wrong, int(wrong.sum()))}


def precision_at(difficulty: np.ndarray, wrong: np.ndarray, k: int) -> float:
    """The part of wrong labels among the k hardest examples; those that tie at the border count by their mean.

    NaN where no example has a value.
    """
    if not np.isfinite(difficulty).any():
        return float("nan")
    values = np.where(np.isfinite(difficulty), difficulty, -np.inf)
    border = np.partition(values, len(values) - k)[len(values) - k]
    above, tied = values > border, values == border
    found = wrong[above].sum() + (k - above.sum()) * wrong[tied].mean()
    return float(found / k)


def judge(numbers: Numbers) -> list[Verdict]:
    """Claim 4: corrupted labels score higher, and the score rises when the label is corrupted."""
    out = []
    for name, said in JUDGED:
        found = column(numbers, "auroc", what="detector", noise="added", score=name, of="run")
        out.append(
            verdict(4, f"corrupted labels have the higher {said} (AUROC above 0.5)", found, margin=0.5, unit="AUROC")
        )
        rise = column(numbers, "corrupted", what="rise", score=name)
        rest = column(numbers, "clean", what="rise", score=name)
        out.append(verdict(4, f"an example's {said} rises when its label is corrupted", rise, unit=said))
        out.append(verdict(4, f"it rises more than that of examples left alone ({said})", rise, rest, unit=said))
    human = column(numbers, "auroc", what="detector", noise="human", score="el2n", of="run")
    if human:
        out.append(verdict(4, "labels that people got wrong have the higher EL2N (AUROC above 0.5)", human, margin=0.5))
    return out


def draw(job: StudyJob, numbers: Numbers) -> dict[str, Figure]:
    from datadiet import figures
    from datadiet.figures.dots import dots

    assert job.noisy is not None
    early = job.early_step
    panels = {}
    names = every_score(job)
    after = job.score(names, [early], data=job.noisy)
    before = job.score([name for name, _ in JUDGED], [early])
    for name, said in JUDGED:
        panels[f"{said} before"] = before.mean(name, early)
        panels[f"{said} after"] = after.mean(name, early)
    title = f"{job.data.name}: scores at epoch {job.epochs(early)}, before and after corruption"
    out = {
        "noise-distributions": figures.score_histograms(panels, corrupted=job.noisy.corrupted, columns=2, title=title)
    }
    for noise in dict.fromkeys(column(numbers, "noise", what="detector")):
        found = {n: column(numbers, "auroc", what="detector", noise=noise, score=n, of="run") for n in names}
        means = {n: column(numbers, "auroc", what="detector", noise=noise, score=n, of="mean")[0] for n in names}
        hits = {n: column(numbers, "precision", what="detector", noise=noise, score=n, of="mean")[0] for n in names}
        ordered = sorted((name for name in names if np.isfinite(means[name])), key=lambda name: means[name])
        wrong = int(job.noisy.corrupted.sum()) if noise == "added" else None
        of = f"{wrong:,} corrupted labels" if wrong else "labels that people got wrong"
        out[f"noise-detectors{'' if noise == 'added' else '-human'}"] = dots(
            {f"{name} ({hits[name]:.0%})": (found[name], means[name]) for name in ordered},
            xlabel="area under the ROC curve",
            reference=0.5,
            title=f"{job.data.name}: scores at epoch {job.epochs(early)} as detectors of {of}",
            note="dots: single runs; bar: their mean score, and in brackets its precision",
        )
    return out


STUDIES.register(
    "noise",
    Study(
        "noise",
        "Scores of clean and corrupted labels, and every score as a detector of wrong ones",
        "DD Fig. 14",
        (4,),
        measure,
        judge,
        draw,
        noisy=True,
        takes=frozenset({"score", "human-labels"}),
    ),
)
