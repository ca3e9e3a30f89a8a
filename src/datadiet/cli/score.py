"""`datadiet score`: scores of every training example."""

from __future__ import annotations

from pathlib import Path

from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.flows.plan import folder_for
from datadiet.flows.sanity import Sanity
from datadiet.flows.score import ScorePlan, execute_score, plan_score
from datadiet.scores import SCORES, ScoreTable
from datadiet.steps import counted, describe
from datadiet.store.files import read_json


def command(
    dataset: o.DatasetName,
    score: o.Scores = None,
    runs: o.Runs = None,
    at: o.At = None,
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
    """Train a few short runs and score every training example."""
    with output.progress(quiet=json) as on_progress:
        data = o.dataset_of(dataset, data_dir, label, test, noise, noise_seed, validation, data_option=data_option)
        plan = plan_score(
            data,
            model=model,
            scores=score,
            runs=runs,
            at=at,
            recipe=recipe,
            preset=preset,
            steps=steps,
            seed=seed,
            setup=o.setup_of(store, engine, workers, device, threads, precision, compile),
        )
        folder = out or folder_for(data, "-scores")
        if dry_run:
            notes = [("dataset", repr(data)), ("model", plan.recipe.model), ("results", str(folder))]
            output.print_plan("datadiet score", plan.stages(), notes, json)
            return
        table = execute_score(plan, folder, on_progress)
    if json:
        output.print_json(
            {
                "what": "scores",
                "out": str(folder),
                "table": str(folder / "scores.parquet"),
                "summary": summary(table),
            }
        )
        return
    _print(plan, table, folder)


def summary(table: ScoreTable) -> list[dict[str, object]]:
    """For each score and step: mean over examples, split-half reliability, and AUROC where labels are corrupted."""
    rows: list[dict[str, object]] = []
    for name, step in sorted(table.shards, key=lambda key: (table.names.index(key[0]), key[1])):
        values = table.mean(name, step)
        row: dict[str, object] = {"score": name, "step": step, "runs": len(table.shards[(name, step)])}
        finite = values[values == values]
        row["mean"] = float(finite.mean()) if len(finite) else None
        row["undefined"] = len(values) - len(finite)
        if name in SCORES:
            row["reliability"] = _or_none(table.reliability(name, step))
            if table.corrupted is not None and table.corrupted.any():
                row["auroc"] = _or_none(table.auroc(name, step))
        rows.append(row)
    return rows


def _or_none(value: float) -> float | None:
    """NaN is not JSON."""
    return None if value != value else value


def print_summary(table: ScoreTable) -> None:
    from rich.table import Table

    noisy = table.corrupted is not None and bool(table.corrupted.any())
    view = Table(title=f"{len(table):,} examples", title_justify="left", title_style="bold")
    for name in ("score", "step", "epochs", "runs", "mean", "split-half reliability"):
        view.add_column(name, justify="left" if name == "score" else "right")
    if noisy:
        view.add_column("AUROC for corrupted labels", justify="right")
    for row in summary(table):
        step = int(str(row["step"]))
        cells = [str(row["score"]), f"{step:,}", f"{step / table.steps_per_epoch:g}", str(row["runs"])]
        cells.append("" if row["mean"] is None else f"{row['mean']:.4g}")
        cells.append("" if row.get("reliability") is None else f"{row['reliability']:.3f}")
        if noisy:
            cells.append("" if row.get("auroc") is None else f"{row['auroc']:.4f}")
        view.add_row(*cells)
    output.console().print(output.whole_names(view))


def _print(plan: ScorePlan, table: ScoreTable, folder: Path) -> None:
    from rich.text import Text

    out = output.console()
    per, horizon = plan.recipe.steps_per_epoch(len(plan.data)), plan.recipe.horizon(len(plan.data))
    out.print(f"{plan.data!r}")
    out.print(
        f"{plan.recipe.model}, {counted(plan.runs, 'run')}, stopped after {describe(max(plan.marks), per)}"
        f" of {describe(horizon, per)}"
    )
    print_summary(table)
    for line in Sanity.from_json(read_json(folder / "sanity.json")).warnings:
        out.print(Text(f"warning: {line}"))
    out.print(f"Scores in {folder / 'scores.parquet'}")
    out.print(f"Next: datadiet select {folder} --by {plan.scores[0]} --keep 0.5 -o half.safetensors")
