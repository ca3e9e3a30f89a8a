"""Iterative magnitude pruning with rewinding: pre-train to t_r, then train, prune, rewind, level by level.

    pre-train to t_r -> level 0: train all weights from t_r to the end -> prune -> level 1: the weights of t_r that are
    left, from t_r to the end -> prune -> …

Every run is a run of the store: a killed lottery goes on where it was, a longer one adds its levels, and two that share
a pre-training share its dense network. A level's mask is kept with the run whose weights it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datadiet.data.dataset import Dataset
from datadiet.flows.arguments import refuse_unknown
from datadiet.flows.environments import warn_if_mixed
from datadiet.flows.execute import OnProgress, kept_engines, run_tasks
from datadiet.flows.plan import Plan, Runs, check_code
from datadiet.flows.score import execute_score
from datadiet.flows.spawning import PathTask, walk
from datadiet.flows.tasks import RunTask, is_done
from datadiet.lottery.plan import LotteryPlan, plan_tickets
from datadiet.lottery.result import Lottery, check_folder
from datadiet.lottery.work import Work, once
from datadiet.machine import expanded
from datadiet.store import Store
from datadiet.store.files import writable_folder
from datadiet.training.recipe import Recipe


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
            "rate" for the learning rate alone), `noise` (of scoring and pre-training only: "redraw:0.1"), `noise_seed`,
            `pretrain_lr`, `balanced` ("paper", "yes", "no"), `score_runs` (a number, or {score: number}; default the
            preset's, for LMC at most two), `scores_at` ({score: step}), `instruments` ("barrier", "coherence",
            "errors"), `recipe`, `preset`, `horizon`, `seed`, `setup`.

    Returns:
        Lottery: accuracies by pre-training, replicate and level, masks, and what the instruments measured.
    """
    refuse_unknown(plan, plan_tickets, where="find_tickets")
    return execute_tickets(plan_tickets(data, model, **plan), out, on_progress)


def execute_tickets(plan: LotteryPlan, out: str | Path | None = None, on_progress: OnProgress | None = None) -> Lottery:
    """Do what a plan says."""
    folder = None if out is None else expanded(out)
    if folder is not None:
        check_folder(folder, _provenance(plan))
        writable_folder(folder)
    store = Store(plan.setup.store)
    check_code(plan.recipe, plan.network, store)
    with kept_engines():
        tables = {name: execute_score(scoring, on_progress=on_progress) for name, scoring in plan.scorings.items()}
        work = Work(plan, tables)
        run_tasks(once(work.pretrainings.values()), plan.noisy, plan.setup, on_progress)
        for level in range(plan.levels + 1):
            run_tasks(once(work.level(level).values()), plan.data, plan.setup, on_progress)
            if level == 0 and "barrier" in plan.instruments:
                run_tasks(once(work.children()), plan.data, plan.setup, on_progress)
                paths = {task.spec.name: (label, task) for label, task in work.paths().values()}
                run_tasks(list(paths.values()), plan.data, plan.setup, on_progress, job=walk, done=PathTask.is_done)
            if level < plan.levels:
                work.masks = {key: work.mask_after(level, key) for key in work.masks}
    outcomes = {variant.label: work.outcome(variant) for variant in plan.variants}
    environments = work.environments()
    warn_if_mixed(environments)
    result = Lottery(
        outcomes,
        dense=plan.dense.total,
        until=plan.until,
        steps_per_epoch=plan.recipe.steps_per_epoch(len(plan.data)),
        dataset=plan.data.name,
        provenance={**_provenance(plan), "numerics": environments},
    )
    if folder is not None:
        result.save(folder)
    return result


def _provenance(plan: LotteryPlan) -> dict[str, Any]:
    """What tells a lottery from another with outcomes of the same names."""
    noise = None if plan.noisy is plan.data else plan.noisy.noise
    return {
        "fingerprint": plan.data.fingerprint, "recipe": plan.recipe.to_json(),
        "pretraining_recipe": plan.pre_recipe.to_json(), "seed": plan.seed, "fraction": plan.fraction,
        "rule": plan.rule, "rule_code": plan.rule_code, "exempt": sorted(plan.exempt), "rewind": plan.rewind,
        "noise": None if noise is None else noise.describe(), "balanced": plan.balanced,
        "weights": plan.network.weights,
        "scores": {
            name: {"step": one.marks[0], "runs": len(one.tasks)} for name, one in sorted(plan.scorings.items())
        },
    }  # fmt: skip


def stages(plan: LotteryPlan) -> list[tuple[str, Plan]]:
    """All that will be trained, by stage, for an estimate.

    Runs whose masks or subsets are not known yet stand under made-up names, so that they count as missing.
    """
    out: list[tuple[str, Plan]] = []
    tables = {}
    for name, scoring in plan.scorings.items():
        wanted = scoring.stages()
        out += [(f"{stage} by {name}" if stage == "scoring" else f"{stage} of scoring runs", p) for stage, p in wanted]
        if len(wanted) == 1 and all(is_done(task, scoring.data) for _, task in scoring.tasks):
            tables[name] = execute_score(scoring)  # reads them

    def stage(
        name: str, data: Dataset, recipe: Recipe, tasks: list[tuple[str, RunTask]],
        paths: Sequence[tuple[str, PathTask]] = (),
    ) -> None:  # fmt: skip
        out.append((name, Runs(data, recipe, plan.network, plan.numerics, plan.setup, tasks, paths)))

    known = plan.scorings.keys() <= tables.keys()
    work = Work(plan, tables if known else None)
    stage("pre-training", plan.noisy, plan.pre_recipe, once(work.pretrainings.values()))
    for level in range(plan.levels + 1):
        stage(f"level {level}", plan.data, plan.recipe, once(work.level(level).values()))
        if level == 0 and "barrier" in plan.instruments:
            stage("children", plan.data, plan.recipe, once(work.children()), list(work.paths().values()))
        if level < plan.levels:
            work.masks = {key: work.mask_after(level, key, made=False) for key in work.masks}
    return out
