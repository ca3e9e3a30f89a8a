"""`datadiet study`: the papers' figures and claims, each by one command."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
import typer
from rich.table import Table

from datadiet import studies
from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.errors import DatadietError
from datadiet.flows.arguments import plain_array
from datadiet.studies.verdict import Verdict

Name = Annotated[str, typer.Argument(help="A study; `list` names them, `all` runs every one.", metavar="NAME")]


def command(
    name: Name = "list",
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="A name or a path; default the scale's.", metavar="DATASET")
    ] = None,
    scale: Annotated[str, typer.Option("--scale", help="quick (minutes), small (hours), paper (the protocol).")] = (
        "quick"
    ),
    score: o.Scores = None,
    noise: o.Noise = None,
    human: Annotated[
        str | None,
        typer.Option(
            "--human-labels",
            help="Labels by other annotators for `noise`: .npy, .txt, or .csv:COLUMN, .parquet:COLUMN.",
            metavar="FILE[:COLUMN]",
        ),
    ] = None,
    memorization: Annotated[
        Path | None,
        typer.Option(
            "--memorization", help="Given values for `memorization`: .npz with tr_idx and mem.", metavar="FILE"
        ),
    ] = None,
    runs: Annotated[int | None, typer.Option("--runs", min=1, help="Retraining runs; default the scale's.")] = None,
    score_runs: Annotated[
        int | None, typer.Option("--score-runs", min=1, help="Scoring runs; default the scale's.")
    ] = None,
    preset: o.Preset = None,
    recipe: o.RecipeFile = None,
    model: o.Model = None,
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
    """Measure a claim or figure of the papers, and judge it: figures, numbers, verdicts."""
    if name == "list":
        _list(json)
        return
    names = studies.STUDIES.names() if name == "all" else [name]
    size = studies.SCALES.get(scale, where="--scale")
    failed: dict[str, DatadietError] = {}
    page: list[Path] = []
    with output.progress(quiet=json) as on_progress:
        for one in names:
            studies.STUDIES.get(one, where="study")
        data = o.dataset_of(dataset or size.data, data_dir, label, test, data_option=data_option)
        options: dict[str, Any] = {
            "data": data,
            "scale": scale,
            "model": model,
            "preset": preset,
            "recipe": recipe,
            "scores": tuple(score or ()),
            "noise": noise,
            "human": None if human is None else _labels(human),
            "memorization": None if memorization is None else _values(memorization),
            "runs": runs,
            "score_runs": score_runs,
            "seed": seed,
            "setup": o.setup_of(store, engine, workers, device, threads, precision, compile),
            "out": out or Path("out"),
        }
        if name != "all":
            plan = studies.plan(name, **options)
            if dry_run or (scale != "quick" and not json):
                _print_plan(f"datadiet study {name}", [plan], dry_run and json)
            if dry_run:
                return
            results = [studies.execute(plan, on_progress)]
        else:
            plans = studies.plan_all(names, **options)
            able = [one for one in plans.values() if isinstance(one, studies.StudyPlan)]
            if dry_run or (scale != "quick" and not json):
                _print_plan("datadiet study all", able, dry_run and json, _errors(plans))
            if dry_run:
                return
            results, failed, page = studies.run_all(plans=plans, out=options["out"], on_progress=on_progress)
    if json:
        content = {"studies": [one.to_json() for one in results], "failed": {k: str(v) for k, v in failed.items()}}
        output.print_json(results[0].to_json() if name != "all" else {"what": "studies", **content})
    else:
        _print(results, page)
    if failed:
        first, error = next(iter(failed.items()))
        others = f" ({', '.join(failed)} failed)" if len(failed) > 1 else ""
        raise DatadietError(f"{error.what}{others}", where=f"study {first}", fix=error.fix)


def _list(json: bool) -> None:
    entries = studies.STUDIES.items()
    if json:
        found = [{"name": n, "title": s.title, "answers": s.answers, "claims": list(s.claims)} for n, s in entries]
        output.print_json({"what": "list of studies", "studies": found})
        return
    table = Table(title="Studies (datadiet study NAME)", title_justify="left", title_style="bold")
    for heading in ("name", "asks", "answers", "claims"):
        table.add_column(heading)
    for name, study in entries:
        table.add_row(name, study.title, study.answers, ", ".join(map(str, study.claims)))
    output.console().print(output.whole_names(table))


def verdicts_table(title: str, verdicts: Iterable[Verdict]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("#", justify="right")
    table.add_column("claim", overflow="fold", max_width=62)
    table.add_column("verdict")
    table.add_column("measured", overflow="fold", max_width=58)
    for one in verdicts:
        note = f" ({one.note})" if one.note else ""
        table.add_row(str(one.number), one.claim, one.outcome, one.measured() + note)
    return table


def _print(results: list[studies.StudyResult], page: list[Path]) -> None:
    out = output.console()
    for one in results:
        title = f"{one.study.name} ({one.study.answers}), {output.duration(one.seconds)}"
        out.print(verdicts_table(title, one.findings.verdicts))
    if len(results) == 1:
        out.print(f"Results in {results[0].folder}:")
        for file in results[0].files:
            if file.suffix != ".svg":
                out.print(f"  {file}")
    for file in page:
        out.print(f"Verdicts in {file}")


def _print_plan(
    title: str, plans: list[studies.StudyPlan], json: bool, errors: dict[str, DatadietError] | None = None
) -> None:
    """What will be trained; runs that several studies share are counted once."""
    stages = [stage for one in plans for stage in one.stages]
    networks = dict.fromkeys(of.recipe.model for _, of in stages)
    notes = [("dataset", repr(plans[0].job.data)), ("model", ", ".join(networks))] if plans else []
    notes += [("results", str(one.folder)) for one in plans]
    notes += [("left out", f"{name}: {error}") for name, error in (errors or {}).items()]
    output.print_plan(title, stages, notes, json)


def _errors(plans: dict[str, studies.StudyPlan | DatadietError]) -> dict[str, DatadietError]:
    return {name: one for name, one in plans.items() if isinstance(one, DatadietError)}


def _labels(given: str) -> np.ndarray:
    """Class numbers from a file, one a training row."""
    file, _, column = given.rpartition(":") if not Path(given).exists() else (given, "", "")
    path = Path(file or given)
    kind = path.suffix.lower()
    try:
        if kind == ".npy":
            return plain_array(path)
        if kind == ".txt":
            return np.array([int(line) for line in path.read_text().split()], np.int64)
        if kind in (".csv", ".parquet") and column:
            import pyarrow.csv
            import pyarrow.parquet

            with pyarrow.OSFile(os.fsencode(path)) as file:  # by its bytes: Arrow takes no path that is not UTF-8
                table = pyarrow.csv.read_csv(file) if kind == ".csv" else pyarrow.parquet.read_table(file)
            if column not in table.column_names:
                raise DatadietError(f"no column {column!r}", where=path, fix=f"one of {', '.join(table.column_names)}")
            return np.asarray(table[column].to_numpy())
    except (OSError, ValueError) as error:
        raise DatadietError(f"cannot be read as labels: {error}", where=path) from None
    raise DatadietError("cannot be read as labels", where=given, fix="FILE.npy, FILE.txt, FILE.csv:COLUMN are read")


def _values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows and memorisation values, as Feldman and Zhang published theirs."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"tr_idx", "mem"} <= set(file.files):
                raise DatadietError("has no arrays tr_idx and mem", where=path, fix="an .npz with both is needed")
            return file["tr_idx"], file["mem"]
    except (EOFError, BadZipFile, TypeError, AttributeError):
        raise DatadietError("is no archive of arrays", where=path, fix="an .npz with both is needed") from None
    except (OSError, ValueError) as error:
        raise DatadietError(f"cannot be read: {error}", where=path) from None
