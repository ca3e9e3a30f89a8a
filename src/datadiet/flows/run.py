"""`run`: the main job. Score, select, retrain, compare, and draw it, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import datadiet.data as data_room
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.flows.arguments import RUNS, refuse_unknown, several, whole
from datadiet.flows.compare import (
    FULL,
    ComparePlan,
    Comparison,
    check_folder,
    execute_compare,
    percent,
    plan_compare,
)
from datadiet.flows.execute import OnProgress, kept_engines
from datadiet.flows.plan import Plan, defaults_for, folder_for
from datadiet.flows.rehearsal import made_up_scores, quiet, rehearsed_scores
from datadiet.flows.score import ScorePlan, check_ranking, execute_score, plan_score
from datadiet.flows.score_folder import own_record, refuse_in_the_way
from datadiet.flows.select import save_subset, select
from datadiet.flows.tune import Tuned, TunePlan, execute_tune, plan_tune, tuned_name
from datadiet.machine import expanded
from datadiet.scores import ScoreTable
from datadiet.selection import POLICIES as REGISTERED
from datadiet.selection import Subset
from datadiet.selection.balance import largest_offset
from datadiet.selection.policy import check_options
from datadiet.source import is_ours
from datadiet.store.files import writable_folder, write_json

POLICIES = ("hardest", "easiest", "window")  # random subsets stand beside every comparison
FIGURES = ("accuracy", "scores", "gallery", "window")
SPARED = 0.1  # part of the data that the window leaves out at the top, where there is room


@dataclass(frozen=True)
class Result:
    """What the main job came to."""

    data: Dataset
    table: ScoreTable
    subsets: Mapping[str, Subset]
    comparison: Comparison | None
    tuned: Tuned | None
    out: Path
    files: tuple[Path, ...] = field(default=())

    def detection(self) -> dict[str, float]:
        """AUROC of every score as a detector of corrupted labels, at its last step; empty without noise."""
        from datadiet.scores import SCORES

        if self.table.corrupted is None or not self.table.corrupted.any():
            return {}
        return {name: self.table.auroc(name, self.table.steps(name)[-1]) for name in self.table.names if name in SCORES}

    def to_json(self) -> dict[str, Any]:
        return {
            "what": "run",
            "dataset": self.data.name,
            "out": str(self.out),
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "tuned": None if self.tuned is None else self.tuned.to_json(),
            "auroc": {name: None if value != value else value for name, value in self.detection().items()},
            "files": [str(file) for file in self.files],
        }


@dataclass(frozen=True)
class RunPlan:
    """The scoring, what will be selected by it, and the tuning of a window where that was asked for."""

    scoring: ScorePlan
    by: str
    at: int
    keeps: tuple[float, ...]
    policies: tuple[str, ...]
    balanced: bool
    retrain_runs: int
    tuning: TunePlan | None
    out: Path

    @property
    def subset_names(self) -> list[str]:
        return [subset_name(self.by, policy, keep, self.balanced) for keep in self.keeps for policy in self.policies]

    def stages(self) -> list[tuple[str, Plan]]:
        """What will be trained, with made-up subsets where the scores are not there yet."""
        with quiet():
            table = rehearsed_scores(self.scoring)
            comparison = comparing(self, subsets_of(self, table))
            tuning = [] if self.tuning is None else self.tuning.stages(table)
        return [*self.scoring.stages(), ("retraining", comparison), *tuning]


def subset_name(by: str, policy: str, keep: float, balanced: bool = False) -> str:
    return f"{by} {'balanced ' if balanced else ''}{policy} {percent(keep)}"


def plan_run(
    data: Any = "digits",
    *,
    by: str | None = None,
    keeps: Sequence[float] | None = None,
    policies: Sequence[str] = POLICIES,
    balanced: bool = False,
    retrain_runs: int = 4,
    tune: bool = False,
    out: str | Path | None = None,
    preset: str | None = None,
    **scoring: Any,
) -> RunPlan:
    """Resolve and check all that `run` was asked, and train nothing. Arguments as of `run`."""
    data = data_room.load(data)
    if data.test is None:
        raise DatadietError("no test split to compare on", where=data.name, fix="load it with one")
    retrain_runs = whole(retrain_runs, "retraining runs", "--retrain-runs", most=RUNS)
    policies = several(policies, "policies", "--policy")
    plan = plan_score(data, preset=preset, **scoring)
    given = {key: scoring.get(key) for key in ("model", "recipe")}
    stated = [] if keeps is None else several(keeps, "fractions kept", "--keep")
    keeps = tuple(stated or defaults_for(data, preset, **given)[1].keeps)
    for keep in keeps:
        if isinstance(keep, str) or not 0 < keep <= 1:
            raise DatadietError(f"keep is {keep!r}", where="--keep", fix="it must be a number in (0, 1]")
    if "random" in policies:
        raise DatadietError("random subsets stand beside every comparison", where="--policy", fix="leave random out")
    for policy in policies:
        check_options(policy, REGISTERED.get(policy, where="--policy"), _options(policy, keeps[0], None))
    names = [subset_name("", policy, keep) for keep in keeps for policy in policies]
    if len(set(names)) < len(names):
        raise DatadietError(
            "two subsets of one name", where="--keep", fix="give values of --keep and --policy once each"
        )
    by = by or plan.scores[0]
    if by not in plan.scores:
        raise DatadietError(f"{by} is not among the scores", where="--by", fix=f"one of {', '.join(plan.scores)}")
    check_ranking(plan, by, plan.marks[-1])
    folder = expanded(out if out is not None else folder_for(data))
    made = RunPlan(plan, by, plan.marks[-1], keeps, tuple(policies), balanced, retrain_runs, None, folder)
    ours = tuple(policy for policy in policies if is_ours(REGISTERED.get(policy)))
    with quiet():  # what our policies cannot select by any scores is refused before there are scores
        subsets_of(replace(made, policies=ours), made_up_scores(plan))
    if not tune:
        return made
    tuning = plan_tune(
        data,
        by,
        made.at,
        plan.recipe,
        score_runs=plan.runs,
        keeps=(0.5,) if 0.5 in keeps else keeps[:1],
        balanced=balanced,
        test_runs=retrain_runs,
        seed=plan.seed,
        setup=plan.setup,
    )
    return replace(made, tuning=tuning)


def run(data: Any = "digits", *, on_progress: OnProgress | None = None, **options: Any) -> Result:
    """The whole flow on one dataset.

    Args:
        data: a Dataset, or anything that `datadiet.load` takes.
        options: `by` (the score that selects; default the first), `keeps`, `policies`, `balanced` (the same
            number from each class, in random subsets too), `retrain_runs`, `tune` (choose a window on a validation
            split), `out`, and everything that `score` takes.

    Returns:
        A Result; its folder holds the scores, the subsets, `comparison.json` and the figures.
    """
    refuse_unknown(options, plan_run, plan_score, where="run")
    return execute_run(plan_run(data, **options), on_progress)


def execute_run(plan: RunPlan, on_progress: OnProgress | None = None) -> Result:
    """Do what a plan says."""
    with kept_engines():
        return _execute(plan, on_progress)


def _execute(plan: RunPlan, on_progress: OnProgress | None) -> Result:
    scoring = plan.scoring
    data = scoring.data
    check_folder(plan.out, data.fingerprint, scoring.recipe, scoring.seed)
    _refuse_others(plan)
    for folder in (plan.out, plan.out / "scores", plan.out / "subsets"):
        writable_folder(folder)
    table = execute_score(scoring, plan.out / "scores", on_progress)
    subsets = subsets_of(plan, table)
    files: list[Path] = [plan.out / "scores" / "scores.parquet"]
    for name, subset in subsets.items():
        files.append(save_subset(subset, plan.out / "subsets" / f"{_slug(name)}.safetensors"))
    comparison = execute_compare(comparing(plan, subsets), plan.out, on_progress)
    files.append(plan.out / "comparison.json")
    tuned = None
    if plan.tuning is not None:
        tuned = execute_tune(plan.tuning, table, on_progress)
        name = tuned_name(tuned.keep, tuned.offset)
        files.append(save_subset(tuned.subset, plan.out / "subsets" / f"{_slug(name)}.safetensors"))
        write_json(plan.out / "tuned.json", tuned.to_json())
        files.append(plan.out / "tuned.json")
    files += _figures(plan, table, comparison, tuned)
    return Result(data, table, subsets, comparison, tuned, plan.out, tuple(files))


def _refuse_others(plan: RunPlan) -> None:
    """Nothing of somebody else's is written over: ours is written when the scores are there."""
    out = plan.out
    own_record(out / "comparison.json", "run")
    if (out / "comparison.json").exists() or (out / "scores" / "manifest.json").exists():
        return
    figures = [out / f"{name}.{ending}" for name in FIGURES for ending in ("png", "svg")]
    subsets = [out / "subsets" / f"{_slug(name)}.safetensors" for name in plan.subset_names]
    refuse_in_the_way([out / "tuned.json", *figures, *subsets], "run")


