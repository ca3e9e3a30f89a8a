"""Running studies: rehearse, then measure, judge, draw and write; one, or all of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import datadiet.data as data_room
from datadiet.data import noise as label_noise
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError, Interrupted
from datadiet.flows.arguments import RUNS, whole
from datadiet.flows.estimate import Estimate, estimates
from datadiet.flows.execute import OnProgress, kept_engines
from datadiet.flows.plan import Plan, Setup, check_seed, recipe_for
from datadiet.flows.rehearsal import quiet
from datadiet.machine import expanded
from datadiet.scores import SCORES
from datadiet.steps import Step
from datadiet.store.files import writable_folder
from datadiet.studies.job import StudyJob
from datadiet.studies.output import page, refuse_another, write
from datadiet.studies.scales import SCALES, Scale, preset_at
from datadiet.studies.study import STUDIES, Findings, Study
from datadiet.training.presets import Preset
from datadiet.training.recipe import Recipe

log = logging.getLogger(__name__)

TAKEN = {"scores": "score", "human": "human-labels", "memorization": "memorization"}  # what only some studies take

NOISE = "permute:0.1"  # of a study with a noisy half, where nobody says another: DD's


@dataclass(frozen=True)
class StudyPlan:
    """A study that was rehearsed: it can be done, and this is what it will train."""

    study: Study
    job: StudyJob
    folder: Path
    stages: tuple[tuple[str, Plan], ...]

    def estimates(self) -> list[tuple[str, Estimate]]:
        """What each stage will cost; a run that several stages ask for counts once."""
        return estimates(self.stages)


@dataclass(frozen=True)
class StudyResult:
    """What a study came to, and where it is written."""

    study: Study
    findings: Findings
    folder: Path
    files: tuple[Path, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "what": "study",
            "study": self.study.name,
            "answers": self.study.answers,
            "out": str(self.folder),
            "seconds": round(self.seconds, 1),
            "verdicts": [one.to_json() for one in self.findings.verdicts],
            "files": [str(file) for file in self.files],
        }


def plan(
    name: str,
    data: Any = None,
    scale: str = "quick",
    *,
    model: str | None = None,
    preset: str | None = None,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    scores: Sequence[str] = (),
    noise: str | None = None,
    human: Any = None,
    memorization: Any = None,
    runs: int | None = None,
    score_runs: int | None = None,
    seed: int = 0,
    out: str | Path = "out",
    setup: Setup | Mapping[str, Any] | None = None,
) -> StudyPlan:
    """Resolve and check a study and count its cost; train nothing. Arguments as of `run`."""
    study = STUDIES.get(name, where="study")
    for given, flag in zip((scores, human, memorization), TAKEN.values(), strict=True):
        if given is not None and len(given) and flag not in study.takes:
            able = ", ".join(other for other, one in STUDIES.items() if flag in one.takes)
            raise DatadietError(f"{name} does not look at it", where=f"--{flag}", fix=f"leave it out, or ask {able}")
    size = SCALES.get(scale, where="--scale")
    for count, flag in ((runs, "--runs"), (score_runs, "--score-runs")):
        if count is not None:
            whole(count, "runs", flag, most=RUNS)
    size = replace(size, runs=int(runs or size.runs), score_runs=int(score_runs or size.score_runs))
    seed = check_seed(seed)
    for score in scores:
        SCORES.get(score, where="--score")
    dataset = data_room.load(size.data if data is None else data)
    if dataset.test is None:
        raise DatadietError("no test split to compare on", where=dataset.name, fix="load it with one")
    if study.images and dataset.kind != "image":
        raise DatadietError(
            f"{name} shows images, {dataset.name} is of kind {dataset.kind}", where=dataset.name, fix="use images"
        )
    if study.noisy and dataset.noise is not None:
        raise DatadietError(
            "the labels are noisy already, and the study compares clean with noisy ones",
            where=dataset.name,
            fix="give clean data, and the noise as noise=",
        )
    noisy = None
    if noise is not None or study.noisy:
        kind, fraction = label_noise.parse(noise or NOISE)
        noisy = dataset.with_noise(kind, fraction, seed)
        if study.noisy and not noisy.corrupted.any():
            raise DatadietError("the noise changes no label", where="--noise", fix="a larger part, or more data")
    about = dataset if noisy is None or study.noisy else noisy
    name_of_preset, chosen = preset_at(size, dataset, preset, model, own_recipe=recipe is not None)
    made = recipe_for(dataset, recipe=recipe, preset=None if name_of_preset == "none" else name_of_preset, model=model)
    job = StudyJob(
        data=about,
        noisy=noisy if study.noisy else None,
        scale=size,
        recipe=made,
        early=early_of(size, chosen, made, about),
        own=any(given is not None for given in (model, preset, recipe)),
        own_runs=runs is not None,
        seed=seed,
        setup=Setup.of(setup),
        scores=tuple(scores),
        human=None if human is None else _labels(human, about),
        memorization=None if memorization is None else _values(memorization, about),
        rehearsal=True,
    )
    with quiet():
        study.measure(job)
    noise_part = "" if about.noise is None else f"-{about.noise.kind}{about.noise.fraction:g}"
    folder = expanded(expanded(out) / "studies" / f"{study.name}-{about.name}{noise_part}-{size.name}")
    stages = tuple(job.plans)
    return StudyPlan(study, replace(job, rehearsal=False, plans=[], _tables={}), folder, stages)


def early_of(scale: Scale, preset: Preset, recipe: Recipe, data: Dataset) -> str:
    """When early scores are taken: where the preset takes them, epoch 10 at the papers' scale."""
    per, horizon = recipe.steps_per_epoch(len(data)), recipe.horizon(len(data))
    wanted = preset.at[0] if scale.name == "paper" else preset.at[-1]
    step = Step.parse(wanted).resolve(per)
    return wanted if 0 < step <= horizon else f"{max(1, round(0.2 * horizon))}it"


