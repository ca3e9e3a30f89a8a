"""`datadiet train`: train one recipe on all data or a subset, and keep the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.flows.plan import folder_for
from datadiet.flows.train import execute_train, plan_train


def command(
    dataset: o.DatasetName,
    subset: Annotated[str | None, typer.Option("--subset", help="Train on these rows only.", metavar="FILE")] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="Train only the weights left in this mask of `datadiet lottery`.", metavar="FILE"),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", help="Independent runs.")] = 1,
    preset: o.Preset = None,
    recipe: o.RecipeFile = None,
    model: o.Model = None,
    steps: o.Steps = None,
    noise: o.Noise = None,
    noise_seed: o.NoiseSeed = 0,
    validation: o.Validation = None,
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
    """Train, report test accuracy, and keep the final weights as safetensors."""
    with output.progress(quiet=json) as on_progress:
        data = o.dataset_of(dataset, data_dir, label, test, noise, noise_seed, validation, data_option=data_option)
        plan = plan_train(
            data,
            subset,
            runs=runs,
            mask=mask,
            recipe=recipe,
            preset=preset,
            model=model,
            steps=steps,
            seed=seed,
            setup=o.setup_of(store, engine, workers, device, threads, precision, compile),
        )
        folder = out or folder_for(data, "-train")
        if dry_run:
            notes = [("dataset", repr(data)), ("model", plan.recipe.model), ("results", str(folder))]
            output.print_plan("datadiet train", [("training", plan)], notes, json)
            return
        result, files = execute_train(plan, folder, on_progress)
    if json:
        output.print_json({**result.to_json(), "weights": [str(file) for file in files]})
        return
    out_console = output.console()
    out_console.print(output.comparison_table(result))
    for file in files:
        out_console.print(f"Weights in {file}")