def subsets_of(plan: RunPlan, table: ScoreTable) -> dict[str, Subset]:
    """Every keep by every policy, as the plan says."""
    subsets: dict[str, Subset] = {}
    for keep in plan.keeps:
        for policy in plan.policies:
            options = _options(policy, keep, plan.scoring.data if plan.balanced else None)
            name = subset_name(plan.by, policy, keep, plan.balanced)
            at, seed = f"{plan.at}it", plan.scoring.seed
            subsets[name] = select(table, plan.by, keep, policy, at=at, balanced=plan.balanced, seed=seed, **options)
    return subsets


def comparing(plan: RunPlan, subsets: Mapping[str, Any]) -> ComparePlan:
    scoring = plan.scoring
    return plan_compare(
        scoring.data,
        subsets,
        runs=plan.retrain_runs,
        recipe=scoring.recipe,
        seed=scoring.seed,
        baselines=("full", "balanced-random" if plan.balanced else "random"),
        setup=scoring.setup,
    )


def _options(policy: str, keep: float, balanced: Dataset | None) -> dict[str, Any]:
    if policy != "window":
        return {}
    offset = window_offset(keep)
    if balanced is not None:
        offset = min(offset, largest_offset(balanced.labels, keep, balanced.fingerprint))
    return {"offset": offset}