def execute(plan: StudyPlan, on_progress: OnProgress | None = None) -> StudyResult:
    """Do what a plan says, and write it."""
    started = time.monotonic()
    refuse_another(plan.study, plan.job, plan.folder)
    writable_folder(plan.folder)
    job = replace(plan.job, on_progress=on_progress, plans=[], _tables={})
    trained = _unique(plan.stages)
    with kept_engines():
        findings = plan.study.findings(job)
    seconds = time.monotonic() - started
    files = write(plan.study, job, findings, plan.folder, seconds, len(trained))
    return StudyResult(plan.study, findings, plan.folder, files, seconds)


def run(
    name: str, data: Any = None, scale: str = "quick", *, on_progress: OnProgress | None = None, **options: Any
) -> StudyResult:
    """One study: its numbers, figures and verdicts, written to `out/studies/<name>-<dataset>-<scale>/`.

    Args:
        name: of the study (`datadiet.studies.STUDIES`).
        data: a Dataset, or anything that `datadiet.load` takes; default the scale's.
        scale: "quick" (digits, minutes), "small" (hours) or "paper" (the protocol to the letter).
        options: `model`, `preset`, `recipe` (over the scale's); `scores` (further ones by name); `noise`
            ("permute:0.1"); `human` ((N,) labels of other annotators); `memorization` ((rows, values)); `runs` and
            `score_runs` (over the scale's); `seed`; `out`; `setup`.

    Returns:
        A StudyResult. What is in the store is not trained again, so a study that was killed goes on where it was.
    """
    return execute(plan(name, data, scale, **options), on_progress)


def run_all(
    names: Iterable[str] | None = None,
    *,
    out: str | Path = "out",
    on_progress: OnProgress | None = None,
    plans: Mapping[str, StudyPlan | DatadietError] | None = None,
    **options: Any,
) -> tuple[list[StudyResult], dict[str, DatadietError], list[Path]]:
    """Every study (or those named) at a scale, and one page of all verdicts; a study that fails leaves the others.

    Returns:
        The results, the errors by the study's name, and the files of the page: `verdicts.md`, `verdicts.json`.
    """
    planned = plans if plans is not None else plan_all(names, out=out, **options)
    results: list[StudyResult] = []
    failed: dict[str, DatadietError] = {}
    with kept_engines():
        for name, one in planned.items():
            if isinstance(one, DatadietError):
                failed[name] = one
                log.warning("%s is left out: %s", name, one)
                continue
            log.info("%s", name)
            try:
                results.append(execute(one, on_progress))
            except Interrupted:
                raise
            except DatadietError as error:
                failed[name] = error
                log.warning("%s failed: %s", name, error)
            except Exception as error:  # a mistake in one study must not cost the others
                failed[name] = _unexpected(name, error)
    return results, failed, page(results, failed, expanded(out) / "studies")


def plan_all(names: Iterable[str] | None = None, **options: Any) -> dict[str, StudyPlan | DatadietError]:
    """The plan of every study, or why it cannot be done; each is given what it looks at."""
    planned: dict[str, StudyPlan | DatadietError] = {}
    for name in names if names is not None else STUDIES.names():
        left_out = {key for key, flag in TAKEN.items() if flag not in STUDIES.get(name, where="study").takes}
        try:
            planned[name] = plan(name, **{key: given for key, given in options.items() if key not in left_out})
        except DatadietError as error:
            planned[name] = error
        except Exception as error:
            planned[name] = _unexpected(name, error)
    return planned


def _unexpected(name: str, error: Exception) -> DatadietError:
    """What no study should raise, logged with where it came from, as what it failed of."""
    log.exception("%s failed unexpectedly", name)
    return DatadietError(
        f"{type(error).__name__}: {' '.join(str(error).split())}", fix="a mistake in the study; the log says where"
    )


def _unique(stages: Sequence[tuple[str, Plan]]) -> set[str]:
    return {task.spec.name for _, one in stages for _, task in one.tasks}


def _labels(given: Any, data: Dataset) -> np.ndarray:
    """(N,) labels of other annotators, for the training set or for the source it was taken from."""
    labels = np.asarray(given)
    if data.rows is not None and labels.ndim == 1 and len(labels) > max(len(data) - 1, int(data.rows.max())):
        labels = labels[data.rows] if len(labels) != len(data) else labels
    return data.with_labels(labels).labels


def _values(given: Any, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Memorisation values of some rows of the source, checked: as rows of the training set, where they are in it."""
    rows, values = (np.asarray(one) for one in given)
    if rows.shape != values.shape or rows.ndim != 1 or rows.dtype.kind not in "iu" or values.dtype.kind not in "fiub":
        raise DatadietError(
            f"rows of shape {rows.shape} and values of shape {values.shape} and type {values.dtype}",
            where="memorization values",
            fix="give whole row numbers (M,) and a value for each",
        )
    there = np.arange(len(data)) if data.rows is None else np.asarray(data.rows)
    found = {int(row): place for place, row in enumerate(there)}
    places = np.array([found.get(int(row), -1) for row in rows], np.int64)
    known = places >= 0
    # Of a source of which some rows are for testing, these have values too; of any other there are no such rows.
    if not known.any() or rows.min() < 0 or (data.rows is None and not known.all()):
        raise DatadietError(
            f"rows beyond the {len(data):,} training examples of {data.name}",
            where="memorization values",
            fix="give the values of this dataset, by the rows of its source",
        )
    if not known.all():
        log.info("%d of %d memorisation values are of rows that are not trained on", (~known).sum(), len(rows))
    return places[known], values[known].astype(np.float64)
