"""Iterative magnitude pruning with rewinding: pre-train to t_r, then train, prune, rewind, level by level.

    pre-train to t_r -> level 0: train all weights from t_r to the end -> prune -> level 1: the weights of t_r that are
    left, from t_r to the end -> prune -> …

Every run is a run of the store: a killed lottery goes on where it was, a longer one adds its levels, and two that share
a pre-training share its dense network. A level's mask is kept with the run whose weights it was made from.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import datadiet.data as data_room
from datadiet import models
from datadiet.data.dataset import Dataset
from datadiet.data.noise import parse as parse_noise
from datadiet.errors import DatadietError, unknown
from datadiet.flows.execute import OnProgress, kept_engines, run_tasks
from datadiet.flows.lmc import spawned_tasks
from datadiet.flows.measures import Accuracies, Errors, GradientCoherence
from datadiet.flows.plan import (
    Network,
    Setup,
    check_code,
    check_seed,
    defaults_for,
    environment,
    inspect,
    recipe_for,
)
from datadiet.flows.score import ScorePlan, execute_score, plan_score
from datadiet.flows.shared import DataCard
from datadiet.flows.spawning import PathTask, path_task, walk
from datadiet.flows.tasks import RunTask, evaluation_key, folder_of, functions_of, is_done
from datadiet.lottery.presets import lottery_preset
from datadiet.lottery.pretraining import Pretraining
from datadiet.lottery.pruning import FRACTION, RULES, as_fraction, exempted, prune, remaining
from datadiet.lottery.result import Lottery, Outcome, check_folder
from datadiet.numerics import Numerics
from datadiet.scores import ScoreTable
from datadiet.selection import Subset
from datadiet.steps import Step
from datadiet.store import Store
from datadiet.store.files import writable_folder
from datadiet.training.masks import Mask
from datadiet.training.recipe import Recipe, RunSpec

log = logging.getLogger(__name__)

LEVELS = 8  # down to 16.8 % of the weights: where the paper asks whether they match
CHILDREN = 3  # between whose ends the barrier of a pre-trained point is taken
BATCHES = 16  # gradients whose coherence is taken
PROJECTED = 6  # the level at which the paper looks at errors after the sparse projection (Figure 9)
REWINDS = ("weights", "rate")
INSTRUMENTS = ("barrier", "coherence", "errors")
LMC_RUNS = 2  # replicates of the paper's LMC score


@dataclass(frozen=True)
class Variant:
    """One pre-training, resolved: where it rewinds to, and whether its classes are balanced."""

    pretraining: Pretraining
    step: int
    balanced: bool

    @property
    def label(self) -> str:
        if self.step == 0:
            return "no pre-training"
        return f"{self.pretraining.name}, {self.step:,} step{'s' * (self.step != 1)}"


@dataclass(frozen=True)
class LotteryPlan:
    """Everything a lottery is, before a step of it is taken."""

    data: Dataset
    noisy: Dataset
    recipe: Recipe
    pre_recipe: Recipe
    variants: tuple[Variant, ...]
    scorings: Mapping[str, ScorePlan]
    replicates: int
    levels: int
    fraction: float
    rule: str
    exempt: tuple[str, ...]
    rewind: str
    instruments: tuple[str, ...]
    dense: Mask
    seed: int
    setup: Setup
    network: Network
    numerics: Numerics

    @property
    def until(self) -> int:
        """The last step of every level."""
        return self.recipe.horizon(len(self.data))

    @property
    def pruning(self) -> str:
        """What names a level's mask beside the run it was made from."""
        text = json.dumps([self.rule, str(as_fraction(self.fraction)), sorted(self.exempt), self.seed])
        return f"mask-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    @property
    def projected(self) -> int:
        """The level whose errors are looked at right after the projection."""
        return min(PROJECTED, self.levels)

    def stages(self) -> list[tuple[str, Dataset, Recipe, list[tuple[str, RunTask]]]]:
        """(what, data, recipe, tasks) of all that will be trained, for an estimate.

        Runs whose masks or subsets are not known yet stand under made-up names, so that they count as missing.
        """
        out, tables = [], {}
        for name, p in self.scorings.items():
            out.append((f"scoring by {name}", p.data, p.recipe, p.tasks))
            spawned = spawned_tasks(p.scores, p.tasks, p.marks, p.data)
            if spawned:
                out.append(("children of scoring runs", p.data, p.recipe, spawned))
            elif all(is_done(task, p.data) for _, task in p.tasks):
                tables[name] = execute_score(p)  # reads them
        known = self.scorings.keys() <= tables.keys()
        work = _Work(self, tables if known else None)
        out.append(("pre-training", self.noisy, self.pre_recipe, _once(work.pretrainings.values())))
        for level in range(self.levels + 1):
            out.append((f"level {level}", self.data, self.recipe, _once(work.level(level).values())))
            if level == 0 and "barrier" in self.instruments:
                out.append(("children", self.data, self.recipe, _once(work.children())))
            if level < self.levels:
                work.masks = {key: work.mask_after(level, key, made=False) for key in work.masks}
        return out


