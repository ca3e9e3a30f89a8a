"""Flags that mean the same everywhere, and what they stand for."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import datadiet.data as data_room
from datadiet.data import noise as label_noise
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.flows.plan import DEFAULT_STORE, Setup
from datadiet.machine import expanded

DatasetName = Annotated[str, typer.Argument(help="A name (see `datadiet datasets`) or a path.", metavar="DATASET")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where named datasets are looked for before the cache.")
]
Label = Annotated[str | None, typer.Option("--label", help="The label column of a table.")]
TestFile = Annotated[
    Path | None,
    typer.Option("--test", help="What to test on, of the same kind as DATASET, where that has no test split."),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data-option",
        help="An option of the data's reader, such as size=32, id=name, coarse=true. Repeatable.",
        metavar="NAME=VALUE",
    ),
]
Noise = Annotated[
    str | None,
    typer.Option("--noise", help="Label noise: permute:0.1 or redraw:0.5.", metavar="KIND:FRACTION"),
]
NoiseSeed = Annotated[int, typer.Option("--noise-seed", min=0, help="The noise's own seed.")]
Validation = Annotated[
    float | None,
    typer.Option("--validation", help="Cut this part of the training data off for validation, before scoring."),
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", help="A recipe by name (see `datadiet models`); default by the data and --model."),
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="JSON or TOML with recipe fields, over the preset's.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="A network by name, or package.module:function, or file.py:function."),
]
Steps = Annotated[
    str | None, typer.Option("--steps", help='The horizon of a full run: "780it" or "20ep".', metavar="STEP")
]
At = Annotated[
    list[str] | None,
    typer.Option("--at", help='A step at which scores are taken: "0", "780it", "4ep". Repeatable.', metavar="STEP"),
]
Scores = Annotated[list[str] | None, typer.Option("--score", help="A score to take. Repeatable.", metavar="NAME")]
Runs = Annotated[int | None, typer.Option("--runs", help="Independent runs that are averaged.")]
Balanced = Annotated[bool, typer.Option("--balanced", help="The same number from each class.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of all random streams of the runs.")]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="The folder for results; default in ./out.", parser=expanded, metavar="PATH"),
]
Store = Annotated[
    Path,
    typer.Option(
        "--store",
        help="The folder of runs, shared by all commands.",
        envvar="DATADIET_STORE",
        parser=expanded,
        metavar="PATH",
    ),
]
Engine = Annotated[str, typer.Option("--engine", help="auto, inline, processes.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Jobs side by side; default what the cores carry.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads of a job.")]
Precision = Annotated[str, typer.Option("--precision", help="Of training: auto, float32, bfloat16.")]
Compile = Annotated[str, typer.Option("--compile", help="torch.compile: auto, on, off.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan: jobs, steps, disk, time. Train nothing.")]

STORE = Path(DEFAULT_STORE)


def setup_of(
    store: Path,
    engine: str,
    workers: int | None,
    device: str,
    threads: int | None,
    precision: str,
    compile: str,
) -> Setup:
    return Setup(store, engine, workers, device, threads, precision, compile)


def dataset_of(
    name: str,
    data_dir: Path | None = None,
    label: str | None = None,
    test: Path | None = None,
    noise: str | None = None,
    noise_seed: int = 0,
    validation: float | None = None,
    data_option: list[str] | None = None,
) -> Dataset:
    """The dataset that the flags describe."""
    options = keyed(data_option, "--data-option", reserved=("source", "data_dir", "label", "test"))
    if label is not None:
        options["label"] = label
    if test is not None:
        options["test"] = str(test)
    data = data_room.load(name, data_dir=None if data_dir is None else str(data_dir), **options)
    if noise is not None:
        kind, fraction = label_noise.parse(noise)
        data = data.with_noise(kind, fraction, noise_seed)
    if validation is not None:
        data = data.with_validation(validation)
    return data


def again(provenance: Mapping[str, Any], store: Path) -> list[str]:
    """The words of the command line that load a manifest's dataset again, as it was treated."""
    source = dict(provenance.get("source") or {})
    words = [str(source.pop("source", "DATASET"))]
    for flag in ("data_dir", "label", "test"):
        if source.get(flag) is not None:
            words += [f"--{flag.replace('_', '-')}", str(source.pop(flag))]
    for name, value in source.items():
        if value is not None:
            words += ["--data-option", f"{name}={json.dumps(value)}"]
    noise = provenance.get("noise")
    if noise:
        words += ["--noise", f"{noise['kind']}:{noise['fraction']}"]
        if noise["seed"]:
            words += ["--noise-seed", str(noise["seed"])]
    if provenance.get("validation"):
        words += ["--validation", str(provenance["validation"][0])]
    if store != STORE:
        words += ["--store", str(store)]
    return words


def keyed(pairs: list[str] | None, flag: str, reserved: Container[str] = ()) -> dict[str, Any]:
    """`--option name=value` pairs; values are JSON where they parse as it.

    Args:
        reserved: names that have a flag of their own.
    """
    out: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise DatadietError(f"{pair!r} is no option", where=flag, fix="write name=value")
        if name in out:
            raise DatadietError(
                f"{name} is given twice", where=flag, fix=f"""give it once; a list is '{name}=["a", "b"]'"""
            )
        if name in reserved:
            raise DatadietError(f"{name} is not given so", where=flag, fix="it has an argument or a flag of its own")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = {"True": True, "False": False}.get(value, value)
    return out
