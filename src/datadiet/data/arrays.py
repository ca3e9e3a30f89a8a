"""Arrays in memory as a Dataset, and what sources share: labels of any type, a missing test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datadiet.data.buffers import apart, take
from datadiet.data.checks import as_array, unseen
from datadiet.data.content import moments
from datadiet.data.dataset import Dataset, Examples, from_arrays
from datadiet.data.splits import fixed_test_split
from datadiet.errors import DatadietError


def load(
    source: tuple[Any, Any],
    *,
    test: Any = None,
    test_fraction: float | None = 0.2,
    name: str = "arrays",
    classes: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
) -> Dataset:
    """`(x, y)` or `((x, y), (x_test, y_test))`, of numpy arrays, tensors or lists.

    Args:
        source: x images (N, H, W[, C]) or (N, C, H, W) of up to 4 channels, a table (N, D) or a dict; y (N,)
            numbers or names.
        test: (x, y) to test on.
        test_fraction: where nothing else is given, the part cut off for testing; 0 or None for no test split.
        classes: class names in label order.
        ids: a name for each row.
    """
    if not (isinstance(source, tuple) and len(source) == 2):
        raise DatadietError("a pair (inputs, labels) is needed", where=name)
    if isinstance(source[0], tuple) and isinstance(source[1], tuple):
        if test is not None:
            raise DatadietError("test examples are given twice", where=name, fix="leave out test=")
        source, test = source
    if len(source) != 2 or (test is not None and not (isinstance(test, (tuple, list)) and len(test) == 2)):
        raise DatadietError("a pair (inputs, labels) is needed", where=name)
    x, y = plain(source[0], f"{name}, training inputs"), _label_array(source[1], f"{name}, training labels")
    tested = None
    if test is not None:
        tested = (plain(test[0], f"{name}, test inputs"), _label_array(test[1], f"{name}, test labels"))
    if y.dtype.kind in "USO":
        y, names = encode_labels(y, where=f"{name}, training labels")
        if tested is not None:
            tested = (tested[0], match_labels(tested[1], names, where=f"{name}, test labels"))
        if classes is not None and list(classes) != list(names):
            raise DatadietError("class names are given twice, and differ", where=name, fix="leave out classes=")
        classes = names
    data = assemble(name, (x, y), tested, test_fraction=test_fraction, classes=classes, ids=ids)
    held = data.test if data.test is None or tested is None else _apart(data.test, tested[0])
    return replace(data, train=_apart(data.train, x), test=held)


def _apart(examples: Examples, given: Any) -> Examples:
    """The examples in memory that is not the caller's, who may change an array after it was handed over."""
    inputs = examples.inputs
    if isinstance(inputs, Mapping):
        return replace(examples, inputs={key: apart(inputs[str(key)], array) for key, array in given.items()})
    return replace(examples, inputs=apart(inputs, given))


def plain(value: Any, where: object) -> Any:
    """A numpy array from a tensor, a list or an array; dicts keep their keys."""
    if isinstance(value, Mapping):
        return {key: plain(item, where) for key, item in value.items()}
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return value.float().numpy() if str(value.dtype) in ("torch.bfloat16", "torch.float16") else value.numpy()
    return as_array(value, where)


def assemble(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any] | None,
    *,
    test_fraction: float | None,
    kind: str | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    channels_last: bool = False,
) -> Dataset:
    """A checked Dataset; without test examples, a stratified part that no seed touches is cut off."""
    data = from_arrays(name, train, test, kind=kind, classes=classes, ids=ids, channels_last=channels_last)
    if test is not None or not test_fraction:
        return data
    kept, held = fixed_test_split(data.labels, test_fraction, where=f"{name}, test split", names=data.classes)
    inputs, ids = data.train.inputs, data.train.ids
    parts: list[Any] = [
        {key: take(array, rows) for key, array in inputs.items()} if isinstance(inputs, Mapping) else take(inputs, rows)
        for rows in (kept, held)
    ]
    mean, std = (None, None) if isinstance(inputs, Mapping) else moments(parts[0])
    kept_ids, held_ids = (None, None) if ids is None else ([ids[i] for i in kept], [ids[i] for i in held])
    return replace(
        data,
        train=Examples(parts[0], data.labels[kept], kept_ids),
        test=Examples(parts[1], data.labels[held], held_ids),
        mean=mean,
        std=std,
        rows=kept,
    )


