"""`datadiet compare`: retrain on subsets, beside full data and random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.errors import DatadietError
from datadiet.flows.compare import BASELINES, execute_compare, plan_compare
from datadiet.flows.plan import folder_for


def command(
    dataset: o.DatasetName,
    subset: Annotated[
        list[str] | None,
        typer.Option("--subset", help="A subset file, or name=file. Repeatable.", metavar="[NAME=]FILE"),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", help="Retraining runs of each.")] = 4,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", help=f"{', '.join(BASELINES)} or none; default full and random. Repeatable."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="test, or validation (with --validation).")] = "test",
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
    """Retrain on each subset with fresh seeds and as many steps as on full data; report test accuracy."""
    with output.progress(quiet=json) as on_progress:
        data = o.dataset_of(dataset, data_dir, label, test, noise, noise_seed, validation, data_option=data_option)
        plan = plan_compare(
            data,
            named_files(subset),
            runs=runs,
            recipe=recipe,
            preset=preset,
            model=model,
            steps=steps,
            seed=seed,
            baselines=baselines_of(baseline),
            split=split,
            setup=o.setup_of(store, engine, workers, device, threads, precision, compile),
        )
        folder = out or folder_for(data, "-compare")
        if dry_run:
            notes = [("dataset", repr(data)), ("model", plan.recipe.model), ("results", str(folder))]
            output.print_plan("datadiet compare", [("retraining", plan)], notes, json)
            return
        result = execute_compare(plan, folder, on_progress)
    if json:
        output.print_json(result.to_json())
        return
    out_console = output.console()
    out_console.print(output.comparison_table(result))
    out_console.print(f"Results in {folder / 'comparison.json'}")


def named_files(given: list[str] | None) -> dict[str, str]:
    """`name=file` or `file`, which is called by its stem; two of one name are an error."""
    out: dict[str, str] = {}
    for text in given or []:
        name, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            name, file = Path(text).stem, text
        if name in out:
            raise DatadietError(f"two subsets are called {name!r}", where="--subset", fix="name them: --subset a=FILE")
        out[name] = file
    return out


def baselines_of(given: list[str] | None) -> list[str]:
    legal = (*BASELINES, "none")
    for name in given or []:
        if name not in legal:
            raise DatadietError(f"baseline {name!r}", where="--baseline", fix=f"one of {', '.join(legal)}")
    return [name for name in given or ["full", "random"] if name != "none"]
