"""`connectivity`: when the loss surface settles, by children of one run that are spawned ever later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from datadiet.data.dataset import Dataset
from datadiet.dynamics.connectivity import CONNECTED, STATISTICS, Path, check_alphas, onset
from datadiet.errors import DatadietError
from datadiet.flows.arguments import whole
from datadiet.flows.environments import environments_of, warn_if_mixed
from datadiet.flows.execute import OnProgress, kept_engines
from datadiet.flows.plan import Setup, check_code, marks_for
from datadiet.flows.score import ScorePlan, plan_score
from datadiet.flows.spawning import Families, families, grow, paths_of
from datadiet.steps import Step
from datadiet.store import Store
from datadiet.training.recipe import Recipe


@dataclass(frozen=True)
class Connectivity:
    """Barriers between children of the same runs, by spawn step.

    Args:
        steps: spawn steps, ascending.
        paths: {(run, spawn step): a Path for each pair of children}.
        runs: number of parents.
        until: the step at which children are compared.
    """

    steps: tuple[int, ...]
    paths: Mapping[tuple[int, int], tuple[Path, ...]]
    runs: int
    until: int
    steps_per_epoch: int
    examples: int
    provenance: Mapping[str, Any]

    def error_barriers(self, rows: Any = None) -> np.ndarray:
        """(runs, steps) error barriers as fractions, averaged over pairs; on all training examples or on `rows`."""
        return self._each(lambda path: path.error_barrier(rows), rows)

    def loss_barriers(self, rows: Any = None) -> np.ndarray:
        """(runs, steps) loss barriers, averaged over pairs and examples."""
        return self._each(lambda path: path.loss_barrier(rows), rows)

    def per_example(self, step: int) -> np.ndarray:
        """(N,) loss barrier of each example, averaged over pairs and runs."""
        found = [path.per_example() for run in range(self.runs) for path in self.paths[run, step]]
        return np.mean(found, axis=0)

    def onset(self, rows: Any = None, threshold: float = CONNECTED, *, kind: str = "error") -> int | None:
        """The spawn step from which on the mean barrier is below 2 %; None where it never is."""
        found = self.error_barriers(rows) if kind == "error" else self.loss_barriers(rows)
        return onset(self.steps, found.mean(0).tolist(), threshold)

    def _each(self, barrier: Any, rows: Any) -> np.ndarray:
        if rows is not None and not len(rows):
            raise DatadietError("a subset without examples", where="rows", fix="name at least one row")
        return np.array(
            [[np.mean([barrier(p) for p in self.paths[run, step]]) for step in self.steps] for run in range(self.runs)]
        )

    def to_json(self) -> dict[str, Any]:
        errors, losses = self.error_barriers(), self.loss_barriers()
        return {
            "what": "connectivity", "runs": self.runs, "until": self.until,
            "rows": [
                {
                    "step": step, "epoch": step / self.steps_per_epoch, "error_barrier": errors[:, i].tolist(),
                    "loss_barrier": losses[:, i].tolist(),
                }
                for i, step in enumerate(self.steps)
            ],
            "onset_error": self.onset(), "onset_loss": self.onset(kind="loss"), **self.provenance,
        }  # fmt: skip

    def __str__(self) -> str:
        lines = ["spawned at   error barrier   loss barrier"]
        for i, step in enumerate(self.steps):
            error, loss = self.error_barriers()[:, i].mean(), self.loss_barriers()[:, i].mean()
            lines.append(f"{step:>10,}   {100 * error:11.2f} %   {loss:12.4f}")
        for words, kind in (("error barrier below 2 %", "error"), ("loss barrier below 0.02", "loss")):
            found = self.onset(kind=kind)
            settled = "at none of them" if found is None else f"from step {found:,}"
            lines.append(f"connected ({words}): {settled}")
        return "\n".join(lines)


@dataclass(frozen=True)
class ConnectivityPlan:
    """All that `connectivity` will do, before a step of it is taken."""

    scoring: ScorePlan
    families: Families
    steps: tuple[int, ...]
    until: int
    alphas: tuple[float, ...]
    children: int
    parent_counts: bool
    statistics: str

    @property
    def data(self) -> Dataset:
        return self.scoring.data


def plan_connectivity(
    data: Any, model: str | None = None, *, at: Sequence[str | int | Step], until: str | int | None = None,
    children: int = 2, runs: int = 1, alphas: Sequence[float] = (0.5,), parent_counts: bool = True,
    statistics: str = "interpolated", recipe: Recipe | Mapping[str, Any] | str | FilePath | None = None,
    preset: str | None = None, steps: str | None = None, seed: int = 0,
    setup: Setup | Mapping[str, Any] | None = None,
) -> ConnectivityPlan:  # fmt: skip
    """Resolve and check all that `connectivity` was asked, and train nothing. Arguments as of `connectivity`."""
    if whole(children, "children", "--children") < 2:
        raise DatadietError(f"{children} children make no pair", where="--children", fix="at least 2")
    if statistics not in STATISTICS:
        raise DatadietError(f"statistics {statistics!r}", where="statistics", fix=f"one of {', '.join(STATISTICS)}")
    # The runs are those of a scoring at these steps, so that scores and barriers can be of the same networks.
    scoring = plan_score(
        data, model=model, scores=["el2n"], runs=runs, at=at, recipe=recipe, preset=preset, steps=steps, seed=seed,
        setup=setup,
    )  # fmt: skip
    horizon = scoring.recipe.horizon(len(scoring.data))
    end = horizon if until is None else marks_for(scoring.recipe, scoring.data, [until])[0]
    late = [mark for mark in scoring.marks if mark > end]
    if late:
        raise DatadietError(
            f"children spawned at step {late[0]:,} cannot be compared at step {end:,}", where="--until",
            fix="compare them later, or spawn them earlier",
        )  # fmt: skip
    points = tuple(check_alphas(alphas))
    parents = [(label, replace(task, marks=(), scores=())) for label, task in scoring.tasks]
    planned = families(
        parents, scoring.data, scoring.marks, children=children, until=end, alphas=points,
        parent_counts=parent_counts, statistics=statistics,
    )  # fmt: skip
    return ConnectivityPlan(
        scoring, planned, tuple(scoring.marks), end, points, children, parent_counts, statistics
    )  # fmt: skip


def connectivity(
    data: Any, model: str | None = None, *, on_progress: OnProgress | None = None, **plan: Any
) -> Connectivity:
    """Barriers between children of a run that were spawned at several steps (Data Diet, section 4).

    A child begins with its parent's weights and momentum and sees other orders and augmentations from then on.

    Args:
        data: a Dataset, or anything that `datadiet.load` takes.
        model: a registered network; default the preset's.
        on_progress: called with the progress of jobs.
        plan: `at` (spawn steps), `until` (where children are compared; default the horizon), `children` (default 2),
            `parent_counts` (the parent's own continuation is one of them; default true), `runs` (parents), `alphas`
            (default the midpoint), `statistics` ("interpolated" or "re-estimated"), `recipe`, `preset`, `steps`,
            `seed`, `setup`.

    Returns:
        Connectivity: error and loss barriers on all training examples or any subset of them.
    """
    return execute_connectivity(plan_connectivity(data, model, **plan), on_progress)


def execute_connectivity(plan: ConnectivityPlan, on_progress: OnProgress | None = None) -> Connectivity:
    """Do what a plan says."""
    setup = plan.scoring.setup
    store = Store(setup.store)
    check_code(plan.scoring.recipe, plan.scoring.network, store)
    with kept_engines():
        grow(plan.families, plan.data, setup, on_progress)
    return _from_store(plan)


def _from_store(plan: ConnectivityPlan) -> Connectivity:
    tasks = {key: task for key, (_, task) in plan.families.paths.items()}
    paths = {key: paths_of(task) for key, task in tasks.items()}
    environments = environments_of(tasks.values(), plan.data)
    warn_if_mixed(environments)
    scoring = plan.scoring
    provenance = {
        "dataset": plan.data.name, "fingerprint": plan.data.fingerprint, "recipe": scoring.recipe.to_json(),
        "seed": scoring.seed, "children": plan.children, "parent_counts": plan.parent_counts,
        "alphas": list(plan.alphas), "statistics": plan.statistics, "numerics": environments,
    }  # fmt: skip
    per_epoch = scoring.recipe.steps_per_epoch(len(plan.data))
    return Connectivity(plan.steps, paths, scoring.runs, plan.until, per_epoch, len(plan.data), provenance)
