"""`datadiet lottery`: iterative magnitude pruning with rewinding, from several pre-trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.lottery import Lottery, execute_tickets, plan_tickets, stages
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
        typer.Option("--noise", help="Label noise, during pre-training only: redraw:0.1.", metavar="KIND:FRACTION"),
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
        folder = out or o.folder_for(plan.noisy, "-lottery")
        if dry_run:
            notes = [("dataset", repr(plan.noisy)), ("model", plan.recipe.model), ("results", str(folder))]
            output.print_plan("datadiet lottery", stages(plan), notes, json)
            return
        result = execute_tickets(plan, folder, on_progress)
    if json:
        output.print_json({**result.to_json(), "out": str(folder)})
        return
    _print(result, folder)


def accuracies(result: Lottery) -> Table:
    """Test accuracies by pre-training: of the dense network, at the middle and at the deepest level, mean ± std."""
    outcomes = list(result.outcomes.values())
    table = _table(f"{result.dataset}: test accuracy after {describe(result.until, result.steps_per_epoch)}, in %")
    shown = sorted({0, outcomes[0].levels // 2, outcomes[0].levels})
    left = [f"{100 * outcomes[0].density[level]:.1f} % left" if level else "dense" for level in shown]
    for name in (*left, "matches to"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in outcomes:
        cells = [_spread(one.mean()[level], one.std()[level]) for level in shown]
        table.add_row(one.label, *cells, f"level {one.matching()}")
    return table


def points(result: Lottery) -> Table:
    """The points that are rewound to: accuracies, and what the instruments found there, mean over replicates."""
    table = _table("The point that is rewound to")
    columns = [
        ("test %", [f"{100 * one.test.mean():.2f}" for one in result.outcomes.values()]),
        ("train %", [f"{100 * one.train.mean():.2f}" for one in result.outcomes.values()]),
    ]
    for name, field in (
        ("loss barrier", "barriers"),
        ("error barrier", "error_barriers"),
        ("coherence", "cosines"),
        ("error", "errors_dense"),
        ("error, pruned", "errors_sparse"),
    ):
        found = [getattr(one, field) for one in result.outcomes.values()]
        if all(values is not None for values in found):
            columns.append((name, [f"{round(float(values.mean()), 4) + 0.0:.4f}" for values in found]))  # never -0.0000
    for name, _ in columns:
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))  # words of headings stay whole
    for label, *cells in zip(result.outcomes, *(cells for _, cells in columns), strict=True):
        table.add_row(label, *cells)
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("pre-trained on")
    return table


def _spread(mean: float, std: float) -> str:
    return f"{100 * mean:.2f}" + ("" if np.isnan(std) else f" ± {100 * std:.2f}")


def _print(result: Lottery, folder: Path) -> None:
    out = output.console()
    out.print(accuracies(result))
    out.print(points(result))
    replicates = len(next(iter(result.outcomes.values())).accuracy)
    out.print(f"{replicates} replicate{'s' * (replicates > 1)}, {result.dense:,} weights before pruning. Results:")
    for name in ("lottery.json", "lottery.parquet", "lottery.png", "masks"):
        if (folder / name).exists():
            out.print(f"  {folder / name}")
