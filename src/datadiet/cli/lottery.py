"""`datadiet lottery`: iterative magnitude pruning with rewinding, from several pre-trainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.flows.plan import folder_for
from datadiet.lottery import execute_tickets, plan_tickets, stages
from datadiet.lottery.plan import LEVELS
from datadiet.lottery.pruning import FRACTION
from datadiet.steps import describe


def command(
    dataset: o.DatasetName,
    pretrain: Annotated[
        list[str] | None,
        typer.Option(
            "--pretrain",
            help="What to pre-train on: all, easiest:256, random:256, easiest/forgetting:256@40. Repeatable; "
            "default easy and random examples, and the baselines.",
            metavar="POLICY[/SCORE][:SIZE][@STEPS]",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option("--steps", help="Pre-training steps where --pretrain does not say.", metavar="N|STEP"),
    ] = None,
    baselines: Annotated[
        bool | None,
        typer.Option(
            "--baselines/--no-baselines",
            help="All data for twice the steps, for the steps, and for none; default where no --pretrain is given.",
        ),
    ] = None,
    levels: Annotated[int, typer.Option("--levels", help="How often to prune.")] = LEVELS,
    replicates: Annotated[int, typer.Option("--replicates", help="Lotteries of each pre-training.")] = 4,
    fraction: Annotated[
        float, typer.Option("--fraction", help="The part of the weights left that goes at each level.")
    ] = FRACTION,
    prune: Annotated[str, typer.Option("--prune", help="magnitude, layerwise, random.")] = "magnitude",
    exempt: Annotated[
        list[str] | None, typer.Option("--exempt", help="A layer that is never pruned. Repeatable.", metavar="LAYER")
    ] = None,
    rewind: Annotated[str, typer.Option("--rewind", help="weights, or rate for the learning rate alone.")] = "weights",
    noise: Annotated[
        str | None,
        typer.Option(
            "--noise", help="Label noise, of scoring and pre-training only: redraw:0.1.", metavar="KIND:FRACTION"
        ),
    ] = None,
    noise_seed: o.NoiseSeed = 0,
    pretrain_lr: Annotated[
        float | None, typer.Option("--pretrain-lr", help="The learning rate of pre-training; default the preset's.")
    ] = None,
    balanced: Annotated[
        str,
        typer.Option("--balanced", help="As many examples of each class: yes, no, paper (random and forgetting)."),
    ] = "paper",
    score_runs: Annotated[int | None, typer.Option("--score-runs", help="Scoring runs; default the preset's.")] = None,
    score_at: Annotated[
        list[str] | None,
        typer.Option("--score-at", help="When a score is taken that ranks examples. Repeatable.", metavar="SCORE=STEP"),
    ] = None,
    instrument: Annotated[
        list[str] | None,
        typer.Option("--instrument", help="At the pre-trained point: barrier, coherence, errors. Repeatable."),
    ] = None,
    horizon: Annotated[
        str | None, typer.Option("--horizon", help='The last step of every level: "780it" or "20ep".', metavar="STEP")
    ] = None,
    preset: o.Preset = None,
    recipe: o.RecipeFile = None,
    model: o.Model = None,
    seed: o.Seed = 0,
    validation: o.Validation = None,
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
    """Pre-train on few examples, then prune, rewind and train again, level by level; report test accuracy."""
    with output.progress(quiet=json) as on_progress:
        data = o.dataset_of(dataset, data_dir, label, test, validation=validation, data_option=data_option)
        plan = plan_tickets(
            data,
            model,
            pretrain=pretrain,
            steps=steps,
            baselines=baselines,
            levels=levels,
            replicates=replicates,
            fraction=fraction,
            rule=prune,
            exempt=exempt or (),
            rewind=rewind,
            noise=noise,
            noise_seed=noise_seed,
            pretrain_lr=pretrain_lr,
            balanced=balanced,
            score_runs=score_runs,
            scores_at=o.keyed(score_at, "--score-at"),
            instruments=instrument or (),
            recipe=recipe,
            preset=preset,
            horizon=horizon,
            seed=seed,
            setup=o.setup_of(store, engine, workers, device, threads, precision, compile),
        )
        folder = out or folder_for(plan.noisy, "-lottery")
        if dry_run:
            notes = [("dataset", repr(plan.noisy)), ("model", plan.recipe.model), ("results", str(folder))]
            output.print_plan("datadiet lottery", stages(plan), notes, json)
            return
        result = execute_tickets(plan, folder, on_progress)
    if json:
        output.print_json({**result.to_json(), "out": str(folder)})
        return
    print_lottery(result.to_json(), folder)


def accuracies(content: Mapping[str, Any]) -> Table:
    """Of a lottery as JSON: test accuracies, dense, at the middle and at the deepest level, mean ± std."""
    outcomes, steps = content["outcomes"], content["steps"]
    per_epoch = max(1, round(steps / content["epochs"]))
    table = _table(f"{content['dataset']}: test accuracy after {describe(steps, per_epoch)}, in %")
    deepest = len(outcomes[0]["density"]) - 1
    shown = sorted({0, deepest // 2, deepest})
    left = [f"{100 * outcomes[0]['density'][level]:.1f} % left" if level else "dense" for level in shown]
    for name in (*left, "matches to"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in outcomes:
        cells = [_spread(one["mean"][level], one["std"][level]) for level in shown]
        table.add_row(one["label"], *cells, f"level {one['matching_to_level']}")
    return output.whole_names(table)


def points(content: Mapping[str, Any]) -> Table:
    """Of a lottery as JSON: accuracies where is rewound to, and what instruments found there, mean over replicates."""
    table = _table("The point that is rewound to")
    outcomes = content["outcomes"]
    columns = []
    for name, field, by, form in (
        ("test %", "pretrained_accuracy", 100, ".2f"),
        ("train %", "pretrained_train_accuracy", 100, ".2f"),
        ("loss barrier", "loss_barrier", 1, ".4f"),
        ("error barrier", "error_barrier", 1, ".4f"),
        ("coherence", "coherence", 1, ".4f"),
        ("error", "error_dense", 1, ".4f"),
        ("error, pruned", "error_sparse", 1, ".4f"),
    ):
        if all(field in one for one in outcomes):
            means = [round(by * float(np.mean(one[field])), 4) + 0.0 for one in outcomes]  # never -0.0000
            columns.append((name, [format(mean, form) for mean in means]))
    for name, _ in columns:
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))  # words of headings stay whole
    for one, *cells in zip(outcomes, *(cells for _, cells in columns), strict=True):
        table.add_row(one["label"], *cells)
    return output.whole_names(table)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("pre-trained on")
    return table


def _spread(mean: float, std: float | None) -> str:
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def print_lottery(content: Mapping[str, Any], folder: Path) -> None:
    """A lottery as JSON, and which of its files there are."""
    out = output.console()
    out.print(accuracies(content))
    out.print(points(content))
    replicates = len(content["outcomes"][0]["accuracy"])
    weights = content["prunable_weights"]
    out.print(f"{replicates} replicate{'s' * (replicates > 1)}, {weights:,} weights before pruning. Results:")
    for name in ("lottery.json", "lottery.parquet", "lottery.png", "masks"):
        if (folder / name).exists():
            out.print(f"  {folder / name}")
