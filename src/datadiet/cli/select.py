"""`datadiet select`: scores to a subset."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from datadiet.cli import options as o
from datadiet.cli import output
from datadiet.errors import DatadietError
from datadiet.flows.columns import SUFFIXES
from datadiet.flows.compare import Comparison, Row
from datadiet.flows.reload import reload
from datadiet.flows.score_folder import own_record
from datadiet.flows.select import check_target, save_subset, select
from datadiet.flows.tune import Tuned, execute_tune, plan_tune_of
from datadiet.machine import expanded
from datadiet.scores import load_table
from datadiet.selection import Subset
from datadiet.selection.counts import fraction
from datadiet.store.files import writable_folder, write_json

RESERVED = (
    "at", "balanced", "by", "class_names", "difficulty", "fingerprint", "keep", "labels", "policy", "run", "scores",
    "seed", "warn_below",
)  # fmt: skip


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder that `datadiet score` wrote, or values as .npy, .safetensors, .parquet.", metavar="SCORES"
        ),
    ],
    by: Annotated[str | None, typer.Option("--by", help="The score to rank by.")] = None,
    keep: Annotated[
        list[float] | None,
        typer.Option("--keep", help="The part kept, in (0, 1]; default 0.5, repeatable with --tune."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy", help="hardest, easiest, window, random, stratified, quota; default hardest, with --tune window."
        ),
    ] = None,
    offset: Annotated[
        list[float] | None,
        typer.Option("--offset", help="Of a window: the lowest part left out; with --tune repeatable."),
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="The step; default the last.", metavar="STEP")] = None,
    balanced: o.Balanced = False,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Another option of the policy. Repeatable.", metavar="NAME=VALUE"),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose the window on a validation split, and test it once.")
    ] = False,
    validation: Annotated[
        float | None, typer.Option("--validation", help="With --tune: the part set aside; default 0.2.")
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option("--runs", help="With --tune: training runs of each point, and of the test; default 4."),
    ] = None,
    seed: o.Seed = 0,
    data_dir: o.DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="The subset's file: .safetensors, or plain rows as .npy or .txt; default in SCORES."
        ),
    ] = None,
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
    """Choose a subset by scores; with --tune, choose a window on a validation split."""
    keeps = keep or [0.5]
    options = o.keyed(option, "--option", reserved=RESERVED)
    if not tune and (len(keeps) > 1 or len(offset or []) > 1):
        raise DatadietError("several values of --keep or --offset", fix="give one, or say --tune to choose among them")
    training = {
        "--dry-run": dry_run, "--validation": validation is not None, "--runs": runs is not None,
        "--engine": engine != "auto", "--workers": workers is not None, "--device": device != "auto",
        "--threads": threads is not None, "--precision": precision != "auto", "--compile": compile != "auto",
    }  # fmt: skip
    for flag, given in training.items():
        if given and not tune:
            raise DatadietError("nothing is trained without --tune", where=flag, fix="leave it out, or say --tune")
    policy = policy or ("window" if tune else "hardest")
    if tune and policy != "window":
        raise DatadietError(f"--tune with policy {policy}", fix="only a window is tuned: leave --policy out")
    if offset and not tune:
        options["offset"] = offset[0]
    elif policy == "window" and not tune and "offset" not in options:
        raise DatadietError("a window without an offset", where="--offset", fix="say --offset 0.4, or --tune")
    tuned: Tuned | None = None
    with output.progress(quiet=json) as on_progress:
        plain = folder.suffix.lower() in SUFFIXES
        if plain and tune:
            raise DatadietError("plain values cannot be tuned", where=folder, fix="tune on a folder of datadiet score")
        table = None if plain else load_table(folder)
        if tune and table is not None:
            if by is None:
                raise DatadietError("a window needs a score", where="--by", fix=f"one of {', '.join(table.names)}")
            target = folder / f"tuned-{by}.safetensors" if out is None else expanded(out)
            check_target(target)
            writable_folder(target.parent)
            _check_beside(target.with_suffix(".json"))
            data = reload(table.provenance, where=folder, data_dir=None if data_dir is None else str(data_dir))
            if validation is not None and data.validation is not None:
                raise DatadietError(
                    "the scores leave a validation split out already", where="--validation", fix="leave it out"
                )
            count = 4 if runs is None else runs
            plan = plan_tune_of(
                data,
                table,
                by,
                at,
                keeps=keeps,
                offsets=offset,
                balanced=balanced,
                validation=0.2 if validation is None else validation,
                runs=count,
                test_runs=count,
                seed=seed,
                setup=o.setup_of(store, engine, workers, device, threads, precision, compile),
            )
            if dry_run:
                model = plan.scoring.recipe.model
                notes = [("dataset", repr(data)), ("model", model), ("results", str(target))]
                output.print_plan("datadiet select --tune", plan.stages(table), notes, json)
                return
            tuned = execute_tune(plan, table, on_progress)
            subset = tuned.subset
            write_json(target.with_suffix(".json"), tuned.to_json())
        else:
            subset = select(
                folder if table is None else table, by, keeps[0], policy, at=at, balanced=balanced, seed=seed, **options
            )
            # What was asked for is in the name, so that another subset does not take this one's place.
            parts = [folder.stem if plain else "", by or "", "balanced" if balanced else "", policy]
            parts += [_percentage(keeps[0], "keep")]
            parts += [f"from-{_percentage(options['offset'], 'offset')}"] if "offset" in options else []
            parts += [f"{key}-{value}" for key, value in options.items() if key != "offset"]
            parts += [f"at-{at}"] if at is not None else []
            parts += [f"seed-{seed}"] if seed else []
            name = "-".join(part.replace("/", "_") for part in parts if part) + ".safetensors"
            target = (folder.parent if plain else folder) / name if out is None else expanded(out)
            check_target(target, folder if plain else None)
            writable_folder(target.parent)
        save_subset(subset, target)
    if json:
        output.print_json(
            {
                "what": "subset",
                "file": str(target),
                **describe(subset),
                "tuned": None if tuned is None else tuned.to_json(),
            }
        )
        return
    if tuned is not None:
        print_tuned(tuned.to_json())
    output.print_subset(subset)
    console = output.console()
    console.print(f"Subset in {target}")
    if tuned is None and table is not None:
        words = shlex.join([*o.again(table.provenance, store), "--subset", str(target)])
        console.print(f"Next: datadiet compare {words}")
        if target.suffix.lower() != ".safetensors" and table.rows is not None:
            console.print("Rows count the training set; the source's are in column `row` of scores.parquet.")
        if target.suffix.lower() != ".safetensors":
            console.print("Plain rows carry no recipe: give compare the scores' --preset, --model and --steps too.")


def describe(subset: Subset) -> dict[str, object]:
    balance = None if subset.balance is None else {key: list(value) for key, value in subset.balance.items()}
    return {
        "kept": len(subset),
        "of": subset.size,
        "fingerprint": subset.fingerprint,
        "policy": {key: value for key, value in subset.policy.items() if key not in ("recipe", "source")},
        "balance": balance,
        "warnings": list(subset.warnings),
    }


def print_tuned(content: Mapping[str, Any]) -> None:
    """A tuned window as JSON: the grid, the choice, and its test."""
    from rich.table import Table

    view = Table(
        title=f"Windows on {content['validation_examples']} validation examples",
        title_justify="left",
        title_style="bold",
    )
    for name in ("keep", "offset", "mean %", "16th–84th percentile", "runs"):
        view.add_column(name, justify="right")
    for point in content["grid"]:
        keep, offset = point["keep"], point["offset"]
        row = Row(point["name"], keep, point["examples"], tuple(point["accuracies"]))
        chosen = (keep, offset) == (content["keep"], content["offset"])
        view.add_row(
            f"{keep:g}",
            f"{offset:g}",
            f"{100 * row.mean:.2f}",
            f"{100 * row.low:.2f} – {100 * row.high:.2f}",
            str(row.runs),
            style="bold" if chosen else None,
        )
    out = output.console()
    out.print(view)
    by = f" by {content['by']}" if content.get("by") else ""
    out.print(f"Chosen{by}: keep {content['keep']:g} from offset {content['offset']:g}")
    if content["test"] is not None:
        out.print(output.comparison_table(Comparison.from_json(content["test"])))


def _check_beside(path: Path) -> None:
    """Of the grid's file, beside the subset's: nothing of somebody else's is written over."""
    if path.is_dir():
        raise DatadietError("is a folder where the tuning's results go", where=path, fix="give another --out")
    try:
        own_record(path, "tuning")
    except DatadietError as error:
        raise DatadietError(
            f"{error.what}, and the tuning's results go there", where=path, fix="give another --out, or move it away"
        ) from None


def _percentage(part: Any, name: str) -> str:
    """In as many digits as it has, for a file's name."""
    return f"{100 * float(fraction(part, name)):.10g}"