def encode_labels(values: Any, *, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int64 class indices and the class names, sorted: numbers by size, names as text.

    Missing labels (None, NaN, an empty text) are an error that names the first row.
    """
    array = np.asarray(values)
    check_present(array, where)
    if array.dtype.kind in "OUS":
        texts = np.array([_text(value) for value in array.tolist()])
        names, labels = np.unique(texts, return_inverse=True)
        if all(_is_number(name) for name in names):
            order = np.argsort([float(name) for name in names], kind="stable")  # "10" comes after "9"
            places = np.empty_like(order)
            places[order] = np.arange(len(order))
            names, labels = names[order], places[labels]
        return labels.astype(np.int64), tuple(names.tolist())
    if array.dtype.kind not in "iubf":
        raise DatadietError(f"labels of type {array.dtype}", where=where, fix="use numbers or names")
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        row = int(np.argmax(array != np.floor(array)))
        raise DatadietError(
            f"the label {array[row]:g} in row {row} is a measurement, not a class",
            where=where,
            fix="bin it first",
        )
    numbers, labels = np.unique(array, return_inverse=True)
    return labels.astype(np.int64), tuple(_text(number) for number in numbers.tolist())


def match_labels(values: Any, names: Sequence[str], *, where: str) -> np.ndarray:
    """(N,) int64 class indices of labels among known class names."""
    array = np.asarray(values)
    check_present(array, where)
    index = {name: label for label, name in enumerate(names)}
    labels = np.array([index.get(_text(value), -1) for value in array.tolist()], np.int64)
    if (labels < 0).any():
        row = int(np.argmax(labels < 0))
        raise unseen(_text(array.tolist()[row]), row, names, where)
    return labels


def rename_labels(labels: np.ndarray, names: Sequence[str], known: Sequence[str], *, where: str) -> np.ndarray:
    """(N,) class numbers among `known`, of labels that a test source numbers by its own list of `names`."""
    if list(names) == list(known):
        return labels
    for listed in (names, known):
        if len(set(listed)) < len(listed):
            raise DatadietError(
                "classes are in another order than in training, and two have one name",
                where=where,
                fix="give training and test examples the same class names",
            )
    beyond = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(beyond):
        row = int(beyond[0])
        raise DatadietError(
            f"label {labels[row]} in row {row} has no name",
            where=where,
            fix=f"{len(names)} classes are named: 0 to {len(names) - 1} are legal",
        )
    index = {name: place for place, name in enumerate(known)}
    places = np.array([index.get(name, -1) for name in names], np.int64)
    strange = np.flatnonzero(places[labels] < 0)
    if len(strange):
        row = int(strange[0])
        raise DatadietError(f"class {names[labels[row]]!r} (row {row}) does not occur in training", where=where)
    return places[labels]


def check_present(values: np.ndarray, where: str) -> None:
    """Refuse missing labels: None, NaN, or an empty text."""
    if values.ndim != 1:
        raise DatadietError(f"labels of shape {values.shape}", where=where, fix="one label a row is needed")
    if len(values) == 0:
        raise DatadietError("no labels", where=where)
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values)
    elif values.dtype.kind in "OUS":
        missing = np.array([_is_missing(value) for value in values.tolist()], bool)
    else:
        return
    if missing.any():
        raise DatadietError(
            f"{int(missing.sum())} labels are missing, the first in row {int(np.argmax(missing))} (counted from 0)",
            where=where,
            fix="fill them in or drop those rows",
        )


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value) or value in ("", b"")
    except TypeError:  # pandas.NA is neither equal to itself nor unequal
        return True


def _label_array(values: Any, where: str) -> np.ndarray:
    if isinstance(values, (list, tuple)) and any(isinstance(value, str) for value in values):
        return np.array(values, dtype=object)  # as text, a missing NaN would become a class called "nan"
    return np.asarray(plain(values, where))


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text)).item()
    except ValueError:
        return False