def plan_tickets(
    data: Any, model: str | None = None, *, pretrain: Sequence[str | Pretraining] | None = None,
    steps: str | int | None = None, baselines: bool | None = None, levels: int = LEVELS, replicates: int = 4,
    fraction: float = FRACTION, rule: str = "magnitude", exempt: Sequence[str] = (), rewind: str = "weights",
    noise: str | None = None, noise_seed: int = 0, pretrain_lr: float | None = None, balanced: str = "paper",
    score_runs: int | None = None, scores_at: Mapping[str, str | int] | None = None,
    instruments: Sequence[str] = (), recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    preset: str | None = None, horizon: str | None = None, seed: int = 0,
    setup: Setup | Mapping[str, Any] | None = None,
) -> LotteryPlan:  # fmt: skip
    """Resolve and check all that `find_tickets` was asked, and train nothing. Arguments as of `find_tickets`."""
    data, setup = data_room.load(data), Setup.of(setup)
    check_seed(seed)
    if data.test is None:
        raise DatadietError("no test split to compare on", where=data.name, fix="load it with one")
    for what, value, least in (("levels", levels, 0), ("replicates", replicates, 1), ("score runs", score_runs, 1)):
        if value is not None and value < least:
            flag = f"--{what.replace(' ', '-')}"
            raise DatadietError(f"{value} {what}", where=flag, fix=f"at least {least}")
    as_fraction(fraction)
    RULES.get(rule, where="--prune")
    for given, legal, flag in ((rewind, REWINDS, "--rewind"), (balanced, ("paper", "yes", "no"), "--balanced")):
        if given not in legal:
            raise unknown("choice", given, legal, where=flag)
    for name in instruments:
        if name not in INSTRUMENTS:
            raise unknown("instrument", name, INSTRUMENTS, where="--instrument")
    chosen = recipe_for(data, recipe=recipe, preset=preset, model=model, steps=horizon)
    recipe_preset, defaults = defaults_for(data, preset, model, recipe)
    until = chosen.horizon(len(data))
    usual = lottery_preset(data, recipe_preset, chosen.lr, until, defaults.at[-1])
    noisy = data
    if noise is not None:
        kind, part = parse_noise(noise)
        noisy = data.with_noise(kind, part, noise_seed)
    pre_recipe = chosen.with_(lr=usual.lr if pretrain_lr is None else pretrain_lr)
    network = inspect(chosen, data)

    def at(step: str | int) -> int:
        plain = int(step) if str(step).isdecimal() else step
        return Step.parse(plain, where="--steps").resolve(chosen.steps_per_epoch(len(data)))

    short = at(steps) if steps is not None else max(1, at(usual.steps) // 2)
    wanted = [
        one if isinstance(one, Pretraining) else Pretraining.parse(one)
        for one in ([f"easiest:{usual.size}", f"random:{usual.size}"] if pretrain is None else pretrain)
    ]
    if baselines if baselines is not None else pretrain is None:
        if 2 * short > until:
            raise DatadietError(
                f"all data for twice {short:,} steps is more than the run has ({until:,})", where="--baselines",
                fix="pre-train for fewer steps, or lengthen the run",
            )  # fmt: skip
        wanted += [Pretraining("all", steps=f"{n}it" if n else "0") for n in (2 * short, short, 0)]
    variants: dict[str, Variant] = {}
    for one in wanted:
        even = one.balanced if balanced == "paper" else balanced == "yes"
        one.check(noisy, even and one.policy != "all")
        step = short if one.steps is None else at(one.steps)
        if step >= until:
            raise DatadietError(
                f"rewinding to step {step:,} leaves nothing to train of {until:,}", where="--steps",
                fix="pre-train for fewer steps, or lengthen the run",
            )  # fmt: skip
        variant = Variant(one, step, even and one.policy != "all")
        variants.setdefault(variant.label, variant)
    if not variants:
        raise DatadietError("no pre-training is asked for", where="--pretrain", fix='say "all" or "easiest:2048"')
    by = sorted({v.pretraining.by for v in variants.values() if v.pretraining.by is not None})
    when = {"el2n": usual.scores_at, "forgetting": chosen.steps, "lmc": f"{min(4 * short, until - 1)}it"}
    when |= {name: str(step) for name, step in (scores_at or {}).items()}
    for name in scores_at or {}:
        if name not in by:
            raise unknown("score of a pre-training", name, by, where="--score-at")
    runs = score_runs if score_runs is not None else defaults.runs

    def scored_at(step: str) -> str:
        when = at(step)
        if when > until:
            raise DatadietError(
                f"{step} is step {when:,}, and the run has {until:,}", where="--score-at", fix="take the score earlier"
            )
        return f"{when}it"

    scorings = {
        name: plan_score(
            noisy, scores=[name], runs=min(runs, LMC_RUNS) if name == "lmc" else runs,
            at=[scored_at(when.get(name, usual.scores_at))], recipe=chosen, seed=seed, setup=setup,
        )
        for name in by
    }  # fmt: skip
    built = models.build(chosen.model, data.input_shape, len(data.classes), seed=0, **chosen.model_args)
    dense = Mask.full(built)
    if not dense.tensors:
        raise DatadietError(
            f"{chosen.model} has no convolution or linear layer to prune", where="--model", fix="use another network"
        )
    spared = exempted(list(dense.tensors), exempt)
    _warn_of_empty_layers(dense, spared, fraction, levels, rule)
    return LotteryPlan(
        data, noisy, chosen, pre_recipe, tuple(variants.values()), scorings, replicates, levels, fraction, rule,
        tuple(exempt), rewind, tuple(dict.fromkeys(instruments)), dense, seed, setup, network,
        environment(chosen, data, network, setup),
    )  # fmt: skip


def _warn_of_empty_layers(dense: Mask, spared: set[str], fraction: float, levels: int, rule: str) -> None:
    """Say before training which layers are sure to lose their last weight."""
    layers = {name: count for name, (_, count) in dense.layers().items() if name not in spared}
    left = remaining(sum(layers.values()), fraction, levels)[-1]
    if rule == "layerwise":
        empty = [name for name, count in layers.items() if not remaining(count, fraction, levels)[-1]]
        if empty:
            log.warning("after %d levels nothing is left of %s", levels, ", ".join(empty))
    elif left < len(layers):
        log.warning("after %d levels %d weights are left for %d layers", levels, left, len(layers))


def find_tickets(
    data: Any, model: str | None = None, *, out: str | Path | None = None, on_progress: OnProgress | None = None,
    **plan: Any,
) -> Lottery:  # fmt: skip
    """Iterative magnitude pruning with rewinding, from one or several pre-trainings (Lottery Tickets on a Data Diet).

    Args:
        data: a Dataset, or anything that `datadiet.load` takes.
        model: a registered network; default the preset's.
        out: a folder for `lottery.json`, `lottery.parquet`, the figure and the masks.
        on_progress: called with the progress of jobs.
        plan: `pretrain` (POLICY[/SCORE][:SIZE][@STEPS] each; default easy and random examples), `steps` (of those that
            do not say; default half of t*), `baselines` (all data for twice `steps`, for `steps`, and for none; default
            where no `pretrain` is given), `levels`, `replicates`, `fraction` (of the weights left that goes at a
            level), `rule` ("magnitude", "layerwise", "random"), `exempt` (layers never pruned), `rewind` ("weights", or
            "rate" for the learning rate alone), `noise` (during pre-training only: "redraw:0.1"), `noise_seed`,
            `pretrain_lr`, `balanced` ("paper", "yes", "no"), `score_runs`, `scores_at` ({score: step}), `instruments`
            ("barrier", "coherence", "errors"), `recipe`, `preset`, `horizon`, `seed`, `setup`.

    Returns:
        Lottery: accuracies by pre-training, replicate and level, masks, and what the instruments measured.
    """
    return execute_tickets(plan_tickets(data, model, **plan), out, on_progress)


def execute_tickets(plan: LotteryPlan, out: str | Path | None = None, on_progress: OnProgress | None = None) -> Lottery:
    """Do what a plan says."""
    folder = None if out is None else Path(out)
    if folder is not None:
        check_folder(folder, _provenance(plan))
        writable_folder(folder)
    store = Store(plan.setup.store)
    writable_folder(store.root)
    check_code(plan.recipe, plan.network, store)
    with kept_engines():
        tables = {name: execute_score(scoring, on_progress=on_progress) for name, scoring in plan.scorings.items()}
        work = _Work(plan, tables)
        run_tasks(_once(work.pretrainings.values()), plan.noisy, plan.setup, on_progress)
        for level in range(plan.levels + 1):
            run_tasks(_once(work.level(level).values()), plan.data, plan.setup, on_progress)
            if level == 0 and "barrier" in plan.instruments:
                run_tasks(_once(work.children()), plan.data, plan.setup, on_progress)
                paths = {task.spec.name: (label, task) for label, task in work.paths().values()}
                run_tasks(list(paths.values()), plan.data, plan.setup, on_progress, job=walk, done=PathTask.is_done)
            if level < plan.levels:
                work.masks = {key: work.mask_after(level, key) for key in work.masks}
    result = Lottery(
        {variant.label: work.outcome(variant) for variant in plan.variants},
        dense=plan.dense.total,
        fraction=plan.fraction,
        until=plan.until,
        steps_per_epoch=plan.recipe.steps_per_epoch(len(plan.data)),
        dataset=plan.data.name,
        provenance=_provenance(plan),
    )
    if folder is not None:
        result.save(folder)
    return result


def _provenance(plan: LotteryPlan) -> dict[str, Any]:
    return {
        "fingerprint": plan.data.fingerprint, "recipe": plan.recipe.to_json(),
        "pretraining_recipe": plan.pre_recipe.to_json(), "seed": plan.seed, "fraction": plan.fraction,
        "rule": plan.rule, "exempt": sorted(plan.exempt), "rewind": plan.rewind,
        "noise": None if plan.noisy is plan.data or plan.noisy.noise is None else plan.noisy.noise.describe(),
    }  # fmt: skip


def _once(tasks: Any) -> list[tuple[str, RunTask]]:
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
class _Work:
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
        if step == 0:  # nothing is trained, so on what makes no difference
            subset = None
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
            return Mask({name: np.asarray(tensor, bool) for name, tensor in found.items()})
        if not made:
            return f"not known: after {task.spec.name}"
        point = folder.load_checkpoint(plan.until)
        if point is None:
            raise DatadietError("the weights of this run are gone", where=folder.path, fix="run the command again")
        before = self.masks[key]
        weights = {name[len("model/") :]: t for name, t in point.tensors.items() if name.startswith("model/")}
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
        test = plan.data.test
        assert test is not None
        accuracy = np.array(
            [
                [self._evaluation(self.levels[level][key][1], test) for level in range(plan.levels + 1)]
                for key in keys
            ]
        )  # fmt: skip
        masks = [[self.history[level][key] or plan.dense for level in range(plan.levels + 1)] for key in keys]
        start = [self._result(self.pretrainings[key][1], Accuracies().key, variant.step) for key in keys]
        more: dict[str, Any] = {}
        if "barrier" in plan.instruments:
            found = [self._barrier(self.paths()[key][1]) for key in keys]
            more["barriers"] = np.stack([one[0] for one in found])
            more["error_barriers"] = np.array([one[1] for one in found])
        if "coherence" in plan.instruments:
            tasks = [self.pretrainings[key][1] for key in keys]
            wanted = [self._coherence(None if task.rows is None else np.asarray(task.rows)) for task in tasks]
            more["cosines"] = np.array(
                [self._result(t, w.key, variant.step)["cosines"].mean() for t, w in zip(tasks, wanted, strict=True)]
            )
        if "errors" in plan.instruments:
            for name, level in (("errors_dense", 0), ("errors_sparse", plan.projected)):
                tasks = [self.levels[level][key][1] for key in keys]
                more[name] = np.stack([self._result(t, Errors().key, variant.step)["el2n"] for t in tasks])
        return Outcome(
            label, variant.pretraining.name, variant.step, accuracy,
            np.array([one["test"].mean() for one in start]), np.array([one["train"].mean() for one in start]),
            tuple(tuple(one) for one in masks),  # type: ignore[arg-type]
            tuple(np.asarray(s.indices) if isinstance(s, Subset) else None for s in map(self.subsets.get, keys)),
            **more,
        )  # fmt: skip

    def _evaluation(self, task: RunTask, test: Any) -> float:
        found = folder_of(task).load_evaluation(evaluation_key("test", test), self.plan.until)
        return float(_there(found, task)["accuracy"])

    def _result(self, task: RunTask, key: str, step: int) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = _there(folder_of(task).load_result(key, step), task)
        return found

    def _barrier(self, task: PathTask) -> tuple[np.ndarray, float]:
        """(N,) loss barriers averaged over pairs, and the mean error barrier."""
        from datadiet.dynamics.connectivity import pairs

        found = _there(task.folder.load_result("path", self.plan.until), task)
        losses, errors = [], []
        for k, (i, j) in enumerate(pairs(CHILDREN)):
            losses.append(found["between"][k, 0] - (found["loss"][i] + found["loss"][j]) / 2)
            wrong = found["between_wrong"][k, 0].mean() - (found["wrong"][i].mean() + found["wrong"][j].mean()) / 2
            errors.append(max(0.0, float(wrong)))
        return np.mean(losses, axis=0), float(np.mean(errors))


def _there(found: Any, task: Any) -> Any:
    if found is None:
        raise DatadietError("a result of this run is gone", where=task.spec.name, fix="run the command again")
    return found
