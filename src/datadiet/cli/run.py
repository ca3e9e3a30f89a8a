"""`datadiet run`: all of it, on one dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.flows.run import POLICIES, Result, RunPlan, execute_run, plan_run
from datadiet.scores import ScoreTable
from datadiet.steps import counted, describe


def command(
    dataset: Annotated[
        str, typer.Argument(help="A name or a path; digits needs no network.", metavar="DATASET")
    ] = "digits",
    keep: Annotated[
        list[float] | None, typer.Option("--keep", help="A fraction kept, in (0, 1]; default the preset's. Repeatable.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="A policy beside random. Repeatable.", metavar="NAME")
    ] = None,
    balanced: o.Balanced = False,
    by: Annotated[str | None, typer.Option("--by", help="The score that selects; default the first.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Also choose a window on a validation split: 4 runs of each that is tried.")
    ] = False,
    retrain_runs: Annotated[int, typer.Option("--retrain-runs", help="Retraining runs of each subset.")] = 4,
    score: o.Scores = None,
    runs: o.Runs = None,
    at: o.At = None,
    preset: o.Preset = None,
    recipe: o.RecipeFile = None,
    model: o.Model = None,
    steps: o.Steps = None,
    noise: o.Noise = None,
    noise_seed: o.NoiseSeed = 0,
    seed: o.Seed = 0,
    data_dir: o.DataDir = None,
    label: o.Label = None,
    test: o.TestFile = None,
    data_option: o.DataOption = None,
    out: o.Out = None,
    store: o.Store = o.STORE,
    engine: o.Engine = "auto",
    workers: o.Workers = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    precision: o.Precision = "auto",
    compile: o.Compile = "auto",
    json: o.Json = False,
    dry_run: o.DryRun = False,
) -> None:
    """Score, select, retrain, compare: the whole flow, with figures."""
    with output.progress(quiet=json) as on_progress:
        data = o.dataset_of(dataset, data_dir, label, test, noise, noise_seed, data_option=data_option)
        plan = plan_run(
            data,
            by=by,
            keeps=keep,
            policies=policy or POLICIES,
            balanced=balanced,
            retrain_runs=retrain_runs,
            tune=tune,
            out=out,
            preset=preset,
            model=model,
            scores=score,
            runs=runs,
            at=at,
            recipe=recipe,
            steps=steps,
            seed=seed,
            setup=o.setup_of(store, engine, workers, device, threads, precision, compile),
        )
        if dry_run:
            notes = [("dataset", repr(data)), ("model", plan.scoring.recipe.model), ("results", str(plan.out))]
            output.print_plan("datadiet run", plan.stages(), notes, json)
            return
        result = execute_run(plan, on_progress)
    if json:
        output.print_json(result.to_json())
    else:
        _print(result, plan)


def _reliability(table: ScoreTable, by: str, at: int) -> str:
    """How far the ranking would be the same with other seeds, or why that is not known."""
    value = table.reliability(by, at)
    if len(table.shards[by, at]) < 2:
        return f"One run: no split-half reliability of {by} at step {at}"
    if value != value:
        why = "the mean of half of the runs is undefined, or the same for all examples"
        return f"Split-half reliability of {by} at step {at} cannot be told: {why}"
    return f"Split-half reliability of {by} at step {at}: {value:.3f}"


def _print(result: Result, plan: RunPlan) -> None:
    out = output.console()
    table = result.table
    out.print(f"{result.data!r}")
    per = plan.scoring.recipe.steps_per_epoch(len(result.data))
    steps = ", ".join(describe(step, per) for step in plan.scoring.marks)
    out.print(f"{plan.scoring.recipe.model}, {counted(table.runs, 'scoring run')}, scores after {steps}")
    out.print(_reliability(table, plan.by, plan.at))
    if result.comparison is not None:
        out.print(output.comparison_table(result.comparison))
    if result.tuned is not None:
        tuned = result.tuned
        out.print(
            f"Tuned on {tuned.validation_examples} validation examples: "
            f"keep {tuned.keep:g} from offset {tuned.offset:g}"
        )
        if tuned.test is not None:
            out.print(output.comparison_table(tuned.test))
    for name, value in result.detection().items():
        out.print(f"AUROC of {name} for the {int(result.data.corrupted.sum())} corrupted labels: {value:.4f}")
    out.print(f"Results in {result.out}:")
    for file in result.files:
        if file.suffix != ".svg":
            out.print(f"  {file}")
