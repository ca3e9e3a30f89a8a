"""What a study is given: the data, the recipe, the scale; and how it scores and retrains, or rehearses both.

A study says in code what it trains, so the cost of it can only be known by going through that code. That is what a
rehearsal does: `score` and `compare` check and plan everything as in earnest, then hand out made-up values of the
right shape and train nothing. Whatever can be refused is refused there, and the plans that come together are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.flows.compare import ComparePlan, Comparison, execute_compare, percent, plan_compare, results
from datadiet.flows.environments import environments_of, warn_if_mixed
from datadiet.flows.execute import OnProgress, run_tasks
from datadiet.flows.plan import Plan, Setup
from datadiet.flows.rehearsal import all_done, made_up_comparison, rehearsed_scores
from datadiet.flows.score import ScorePlan, execute_score, plan_score
from datadiet.flows.tune import Tuned, execute_tune, plan_tune_of
from datadiet.scores import ScoreTable
from datadiet.seeds import stream
from datadiet.selection.counts import count as count_of
from datadiet.steps import Step, describe
from datadiet.studies.scales import Scale
from datadiet.training.recipe import Recipe


@dataclass
class StudyJob:
    """One study on one dataset at one scale.

    Args:
        data: the dataset that the study is about; for a study with a noisy half, its clean labels.
        noisy: the same inputs under noisy labels, for a study with a noisy half; else None.
        scale: its numbers.
        recipe: of every run, unless the study says another.
        early: the step at which early scores are taken: the preset's.
        own: whether the recipe, the network or the preset was asked for, so that no study puts another in its place.
        own_runs: whether the number of runs was.
        seed: of all random streams.
        setup: where and how jobs execute.
        scores: further scores that were asked for by name.
        human: (N,) labels by other annotators, where given.
        memorization: (rows (M,), values (M,)) of given memorisation values, where given.
        rehearsal: whether nothing is trained.
        plans: what was planned so far, by stage.
    """

    data: Dataset
    scale: Scale
    recipe: Recipe
    early: str
    own: bool = False
    own_runs: bool = False
    noisy: Dataset | None = None
    seed: int = 0
    setup: Setup = field(default_factory=Setup)
    scores: tuple[str, ...] = ()
    human: np.ndarray | None = None
    memorization: tuple[np.ndarray, np.ndarray] | None = None
    on_progress: OnProgress | None = None
    rehearsal: bool = False
    plans: list[tuple[str, Plan]] = field(default_factory=list)
    _tables: dict[Any, ScoreTable] = field(default_factory=dict, repr=False)

    # ------------------------------------------------------------------------------------------ time

    @property
    def horizon(self) -> int:
        """Steps of a full run."""
        return self.recipe.horizon(len(self.data))

    @property
    def steps_per_epoch(self) -> int:
        return self.recipe.steps_per_epoch(len(self.data))

    def part(self, fraction: float) -> int:
        """The step at a part of the horizon; what is not 0 is at least 1."""
        return 0 if fraction == 0 else max(1, round(fraction * self.horizon))

    @property
    def marks(self) -> list[int]:
        """The scale's steps at which scores are taken, ascending."""
        return sorted({self.part(fraction) for fraction in self.scale.marks})

    @property
    def early_step(self) -> int:
        return Step.parse(self.early).resolve(self.steps_per_epoch)

    @property
    def curve_step(self) -> int:
        """When EL2N is taken for the pruning curve: epoch 20 at the papers' scale (DD Figure 1), else early."""
        return min(20 * self.steps_per_epoch, self.horizon) if self.scale.name == "paper" else self.early_step

    def epochs(self, step: int) -> str:
        """A step in epochs, for labels: "4", "0.5"."""
        return f"{step / self.steps_per_epoch:.3g}"

    def say(self, step: int) -> str:
        """A step for people: "84 steps (4 epochs)"."""
        return describe(step, self.steps_per_epoch)

    # -------------------------------------------------------------------------------- scores, subsets

    def score(
        self,
        scores: Sequence[str] = ("el2n",),
        at: Sequence[str | int] | None = None,
        *,
        data: Dataset | None = None,
        runs: int | None = None,
        recipe: Recipe | None = None,
        seed: int | None = None,
    ) -> ScoreTable:
        """Scores of `data` (default the study's) by `runs` (default the scale's) scoring runs, at steps `at`.

        Studies share scoring runs: run r at one seed is the same run whoever asks. In rehearsal, values are made up
        unless the store has them.
        """
        plan = plan_score(
            data or self.data,
            scores=list(dict.fromkeys(scores)),
            runs=runs or self.scale.score_runs,
            at=list(at) if at is not None else [self.early],
            recipe=recipe or self.recipe,
            seed=self.seed if seed is None else seed,
            setup=self.setup,
        )
        key = (plan.data.fingerprint, tuple(plan.asked), tuple(task.spec.name for _, task in plan.tasks))
        if key not in self._tables:
            for stage, one in plan.stages() if self.rehearsal else [("scoring", plan)]:
                self.add(stage, one)
            self._tables[key] = rehearsed_scores(plan) if self.rehearsal else self._scored(plan)
        return self._tables[key]

    def _scored(self, plan: ScorePlan) -> ScoreTable:
        return execute_score(plan, on_progress=self.on_progress)

    def compare(
        self,
        subsets: Mapping[str, Any],
        *,
        data: Dataset | None = None,
        runs: int | None = None,
        baselines: Sequence[str] = ("full", "random"),
        recipe: Recipe | None = None,
        until: int | None = None,
    ) -> Comparison:
        """Retraining on each subset, `runs` times (default the scale's), with as many steps as on full data.

        A subset may be a list of them, one for each run, where every run shall have its own. Run r starts from the
        same weights whatever it is trained on, so differences are taken run by run. With `until`, the accuracy is that
        of an earlier step of the same runs, whose checkpoint is kept: ask for the earlier first.
        """
        count = runs or self.scale.runs
        given = {name: one if isinstance(one, list) else [one] for name, one in subsets.items()}
        for name, several in given.items():
            if len(several) not in (1, count):
                raise ValueError(f"{name}: {len(several)} subsets for {count} runs")
        flat = {
            name if len(several) == 1 else f"{name} / {place}": one
            for name, several in given.items()
            for place, one in enumerate(several)
        }
        plan = plan_compare(
            data or self.data,
            flat,
            runs=count,
            recipe=recipe or self.recipe,
            seed=self.seed,
            baselines=baselines,
            setup=self.setup,
        )
        plan = _diagonal(plan, {name: len(several) for name, several in given.items() if len(several) > 1})
        if until is not None and until != plan.until:
            plan = _stopped(plan, until)
        done = self.add("retraining", plan)
        if self.rehearsal:
            return results(plan) if done else made_up_comparison(plan)
        return execute_compare(plan, on_progress=self.on_progress)

    def tune(self, table: ScoreTable, by: str, *, data: Dataset, keep: float, at: str | int | None = None) -> Tuned:
        """The window of `by` whose offset validation accuracy chooses, untested; `flows.tune` says how."""
        room = 1 - keep
        offsets = [*np.arange(0, room - 1e-9, self.scale.window_step), room]
        plan = plan_tune_of(
            data,
            table,
            by,
            at,
            keeps=[keep],
            offsets=offsets,
            runs=self.scale.runs,
            test_runs=0,
            seed=self.seed,
            setup=self.setup,
        )
        made = None if self.rehearsal else execute_tune(plan, table, self.on_progress)
        done = [self.add(stage, one) for stage, one in plan.stages(table)]  # what was made is known by now
        if made is not None or all(done):
            return made or execute_tune(plan, table)
        first = plan.grid[0]
        return Tuned(*first, (), plan.validation, plan.choice(table, *first), None)

    # ---------------------------------------------------------------------------------- any other runs

    def add(self, stage: str, plan: Plan) -> bool:
        """Count a plan among the study's; whether all of it is in the store."""
        self.plans.append((stage, plan))
        return all_done(plan)

    def execute(self, stage: str, plan: Plan) -> bool:
        """Make the runs of a plan of one's own, or only count them; whether their results can be read now."""
        done = self.add(stage, plan)
        if self.rehearsal:
            return done
        run_tasks(plan.tasks, plan.data, self.setup, self.on_progress)
        warn_if_mixed(environments_of((task for _, task in plan.tasks), plan.data))
        return True

    def made_up(self, shape: Sequence[int], *names: object) -> np.ndarray:
        """Values for a rehearsal, the same each time."""
        return stream(0, "rehearsal", 0, *names).random(shape)

    def need(self, examples: int, what: str) -> None:
        """Refuse a dataset that is too small for what the study looks at."""
        if len(self.data) < examples:
            raise DatadietError(
                f"{what} needs {examples:,} training examples, {self.data.name} has {len(self.data):,}",
                where=self.data.name,
                fix="use a larger dataset",
            )

    def need_epoch(self, what: str) -> None:
        """Refuse a recipe whose runs end before the first epoch does."""
        if self.horizon < self.steps_per_epoch:
            raise DatadietError(
                f"{what} needs an epoch of {self.steps_per_epoch:,} steps, runs have {self.horizon:,}",
                where=self.data.name,
                fix="take a longer recipe",
            )

    def need_keeps(self, keeps: Sequence[float]) -> None:
        """Refuse a dataset that is so small that two kept parts are the same number of examples."""
        found: dict[int, float] = {}
        for keep in keeps:
            size = count_of(keep, len(self.data))
            if size in found:
                raise DatadietError(
                    f"{percent(found[size])} and {percent(keep)} of {len(self.data):,} examples are both {size:,}",
                    where=self.data.name,
                    fix="use a larger dataset",
                )
            found[size] = keep


def _stopped(plan: ComparePlan, until: int) -> ComparePlan:
    """The same runs, up to an earlier step."""
    groups = [
        (name, keep, size, [(label, replace(task, until=until, keep=(until,))) for label, task in tasks])
        for name, keep, size, tasks in plan.groups
    ]
    return replace(plan, until=until, groups=groups)


def _diagonal(plan: ComparePlan, several: Mapping[str, int]) -> ComparePlan:
    """Of groups "name / 0", "name / 1", … one group "name", whose run r is run r of group r."""
    by_name = {name: (keep, size, tasks) for name, keep, size, tasks in plan.groups}
    groups = []
    for name, (keep, size, tasks) in by_name.items():
        base, slash, place = name.rpartition(" / ")
        if not slash or base not in several:
            groups.append((name, keep, size, tasks))
        elif place == "0":
            own = [by_name[f"{base} / {run}"][2][run] for run in range(several[base])]
            groups.append((base, keep, size, [(f"{base}, run {run}", task) for run, (_, task) in enumerate(own)]))
    return replace(plan, groups=groups)
