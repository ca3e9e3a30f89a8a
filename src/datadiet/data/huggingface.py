"""Hugging Face datasets: objects, folders written by save_to_disk, `hf:NAME` through the `datasets` package.

A saved folder is Arrow files and JSON, so it is read here without that package; objects give their table.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from datadiet.data import arrays, tabular
from datadiet.data.buffers import buffer
from datadiet.data.dataset import Dataset
from datadiet.data.folder import GREY, UNREADABLE, read_image, unreadable
from datadiet.errors import DatadietError, unknown

Split = tuple[pa.Table, Mapping[str, Any]]  # the rows; what each column is, as dataset_info.json says it
TESTS = ("test", "validation", "valid", "val", "dev")


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by save_to_disk."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_object(source: Any) -> bool:
    """Whether this is a `datasets` object: a Dataset, or a DatasetDict of them."""
    if isinstance(source, Mapping):
        return bool(source) and all(is_object(value) for value in source.values())
    return hasattr(source, "features") and hasattr(source, "column_names") and hasattr(source, "with_format")


def load_object(
    source: Any,
    *,
    test: Any = None,
    label: str | None = None,
    image: str | None = None,
    drop: Sequence[str] = (),
    test_fraction: float | None = 0.2,
    name: str = "huggingface",
) -> Dataset:
    """A Dataset or DatasetDict in memory; `test`: another Dataset to test on."""
    given = source if isinstance(source, Mapping) else {"train": source}
    splits = {str(key): _split(value, f"{name}, {key}") for key, value in given.items()}
    if test is not None:
        if "test" in splits:
            raise DatadietError("test examples are given twice", where=name, fix="leave out test=")
        splits["test"] = _split(test, f"{name}, test")
    return _assemble(splits, name, label, image, drop, test_fraction)


def load_saved(
    folder: Path,
    *,
    label: str | None = None,
    image: str | None = None,
    drop: Sequence[str] = (),
    test_fraction: float | None = 0.2,
    name: str = "",
) -> Dataset:
    """A folder written by save_to_disk, of a Dataset or of a DatasetDict.

    Args:
        label: the column of the class; default the only ClassLabel column, else label, target, class or y.
        image: the image column where there are several.
        drop: columns to leave out, where there is no image column.
        test_fraction: where there is no test or validation split, the stratified part cut off for testing.
    """
    listed = folder / "dataset_dict.json"
    if listed.is_file():
        splits = {str(key): _saved(folder / str(key)) for key in _part(listed, "splits", list)}
    else:
        splits = {"train": _saved(folder)}
    return _assemble(splits, name or folder.resolve().name, label, image, drop, test_fraction)


def load_named(
    repository: str,
    *,
    config: str | None = None,
    label: str | None = None,
    image: str | None = None,
    drop: Sequence[str] = (),
    test_fraction: float | None = 0.2,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    name: str = "",
) -> Dataset:
    """`hf:NAME` from the Hugging Face hub or its local cache; needs the `datasets` package.

    Args:
        config: the configuration, where a dataset has several.
        data_dir: the folder of its cache; default that of the package.
    """
    try:
        import datasets
    except ImportError as error:
        raise DatadietError(
            "the `datasets` package is not installed",
            where=f"hf:{repository}",
            fix="pip install 'datadiet[hf]'",
        ) from error
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        # The package's own switch, read at each request; its download_config still asks the hub for a name.
        datasets.config.HF_HUB_OFFLINE = offline or not download
        loaded = datasets.load_dataset(repository, config, cache_dir=None if data_dir is None else str(data_dir))
    except Exception as error:  # whatever the network, the hub or the package says
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatadietError(
            f"cannot be loaded ({reason})",
            where=f"hf:{repository}",
            fix="check the name and the network, or give a folder written by save_to_disk",
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    return load_object(
        loaded,
        label=label,
        image=image,
        drop=drop,
        test_fraction=test_fraction,
        name=name or repository.split("/")[-1],
    )


def _split(source: Any, where: str) -> Split:
    if not hasattr(source, "__len__"):
        raise DatadietError(
            "a stream without a length",
            where=where,
            fix="load it without streaming=True",
        )
    features = source.features
    return source.with_format("arrow")[:], features.to_dict() if hasattr(features, "to_dict") else dict(features)


def _saved(folder: Path) -> Split:
    state, features = folder / "state.json", _part(folder / "dataset_info.json", "features", dict)
    tables = []
    for entry in _part(state, "_data_files", list):
        if not isinstance(entry, dict):
            raise DatadietError("_data_files names no files", where=state, fix="save the dataset again")
        path = folder / Path(str(entry.get("filename"))).name
        try:
            with pa.memory_map(os.fsencode(path)) as source:
                tables.append(pa.ipc.open_stream(source).read_all())
        except (pa.ArrowException, OSError) as error:
            raise DatadietError("missing or truncated", where=path, fix="save the dataset again") from error
    if not tables:
        raise DatadietError("no rows", where=folder)
    try:
        return pa.concat_tables(tables), features
    except pa.ArrowException as error:
        raise DatadietError("its files have other columns", where=folder, fix="save the dataset again") from error


def _part(path: Path, key: str, kind: type) -> Any:
    """What a JSON file of save_to_disk has under a key: a list or a dictionary, which may be empty or left out."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatadietError("missing or not JSON", where=path, fix="save the dataset again") from error
    if not isinstance(found, dict):
        raise DatadietError("not a dictionary", where=path, fix="save the dataset again")
    part = found.get(key) or kind()
    if not isinstance(part, kind):
        raise DatadietError(f"{key} is of type {type(part).__name__}", where=path, fix="save the dataset again")
    return part


