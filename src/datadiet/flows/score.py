"""`score`: train K runs for a short while, look at every example, average."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import datadiet.data as data_room
from datadiet.data.dataset import Dataset
from datadiet.data.order import Order
from datadiet.errors import DatadietError
from datadiet.flows.arguments import RUNS, several, whole
from datadiet.flows.environments import environments_of, warn_if_mixed
from datadiet.flows.execute import OnProgress, kept_engines, run_tasks
from datadiet.flows.lmc import missing_children, spawned_scores, take_spawned
from datadiet.flows.plan import (
    Network,
    Plan,
    Runs,
    Setup,
    check_code,
    check_scores,
    check_seed,
    defaults_for,
    environment,
    inspect,
    marks_for,
    recipe_for,
)
from datadiet.flows.score_folder import check_folder, identity, write_folder
from datadiet.flows.shared import DataCard
from datadiet.flows.tasks import RunTask, codes_of_scores, columns, defined_at, folder_of, functions_of
from datadiet.machine import expanded
from datadiet.numerics import Numerics
from datadiet.scores import SCORES, ScoreTable
from datadiet.scores.export import shard_path
from datadiet.steps import Step
from datadiet.store import Store
from datadiet.store.files import writable_folder
from datadiet.store.lock import FolderLock
from datadiet.training.recipe import Recipe, RunSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScorePlan:
    """Everything a scoring job is, before a step of it is taken."""

    data: Dataset
    recipe: Recipe
    scores: list[str]
    marks: list[int]
    runs: int
    seed: int
    network: Network
    numerics: Numerics
    setup: Setup
    tasks: list[tuple[str, RunTask]]

    @property
    def asked(self) -> list[tuple[str, int]]:
        """(score or column, step) of every shard of a run."""
        return [(column, mark) for mark in self.marks for column in columns(defined_at(self.scores, mark))]

    @property
    def whole_tasks(self) -> list[RunTask]:
        """The runs, asked for all scores, also for those that come from children of theirs."""
        return [replace(task, scores=tuple(self.scores)) for _, task in self.tasks]

    def stages(self) -> list[tuple[str, Plan]]:
        """What will be trained: the scoring runs, and children of theirs where a score needs them."""
        found = missing_children(self.scores, self.tasks, self.marks, self.data)
        if found is None:
            return [("scoring", self)]
        paths = list(found.paths.values())
        children = Runs(self.data, self.recipe, self.network, self.numerics, self.setup, found.children, paths)
        return [("scoring", self), ("children", children)]


def plan_score(
    data: Any,
    *,
    model: str | None = None,
    scores: Sequence[str] | None = None,
    runs: int | None = None,
    at: str | int | Step | Sequence[str | int | Step] | None = None,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    preset: str | None = None,
    steps: str | None = None,
    seed: int = 0,
    setup: Setup | Mapping[str, Any] | None = None,
) -> ScorePlan:
    """Resolve and check all that `score` was asked, and train nothing. Arguments as of `score`."""
    data, setup = data_room.load(data), Setup.of(setup)
    chosen = recipe_for(data, recipe=recipe, preset=preset, model=model, steps=steps)
    defaults = None
    if runs is None or at is None or scores is None:
        defaults = defaults_for(data, preset, model, recipe)[1]
    runs = whole(runs if runs is not None else defaults.runs, "runs", "--runs", most=RUNS)  # type: ignore[union-attr]
    seed = check_seed(seed)
    if at is None:
        per, horizon = chosen.steps_per_epoch(len(data)), chosen.horizon(len(data))
        at = [a for a in defaults.at if marks_fit(a, per, horizon)] or [chosen.steps]  # type: ignore[union-attr]
    marks = marks_for(chosen, data, several(at, "steps", "--at"))
    named = defined_at(defaults.scores, max(marks)) if scores is None else scores  # type: ignore[union-attr]
    names = check_scores(several(named, "scores", "--score"), marks)
    if "input_norm" in names and data.kind == "tokens":
        raise DatadietError("token inputs have no norm", where="--score", fix="leave input_norm out")
    network = inspect(chosen, data)
    numerics = environment(chosen, data, network, setup)
    card, codes = DataCard.of(data), codes_of_scores()
    tasks = []
    for run in range(runs):
        spec = RunSpec(
            recipe=chosen,
            dataset=data.fingerprint,
            seed=seed,
            run=run,
            purpose="score",
            classes=len(data.classes),
            noise=None if data.noise is None else data.noise.describe(),
            weights=network.weights,
        )
        task = RunTask(
            spec,
            str(setup.store),
            card,
            numerics,
            until=max(marks),
            marks=tuple(marks),
            scores=tuple(name for name in names if name not in spawned_scores(names)),
            keep=tuple(marks) if spawned_scores(names) else (),
            resume_every=setup.resume_every,
            needs=functions_of(chosen.model, names),
            codes=codes,
        )
        tasks.append((f"scoring run {run}", task))
    return ScorePlan(data, chosen, names, marks, runs, seed, network, numerics, setup, tasks)


def check_ranking(plan: ScorePlan, by: str, step: int, *, where: str = "--at") -> None:
    """Refuse to rank by a score that some examples will not have at a step, since no run will have visited them."""
    entry = SCORES.get(by)
    if entry.needs != "trajectory":
        return
    left = np.arange(len(plan.data))
    for _, task in plan.tasks:
        order = Order(np.arange(len(plan.data)), plan.recipe.batch_size, task.spec.stream)
        left = np.setdiff1d(left, order.visited(step, entry.visits), assume_unique=True)
        if not len(left):
            return
    raise DatadietError(
        f"{len(left)} examples will have no {by} at step {step}, the first is row {left[0]}",
        where=where,
        fix="take the score later, when every example has been visited often enough, or with more runs",
    )


def marks_fit(at: str, per_epoch: int, horizon: int) -> bool:
    """Whether a step lies within a run."""
    return Step.parse(at).resolve(per_epoch) <= horizon


def score(
    data: Any,
    model: str | None = None,
    scores: Sequence[str] | None = None,
    runs: int | None = None,
    at: str | int | Step | Sequence[str | int | Step] | None = None,
    out: str | Path | None = None,
    *,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    preset: str | None = None,
    steps: str | None = None,
    seed: int = 0,
    setup: Setup | Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> ScoreTable:
    """Scores of every training example, from `runs` independent short runs.

    Args:
        data: a Dataset, or anything that `datadiet.load` takes.
        model: a registered network, or "package.module:function"; default the recipe's.
        scores: names of scores; default the preset's.
        runs: how many networks are averaged; default the preset's.
        at: step or steps at which scores are taken ("0", "780it", "4ep"); default the preset's that the run comes to,
            else its end.
        out: a folder for `manifest.json`, the shards and `scores.parquet`; one that holds this very scoring is
            added to, one that holds another is an error.
        recipe: a Recipe, a mapping of its fields, or a JSON/TOML file; over the preset's.
        preset: a recipe by name; default the paper's, where `model` (or a field of `recipe`) names one of its networks
            and the data are 32×32 colour images, else the small one for this kind of data.
        steps: the horizon of the learning rate schedule, which is no stop.
        seed: of all random streams of the runs.
        setup: where and how jobs execute (`Setup`).
        on_progress: called with the progress of jobs.

    Returns:
        A ScoreTable. What is in the store already is not computed again.
    """
    plan = plan_score(
        data,
        model=model,
        scores=scores,
        runs=runs,
        at=at,
        recipe=recipe,
        preset=preset,
        steps=steps,
        seed=seed,
        setup=setup,
    )
    return execute_score(plan, out, on_progress)


def execute_score(plan: ScorePlan, out: str | Path | None = None, on_progress: OnProgress | None = None) -> ScoreTable:
    """Do what a plan says."""
    store = Store(plan.setup.store)
    check_code(plan.recipe, plan.network, store)
    folder = None if out is None else expanded(out)
    if folder is not None:
        check_folder(folder, plan)
        shards = [shard_path(folder, run, *key) for run in range(len(plan.tasks)) for key in plan.asked]
        writable_folder(folder, need_bytes=4 * len(plan.data) * sum(not shard.exists() for shard in shards))
    with kept_engines():
        run_tasks(plan.tasks, plan.data, plan.setup, on_progress)
        for name in spawned_scores(plan.scores):
            take_spawned(name, plan.tasks, plan.marks, plan.data, plan.setup, on_progress)
    table = _from_store(plan)
    if folder is not None:
        with FolderLock(folder):  # another process may have added to the folder in the meantime
            write_folder(folder, plan, table, check_folder(folder, plan))
    return table


def _from_store(plan: ScorePlan) -> ScoreTable:
    """The table over the store's shards, with its provenance."""
    folders = [folder_of(task) for _, task in plan.tasks]
    environments = environments_of(plan.whole_tasks, plan.data)
    warn_if_mixed(environments)
    data = plan.data
    manifest = {
        "what": "scores",
        **identity(plan),
        "dataset": data.name,
        "source": dict(data.source),
        "examples": len(data),
        "classes": list(data.classes),
        "noise": None if data.noise is None else data.noise.describe(),
        "validation": None if data.cut is None else list(data.cut),
        "runs": plan.runs,
        "steps_per_epoch": plan.recipe.steps_per_epoch(len(data)),
        "horizon": plan.recipe.horizon(len(data)),
        "columns": [[name, step, plan.runs] for name, step in plan.asked],
        "run_names": [task.spec.name for _, task in plan.tasks],
        "numerics": environments,
        "ids": data.train.ids is not None,
    }
    return ScoreTable(
        shards={key: [partial(_load, folder, *key) for folder in folders] for key in plan.asked},
        labels=data.labels,
        fingerprint=data.fingerprint,
        steps_per_epoch=manifest["steps_per_epoch"],
        corrupted=data.corrupted if data.noise is not None else None,
        chosen=data.chosen if data.noise is not None else None,
        ids=data.train.ids,
        rows=data.rows,
        classes=data.classes,
        provenance=manifest,
    )


def _load(folder: Any, name: str, step: int) -> np.ndarray:
    found = folder.load_shard(name, step)
    if found is None:
        raise DatadietError(f"the shard {name} at step {step} is gone", where=folder.path, fix="run the command again")
    values: np.ndarray = found[0]
    return values
