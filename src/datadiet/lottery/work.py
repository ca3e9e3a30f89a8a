"""A lottery in the making: the tasks of its stages, its masks, and what came of them, read from the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.flows.environments import environments_of
from datadiet.flows.lmc import CHILDREN
from datadiet.flows.measures import Accuracies, Errors, GradientCoherence
from datadiet.flows.network import network_of
from datadiet.flows.shared import DataCard
from datadiet.flows.spawning import PathTask, path_task, paths_of
from datadiet.flows.tasks import RunTask, accuracy_of, arrays_of, folder_of, functions_of
from datadiet.lottery.plan import BATCHES, LotteryPlan, Variant
from datadiet.lottery.pruning import prune
from datadiet.lottery.result import Outcome
from datadiet.scores import ScoreTable
from datadiet.selection import Subset
from datadiet.training.checkpoint import load_whole, whole_state
from datadiet.training.masks import Mask
from datadiet.training.recipe import Recipe, RunSpec


def once(tasks: Any) -> list[tuple[str, RunTask]]:
    """Each run once, asked for all that is asked of it anywhere."""
    found: dict[str, tuple[str, RunTask]] = {}
    for label, task in tasks:
        name = task.spec.name
        if name in found:
            label, other = found[name]
            measures = {(step, m.key): (step, m) for step, m in (*other.measures, *task.measures)}
            task = replace(
                other, until=max(other.until, task.until), keep=tuple(sorted({*other.keep, *task.keep})),
                measures=tuple(measures.values()),
            )  # fmt: skip
        found[name] = (label, task)
    return list(found.values())


Key = tuple[str, int]  # (a variant's label, a replicate)


@dataclass
class Work:
    """A lottery in the making: the tasks of each stage, and the masks so far. Without tables, subsets are made up."""

    plan: LotteryPlan
    tables: Mapping[str, ScoreTable] | None
    masks: dict[Key, Mask | str | None] = field(default_factory=dict)
    levels: list[dict[Key, tuple[str, RunTask]]] = field(default_factory=list)
    history: list[dict[Key, Mask | str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.plan
        self.subsets: dict[Key, Subset | str | None] = {}
        self.pretrainings: dict[Key, tuple[str, RunTask]] = {}
        for variant in plan.variants:
            for run in range(plan.replicates):
                key = (variant.label, run)
                self.subsets[key] = self._subset(variant, run)
                self.pretrainings[key] = self._pretraining(variant, run, self.subsets[key])
                self.masks[key] = None

    def _subset(self, variant: Variant, run: int) -> Subset | str | None:
        by = variant.pretraining.by
        if by is not None and self.tables is None:
            return f"not known: {variant.label}"
        table = None if by is None or self.tables is None else self.tables[by]
        if by is not None and run:  # scores are of all replicates, so are the examples they choose
            return self.subsets[variant.label, 0]
        at = None if by is None else f"{self.plan.scorings[by].marks[0]}it"
        return variant.pretraining.subset(self.plan.noisy, table, at, variant.balanced, self.plan.seed, run)

    def _task(self, data: Dataset, recipe: Recipe, run: int, purpose: str, **spec: Any) -> RunTask:
        plan = self.plan
        what = RunSpec(
            recipe=recipe, dataset=data.fingerprint, seed=plan.seed, run=run, purpose=purpose,
            classes=len(data.classes), noise=None if data.noise is None else data.noise.describe(),
            weights=plan.network.weights, **spec,
        )  # fmt: skip
        return RunTask(
            what, str(plan.setup.store), DataCard.of(data), plan.numerics, until=plan.until,
            resume_every=plan.setup.resume_every, needs=functions_of(recipe.model),
        )  # fmt: skip

    def _pretraining(self, variant: Variant, run: int, subset: Subset | str | None) -> tuple[str, RunTask]:
        plan, step = self.plan, variant.step
        digest = subset if subset is None or isinstance(subset, str) else subset.digest
        rows = None if subset is None or isinstance(subset, str) else np.asarray(subset.indices)
        task = self._task(plan.noisy, plan.pre_recipe, run, "pretrain", subset=digest)
        measures: list[tuple[int, Any]] = [(step, Accuracies())]
        if "coherence" in plan.instruments:
            measures.append((step, self._coherence(rows)))
        return (
            f"pre-training on {variant.label}, replicate {run}",
            replace(task, until=step, keep=(step,), rows=rows, measures=tuple(measures)),
        )

    def _coherence(self, rows: np.ndarray | None) -> GradientCoherence:
        there = np.arange(len(self.plan.noisy)) if rows is None else rows
        return GradientCoherence(there, BATCHES, min(self.plan.recipe.batch_size, len(there)))

    def level(self, level: int) -> dict[Key, tuple[str, RunTask]]:
        """The tasks of a level, under the masks as they are now."""
        plan = self.plan
        tasks: dict[Key, tuple[str, RunTask]] = {}
        for variant in plan.variants:
            for run in range(plan.replicates):
                key = (variant.label, run)
                mask = self.masks[key]
                parent = (self.pretrainings[key][1].spec.name, variant.step)
                if plan.rewind == "rate" and level:
                    parent = (self.levels[level - 1][key][1].spec.name, plan.until)
                task = self._task(
                    plan.data, plan.recipe, run, f"lottery level {level}", parent=parent, rewind=variant.step,
                    mask=mask.digest if isinstance(mask, Mask) else mask,
                )  # fmt: skip
                looked_at = level in (0, plan.projected) and "errors" in plan.instruments
                tasks[key] = (
                    f"{variant.label}, level {level}, replicate {run}",
                    replace(
                        task, keep=(plan.until,), evaluate=("test",), mask=mask if isinstance(mask, Mask) else None,
                        measures=((variant.step, Errors()),) if looked_at else (),
                    ),
                )  # fmt: skip
        self.levels[level:] = [tasks]
        self.history[level:] = [dict(self.masks)]
        return tasks

    def mask_after(self, level: int, key: Key, *, made: bool = True) -> Mask | str:
        """The mask that pruning the trained weights of a level gives, read where it was made before.

        With `made` false nothing is computed: a mask that is not there is named by what it will come from.
        """
        plan, task = self.plan, self.levels[level][key][1]
        folder = folder_of(task)
        found = folder.load_result(plan.pruning, plan.until)
        if found is not None:
            return Mask({name: np.asarray(tensor, bool) for name, tensor in found[0].items()})
        if not made:
            return f"not known: after {task.spec.name}"
        point = folder.load_checkpoint(plan.until)
        if point is None:
            raise DatadietError("the weights of this run are gone", where=folder.path, fix="run the command again")
        before = self.masks[key]
        model = network_of(task.spec.recipe, plan.data)  # which may save its weights under names of its own
        load_whole(model, whole_state(model, point.tensors))
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        mask = prune(
            weights, before if isinstance(before, Mask) else plan.dense, plan.fraction, plan.rule,
            exempt=plan.exempt, seed=plan.seed, run=key[1],
        )  # fmt: skip
        with folder.lock():
            folder.save_result(plan.pruning, plan.until, dict(mask.tensors), {"density": mask.density})
        return mask

    # ------------------------------------------------------------------------------------ instruments

    def children(self) -> list[tuple[str, RunTask]]:
        """Runs from the same pre-trained points with other streams: with level 0 itself, three of each."""
        out = []
        for (label, run), (_, task) in self.levels[0].items():
            for child in range(1, CHILDREN):
                spec = replace(task.spec, purpose=f"lottery child {child}")
                own = replace(task, spec=spec, evaluate=(), measures=())
                out.append((f"{label}, replicate {run}, child {child}", own))
        return out

    def paths(self) -> dict[Key, tuple[str, PathTask]]:
        """The losses between the three children of each pre-trained point."""
        family: dict[Key, list[RunTask]] = {key: [task] for key, (_, task) in self.levels[0].items()}
        keys = [key for key in family for _ in range(1, CHILDREN)]
        for key, (_, task) in zip(keys, self.children(), strict=True):
            family[key].append(task)
        return {
            key: (
                f"{key[0]}, replicate {key[1]}, between its children",
                path_task(tasks, self.plan.until, self.plan.data, (0.0, 0.5, 1.0)),
            )
            for key, tasks in family.items()
        }

    # ---------------------------------------------------------------------------------------- results

    def outcome(self, variant: Variant) -> Outcome:
        """What came of one pre-training, read from the store."""
        plan, label = self.plan, variant.label
        keys = [(label, run) for run in range(plan.replicates)]
        accuracy = np.array(
            [
                [accuracy_of(self.levels[level][key][1], "test", plan.data) for level in range(plan.levels + 1)]
                for key in keys
            ]
        )  # fmt: skip
        masks = [[self.history[level][key] or plan.dense for level in range(plan.levels + 1)] for key in keys]
        start = [arrays_of(self.pretrainings[key][1], Accuracies().key, variant.step) for key in keys]
        more: dict[str, Any] = {}
        if "barrier" in plan.instruments:
            found = [self._barrier(self.paths()[key][1]) for key in keys]
            more["barriers"] = np.stack([one[0] for one in found])
            more["error_barriers"] = np.array([one[1] for one in found])
        if "coherence" in plan.instruments:
            tasks = [self.pretrainings[key][1] for key in keys]
            wanted = [self._coherence(None if task.rows is None else np.asarray(task.rows)) for task in tasks]
            more["cosines"] = np.array(
                [arrays_of(t, w.key, variant.step)["cosines"].mean() for t, w in zip(tasks, wanted, strict=True)]
            )
        if "errors" in plan.instruments:
            for name, level in (("errors_dense", 0), ("errors_sparse", plan.projected)):
                tasks = [self.levels[level][key][1] for key in keys]
                more[name] = np.stack([arrays_of(t, Errors().key, variant.step)["el2n"] for t in tasks])
        return Outcome(
            label, variant.step, accuracy,
            np.array([one["test"].mean() for one in start]), np.array([one["train"].mean() for one in start]),
            tuple(tuple(one) for one in masks),  # type: ignore[arg-type]
            tuple(np.asarray(s.indices) if isinstance(s, Subset) else None for s in map(self.subsets.get, keys)),
            **more,
        )  # fmt: skip

    def environments(self) -> list[dict[str, Any]]:
        """The numeric environments of all that was trained and measured."""
        walked = self.paths() if "barrier" in self.plan.instruments else {}
        tasks = [task for stage in (self.pretrainings, *self.levels) for _, task in stage.values()]
        return environments_of([*tasks, *(task for _, task in walked.values())], self.plan.data)

    def _barrier(self, task: PathTask) -> tuple[np.ndarray, float]:
        """(N,) loss barriers averaged over pairs, and the mean error barrier."""
        found = paths_of(task)
        return np.mean([path.per_example() for path in found], axis=0), float(
            np.mean([path.error_barrier() for path in found])
        )