def _assemble(
    splits: dict[str, Split],
    name: str,
    label: str | None,
    image: str | None,
    drop: Sequence[str],
    test_fraction: float | None,
) -> Dataset:
    if "train" not in splits:
        if len(splits) != 1:
            raise DatadietError(f"no split called train among {', '.join(splits)}", where=name)
        splits = {"train": next(iter(splits.values()))}
    table, features = splits["train"]
    held = next((splits[key] for key in TESTS if key in splits), None)
    if table.num_rows == 0 or (held is not None and held[0].num_rows == 0):
        raise DatadietError("no examples in a split", where=name)
    label, classes = _label(table, features, label, name)
    image = tabular.column_name(image)
    pictures = [key for key in table.column_names if _kind(features, key) == "Image"]
    if image is not None and image not in pictures:
        raise unknown("image column", image, pictures, where=name)
    if not pictures:
        return tabular.assemble(
            name,
            table,
            None if held is None else held[0],
            label=label,
            drop=drop,
            test_fraction=test_fraction,
            where=name,
            test_where=f"{name}, test split",
            classes=classes,
            test_classes=None if held is None else _names(held[1], label),
        )
    if len(pictures) > 1 and image is None:
        raise DatadietError(f"several image columns: {', '.join(pictures)}", where=name, fix="give image=")
    image = image or pictures[0]
    labels, names = tabular.read_labels(table, label, classes, name)
    for column in (image, label) if held is not None else ():
        if held is not None and column not in held[0].column_names:
            raise DatadietError(f"has no column {column!r}", where=f"{name}, test split")
    grey = _all_grey(table, image, name) and (held is None or _all_grey(held[0], image, f"{name}, test split"))
    train = (_pixels(table, image, grey, name), labels)
    test = None
    if held is not None:
        place = f"{name}, test split, column {label!r}"
        test_labels = (
            arrays.match_labels(tabular.values(held[0].column(label), place), names, where=place)
            if classes is None
            else tabular.read_test_labels(held[0], label, classes, _names(held[1], label), f"{name}, test split")
        )
        test = (_pixels(held[0], image, grey, f"{name}, test split"), test_labels)
    return arrays.assemble(name, train, test, test_fraction=test_fraction, classes=names)


def _label(table: pa.Table, features: Mapping[str, Any], label: str | None, name: str) -> tuple[str, list[str] | None]:
    if label is None:
        marked = [key for key in table.column_names if _kind(features, key) == "ClassLabel"]
        label = marked[0] if len(marked) == 1 else None
    label = tabular.label_column(table, label, name)
    return label, _names(features, label)


def _names(features: Mapping[str, Any], label: str) -> list[str] | None:
    """The class names of a ClassLabel column, in the order of its numbers."""
    entry = features.get(label)
    names = entry.get("names") if isinstance(entry, Mapping) and _kind(features, label) == "ClassLabel" else None
    if names is not None and not isinstance(names, (list, tuple)):
        raise DatadietError(f"the class names of {label!r} are of type {type(names).__name__}", fix="a list is needed")
    return [str(one) for one in names] if names else None


def _kind(features: Mapping[str, Any], column: str) -> str | None:
    entry = features.get(column)
    return entry.get("_type") if isinstance(entry, Mapping) else None


def _cell(table: pa.Table, column: str, row: int, where: str) -> io.BytesIO | Path:
    value = table.column(column)[row].as_py()
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (None, None)
    if isinstance(content, bytes):
        return io.BytesIO(content)
    if path and isinstance(path, str):
        return Path(path)
    raise DatadietError("no image", where=where, fix="drop rows without one")


def _all_grey(table: pa.Table, column: str, where: str) -> bool:
    """Whether every image is grey; by the headers, up to the first that is not."""
    for row in range(table.num_rows):
        place = f"{where}, row {row}"
        try:
            with Image.open(_cell(table, column, row, place)) as image:
                if image.mode not in GREY:
                    return False
        except UNREADABLE as error:
            raise unreadable(place, error) from error
    return True


def _pixels(table: pa.Table, column: str, grey: bool, where: str) -> np.ndarray:
    """(N, H, W, 1 or 3) uint8."""
    out: np.ndarray = np.empty((0, 0, 0, 0), np.uint8)
    for row in range(table.num_rows):
        place = f"{where}, row {row}"
        pixels = read_image(_cell(table, column, row, place), place, None, grey)
        if row == 0:
            out = buffer((table.num_rows, *pixels.shape), np.uint8)
        elif pixels.shape != out.shape[1:]:
            raise DatadietError(
                f"images of several sizes: row 0 is {out.shape[2]}×{out.shape[1]}, "
                f"row {row} is {pixels.shape[1]}×{pixels.shape[0]}",
                where=where,
                fix="resize them first with .map",
            )
        out[row] = pixels
    return out
