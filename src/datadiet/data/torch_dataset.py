"""A map-style torch Dataset, read once into one array; augmentation belongs to the recipe, not in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from datadiet.data import arrays
from datadiet.data.buffers import buffer
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError

PROBES = 8  # examples read twice to see whether they stay the same


def is_object(source: Any) -> bool:
    """Whether this looks like a torch Dataset: examples by number, or a stream of them."""
    import torch

    return isinstance(source, torch.utils.data.Dataset) or (
        hasattr(source, "__getitem__") and hasattr(source, "__len__")
    )


def load(source: Any, *, test: Any = None, test_fraction: float | None = 0.2, name: str = "torch") -> Dataset:
    """The examples `source[i] -> (x, y)`, for i below its length.

    Args:
        source: x a tensor (C, H, W), an array (H, W[, C]), a PIL image, a vector or a dict; y a class index.
        test: another such dataset to test on; without one, a stratified `test_fraction` is cut off.
    """
    inputs, labels = _read(source, name)
    tested = None if test is None else _read(test, f"{name}, test")
    names = _classes(source)
    highest = max(int(part.max()) for part in (labels, *(() if tested is None else (tested[1],))))
    return arrays.assemble(
        name,
        (inputs, labels),
        tested,
        test_fraction=test_fraction,
        classes=names if names is not None and len(names) > highest else None,
    )


def _read(source: Any, where: str) -> tuple[Any, np.ndarray]:
    try:
        count = len(source)
    except TypeError as error:
        raise DatadietError(
            "a stream without a length",
            where=where,
            fix="a map-style dataset is needed: its examples are looked up by number",
        ) from error
    if count == 0:
        raise DatadietError("no examples", where=where)
    first, _ = _example(source, 0, where)
    single = not isinstance(first, dict)
    out = {
        key: buffer((count, *array.shape), array.dtype if array.dtype == np.uint8 or not single else np.float32)
        for key, array in ({"": first} if single else first).items()
    }
    labels = np.empty(count, np.int64)
    for row in range(count):
        x, labels[row] = _example(source, row, where)
        for key, array in ({"": x} if not isinstance(x, dict) else x).items():
            if key not in out:
                raise DatadietError(f"example {row} has {key!r}, example 0 has not", where=where)
            if array.shape != out[key].shape[1:]:
                raise DatadietError(
                    f"examples of several sizes: number 0 is {out[key].shape[1:]}, {row} is {array.shape}",
                    where=where,
                    fix="resize them in the dataset's transform",
                )
            out[key][row] = array
    for row in sorted({(count - 1) * probe // max(1, PROBES - 1) for probe in range(PROBES)}):
        again, _ = _example(source, row, where)
        for key, array in ({"": again} if not isinstance(again, dict) else again).items():
            if not np.array_equal(out[key][row], array.astype(out[key].dtype), equal_nan=array.dtype.kind == "f"):
                raise DatadietError(
                    f"example {row} differs from one reading to the next",
                    where=where,
                    fix="take random transforms out of the dataset; augmentation is part of the recipe",
                )
    return (out[""] if single else out), labels


def _example(source: Any, row: int, where: str) -> tuple[Any, int]:
    try:
        pair = source[row]
    except DatadietError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise DatadietError(f"example {row} cannot be read: {type(error).__name__}: {error}", where=where) from error
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DatadietError(f"example {row} is not a pair (input, label)", where=where)
    return _input(pair[0], row, where), _label(pair[1], row, where)


def _input(value: Any, row: int, where: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _array(item, row, where) for key, item in value.items()}
    array = _array(value, row, where)
    if array.ndim == 3 and array.shape[0] <= 4 and (hasattr(value, "detach") or array.shape[2] > 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 0:
        array = array[None]
    return array


def _array(value: Any, row: int, where: str) -> np.ndarray:
    array = np.asarray(arrays.plain(value, where))
    if array.dtype.kind not in "fiub":
        raise DatadietError(
            f"the input of example {row} is a {type(value).__name__}",
            where=where,
            fix="tensors, arrays and PIL images are read",
        )
    return array


def _label(value: Any, row: int, where: str) -> int:
    array = np.asarray(arrays.plain(value, where))
    if array.size != 1 or array.dtype.kind not in "fiub":
        raise DatadietError(f"the label of example {row} is {value!r}", where=where, fix="a class index is needed")
    number = array.reshape(()).item()
    if number != number or number != int(number):
        raise DatadietError(f"the label of example {row} is {number!r}", where=where, fix="a class index is needed")
    return int(number)


def _classes(source: Any) -> list[str] | None:
    """torchvision's datasets name their classes; a Subset of one has it below."""
    names = getattr(source, "classes", None)
    if names is None and hasattr(source, "dataset"):
        return _classes(source.dataset)
    return [str(one) for one in names] if isinstance(names, (list, tuple)) else None
