"""`load`: one door for every kind of source; it finds the reader and notes how to load the same again."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

from datadiet.data import (
    arrays,
    cifar,
    cinic,
    digits,
    folder,
    huggingface,
    mnist,
    npz,
    table_files,
    tabular,
    torch_dataset,
)
from datadiet.data.checks import real
from datadiet.data.dataset import Dataset
from datadiet.data.fetch import given_folder
from datadiet.errors import DatadietError, unknown
from datadiet.machine import expanded
from datadiet.registry import Registry

Reader = Callable[..., Dataset]

DATASETS: Registry[Reader] = Registry("dataset")
DATASETS.register("digits", digits.load)
DATASETS.register("cifar10", cifar.load_cifar10)
DATASETS.register("cifar100", cifar.load_cifar100)
DATASETS.register("cinic10", cinic.load)
DATASETS.register("mnist", mnist.load_mnist)
DATASETS.register("fashion-mnist", mnist.load_fashion_mnist)

MEMORY = {"source": "memory"}
TEST_FRACTION = 0.2
PICKLES = (".pkl", ".pickle", ".pt", ".pth")


def load(
    source: Any,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    name: str | None = None,
    test: Any = None,
    label: str | None = None,
    test_fraction: float | None = TEST_FRACTION,
    **options: Any,
) -> Dataset:
    """A Dataset from a name, a path, arrays, or a torch or Hugging Face dataset.

    Args:
        source: a registered name ("digits", "cifar10", …: `DATASETS`); a path: a CIFAR or CINIC-10 folder or
            tar.gz, a folder of idx files, a folder of images by class, .npz, .parquet, .csv, a folder written
            by save_to_disk; `(x, y)` or `((x, y), (x_test, y_test))`; a map-style torch Dataset; a Hugging
            Face Dataset or DatasetDict; "hf:NAME"; or a Dataset, which is returned as it is.
        data_dir: where named datasets are looked for before the cache; a path may be relative to it.
        download: False to never use the network.
        name: what reports call it.
        test: what to test on, of the same kind as `source`, where the source itself has no test split.
        label: the label column of a table.
        test_fraction: the stratified part cut off for testing where there is no test split; no seed touches
            it. 0 for none. `rows` of the result says which rows of the source are left.
        options: of the reader (`coarse` for cifar100, `size` for image folders, `drop` for tables, …).

    Returns:
        The Dataset; its `source` says how to load the same again: `load(**data.source)`.
    """
    if test_fraction is not None:
        if not isinstance(test_fraction, (Real, Decimal)) or not 0 <= test_fraction < 1:
            raise DatadietError(
                f"a split of {test_fraction}",
                where="test_fraction",
                fix="it must lie between 0 and 1, or be 0 for none",
            )
        test_fraction = 0.0 if test_fraction == 0 else real(test_fraction, "the split", where="test_fraction")
    data_dir = None if data_dir is None else given_folder(data_dir)
    test = expanded(test) if isinstance(test, (str, Path)) and str(test).startswith("~") else test  # or a split's name
    # Only what was asked for is handed on, so that a reader without such an option can say so.
    asked: dict[str, Any] = {**options}
    for key, value, default in (
        ("test", test, None),
        ("label", label, None),
        ("test_fraction", test_fraction, TEST_FRACTION),
    ):
        if value is not default and not (key == "test_fraction" and value == default):
            asked[key] = value
    if isinstance(source, Dataset):
        if asked:
            raise DatadietError(
                f"{next(iter(asked))} is given, but this dataset is loaded already",
                where=source.name,
                fix="give it where the dataset is loaded",
            )
        return source if name is None else replace(source, name=name)
    where: Mapping[str, Any] = {"data_dir": data_dir, "download": download}
    if isinstance(source, (str, os.PathLike)):
        try:
            reader, spelled, where = _named(os.fspath(source), where)
        except (OSError, RuntimeError) as error:  # no right to look, a name too long, no such user's home
            reason = error.strerror if isinstance(error, OSError) else None
            raise DatadietError(f"cannot be read ({reason or error})", where=os.fspath(source)) from error
        takes = "test" in inspect.signature(reader).parameters
        if takes and source not in DATASETS and not (test is None or isinstance(test, (str, os.PathLike))):
            raise DatadietError(
                f"a {type(test).__name__} to test on", where=os.fspath(source), fix="give a path, as for training"
            )
    else:
        reader, spelled, where = _in_memory(source), None, {}
    if name is not None and "name" in inspect.signature(reader).parameters:
        asked["name"] = name
    data = _call(reader, str(spelled or "source"), where, asked)
    if name is not None and data.name != name:
        data = replace(data, name=name)
    looked = "data_dir" in where and _takes(reader, "data_dir")  # digits lie nowhere
    return replace(data, source=_recipe(spelled, data_dir if looked else None, name, asked))


def _named(source: str, where: Mapping[str, Any]) -> tuple[Reader, str, Mapping[str, Any]]:
    """The reader of a name or path, how to spell the source for good, and the arguments of named datasets."""
    if source == MEMORY["source"] and source not in DATASETS:
        raise DatadietError("these examples were in memory only", where="source", fix="hand them over again")
    if source.startswith("hf:"):
        return _bound(huggingface.load_named, source[3:]), source, where
    if source in DATASETS:
        return DATASETS.get(source), source, where
    if not source:
        raise DatadietError("an empty name", where="source", fix=f"known: {', '.join(sorted(DATASETS))}, or a path")
    path = expanded(source)
    if not path.exists() and where["data_dir"] is not None:
        below = Path(where["data_dir"]) / source
        path = below if below.exists() else path
    if not path.exists():
        if os.sep in source or "/" in source or path.suffix:
            raise DatadietError("no such file or folder", where=source)
        error = unknown("dataset", source, DATASETS)
        raise DatadietError(error.what, fix=f"{error.fix}; and no file or folder has this name")
    path = expanded(path.resolve())
    return _bound(_folder_reader(path) if path.is_dir() else _file_reader(path), path), str(path), {}


def _folder_reader(path: Path) -> Reader:
    """What kind of folder this is, by the names in it."""
    if kind := cifar.recognise(path):
        return _cifar_reader(kind)
    if mnist.recognise(path):
        return _idx_folder
    if huggingface.is_saved(path):
        return huggingface.load_saved
    if cinic.recognise(path) and set(folder.class_names(path / "train")) == set(cinic.CLASSES):
        return cinic.read
    if not any(path.iterdir()):
        raise DatadietError("an empty folder", where=path)
    return folder.load


def _file_reader(path: Path) -> Reader:
    lower = path.name.lower()
    if path.stat().st_size == 0:
        raise DatadietError("an empty file", where=path)
    if lower.endswith(".npz"):
        return npz.load
    if lower.endswith(table_files.ENDINGS):
        return tabular.load
    if any(part in lower for part in ("idx3", "idx1")):
        return lambda path, **options: _idx_folder(path.parent, **options)
    if lower.endswith((".tar.gz", ".tgz", ".tar")):
        if lower.startswith("cinic"):
            return cinic.read
        kind = cifar.recognise(path)
        if kind is None:
            raise DatadietError(
                "an archive of neither CIFAR nor CINIC-10", where=path, fix="unpack it and give the folder"
            )
        return _cifar_reader(kind)
    if lower.endswith(PICKLES):
        raise DatadietError("pickles are not read", where=path, fix="save inputs and labels as .npz")
    raise DatadietError(
        "a file of unknown format",
        where=path,
        fix=f"known: {', '.join(table_files.ENDINGS)}, .npz, .tar.gz, folders",
    )


def _cifar_reader(kind: str) -> Reader:
    if kind == "cifar10":

        def read10(path: Path, *, verify: bool = False) -> Dataset:
            return cifar.read(path, kind, verify=verify)

        return read10

    def read100(path: Path, *, verify: bool = False, coarse: bool = False) -> Dataset:
        return cifar.read(path, kind, verify=verify, coarse=coarse)

    return read100


def _idx_folder(path: Path, *, name: str = "") -> Dataset:
    return mnist.read_folder(path, name=name or path.name)


def _in_memory(source: Any) -> Reader:
    if isinstance(source, tuple):
        return _bound(arrays.load, source)
    if huggingface.is_object(source):
        return _bound(huggingface.load_object, source)
    if torch_dataset.is_object(source) and not isinstance(source, (list, dict)) and not hasattr(source, "dtype"):
        return _bound(torch_dataset.load, source)
    raise DatadietError(
        f"a {type(source).__name__} is no dataset",
        where="source",
        fix="give a name, a path, (x, y), a torch Dataset or a Hugging Face dataset",
    )


def _bound(reader: Reader, first: Any) -> Reader:
    """`reader` with its first argument given; its other parameters stay visible, for the check of options."""
    signature = inspect.signature(reader)

    def call(**options: Any) -> Dataset:
        return reader(first, **options)

    call.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return call


def _takes(reader: Reader, option: str) -> bool:
    parameters = inspect.signature(reader).parameters
    return option in parameters or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())


def _call(reader: Reader, source: str, where: Mapping[str, Any], asked: Mapping[str, Any]) -> Dataset:
    """Call a reader with the arguments it has; an option it has not is an error."""
    parameters = inspect.signature(reader).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        for key in asked:
            if key in ("test", "test_fraction", "label") and key not in parameters:
                what = "labels" if key == "label" else "test split"
                raise DatadietError(
                    f"{key} is given, but a source of this kind brings its own {what}",
                    where=source,
                    fix=f"leave out {key}",
                )
            if key not in parameters:
                known = [one for one in parameters if one not in where]
                raise unknown("option", key, known, where=source)
        where = {key: value for key, value in where.items() if key in parameters}
    try:
        return reader(**where, **asked)
    except OSError as error:
        raise DatadietError(
            f"cannot be read ({error.strerror or error})", where=getattr(error, "filename", None) or source
        ) from error


def _recipe(
    spelled: str | None, data_dir: str | os.PathLike[str] | None, name: str | None, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The keyword arguments that load the same again, or the note that nothing can."""
    if spelled is None:
        return dict(MEMORY)
    recipe: dict[str, Any] = {"source": spelled}
    if data_dir is not None:
        recipe["data_dir"] = str(Path(data_dir).resolve())
    if name is not None:
        recipe["name"] = name
    for key, value in asked.items():
        if callable(value):  # a progress callback changes nothing in the data
            continue
        if key == "test" and isinstance(value, (str, os.PathLike)):
            value = str(Path(value).expanduser().resolve())
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        try:
            recipe[key] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            return dict(MEMORY)
    return recipe