def window_offset(keep: float) -> float:
    """Where the window starts so that the top tenth is left out, as far as there is room."""
    return round(max(0.0, 1 - keep - SPARED), 9)


def _figures(plan: RunPlan, table: ScoreTable, comparison: Comparison, tuned: Tuned | None) -> list[Path]:
    from datadiet import figures

    data, by, named = plan.scoring.data, plan.by, _named(plan.scoring.data)
    curves: dict[str, dict[float, Any]] = {}
    for row in comparison.rows:
        if row.name == FULL:
            continue
        policy = row.name.rsplit(" ", 1)[0].removeprefix(f"{by} ")
        curves.setdefault(policy, {})[row.keep] = np.asarray(row.accuracies)
    out = []
    keep_figure = figures.accuracy_against_keep(
        curves,
        full=np.asarray(comparison[FULL].accuracies),
        title=f"{named}: kept by {by} at step {plan.at}",
    )
    out += figures.save(keep_figure, plan.out / "accuracy")
    panels = {f"step {step}": table.mean(by, step) for step in table.steps(by)}
    bars = figures.score_histograms(
        panels,
        corrupted=table.corrupted,
        name=by,
        title=f"{named}: distribution of {by}",
        columns=2 if len(panels) == 4 else 3,
    )
    out += figures.save(bars, plan.out / "scores")
    if data.kind == "image":
        picture = figures.gallery(
            data.gather,
            data.labels,
            table.mean(by, plan.at),
            data.classes,
            corrupted=table.corrupted,
            original=data.original_labels if data.noise is not None else None,
            name=by,
            title=f"{named}: lowest and highest {by} of each class, step {plan.at}",
            fingerprint=data.fingerprint,
        )
        out += figures.save(picture, plan.out / "gallery")
    if tuned is not None:
        grid: dict[float, dict[float, Any]] = {}
        for keep, offset, row in tuned.grid:
            grid.setdefault(keep, {})[offset] = np.asarray(row.accuracies)
        title = f"{named}: windows of {by} at step {plan.at}"
        out += figures.save(figures.windows(grid, chosen=(tuned.keep, tuned.offset), title=title), plan.out / "window")
    return out


def _named(data: Dataset) -> str:
    """The dataset in a figure's title, with what label noise did to it."""
    if data.noise is None:
        return data.name
    did = {"permute": "permuted", "redraw": "redrawn"}.get(data.noise.kind, "changed")
    return f"{data.name}, {percent(data.noise.fraction)} of labels {did}"


def _slug(name: str) -> str:
    return name.replace("%", "").replace(" ", "-")
