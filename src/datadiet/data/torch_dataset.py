"""A map-style torch Dataset, read once into one array; augmentation belongs to the recipe, not in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from datadiet.data import arrays
from datadiet.data.buffers import buffer
from datadiet.data.dataset import Dataset
from datadiet.data.folder import DEEP, UNREADABLE, unreadable
from datadiet.errors import DatadietError

PROBES = 8  # examples read twice to see whether they stay the same
PLAIN = None  # the key of an input that is one array
KEPT = {"1", "L", "LA", "RGB", "RGBA"}  # PIL modes whose pixels are taken as they are

Fields = dict[str | None, np.ndarray]


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
        test: another such dataset to test on; without one, a stratified `test_fraction` is cut off. Where both
            name their `classes`, its labels are matched by name.
    """
    inputs, labels = _read(source, name)
    tested = None if test is None else _read(test, f"{name}, test")
    names, listed = _classes(source), None if test is None else _classes(test)
    if names is not None and len(names) <= labels.max():
        names = None
    if tested is not None and names is not None and listed is not None:
        tested = (tested[0], arrays.rename_labels(tested[1], listed, names, where=f"{name}, test labels"))
    highest = max(int(part.max()) for part in (labels, *(() if tested is None else (tested[1],))))
    return arrays.assemble(
        name,
        (inputs, labels),
        tested,
        test_fraction=test_fraction,
        classes=names if names is not None and len(names) > highest else None,
        channels_last=True,
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
    single = set(first) == {PLAIN}
    out = {
        key: buffer((count, *array.shape), array.dtype if array.dtype == np.uint8 or not single else np.float32)
        for key, array in first.items()
    }
    labels = np.empty(count, np.int64)
    for row in range(count):
        x, labels[row] = _example(source, row, where)
        _check_keys(first, x, row, where)
        for key, array in x.items():
            if array.shape != out[key].shape[1:]:
                raise DatadietError(
                    f"examples of several sizes: number 0 is {out[key].shape[1:]}, {row} is {array.shape}",
                    where=where,
                    fix="resize them in the dataset's transform",
                )
            if not _fits(array, out[key].dtype):
                what = "examples" if key is PLAIN else f"{key!r} is"
                raise DatadietError(
                    f"{what} of several types: number 0 is {first[key].dtype}, {row} is {array.dtype}",
                    where=where,
                    fix="give every example the same type",
                )
            out[key][row] = array
    for row in sorted({(count - 1) * probe // max(1, PROBES - 1) for probe in range(PROBES)}):
        again, label = _example(source, row, where)
        _check_keys(first, again, row, where)
        if label != labels[row]:
            raise DatadietError(
                f"the label of example {row} differs from one reading to the next: {labels[row]}, then {label}",
                where=where,
                fix="draw labels once, before the dataset is made; for label noise there is data.with_noise",
            )
        for key, array in again.items():
            if not np.array_equal(out[key][row], array.astype(out[key].dtype), equal_nan=array.dtype.kind == "f"):
                raise DatadietError(
                    f"example {row} differs from one reading to the next",
                    where=where,
                    fix="take random transforms out of the dataset; augmentation is part of the recipe",
                )
    return (out[PLAIN] if single else out), labels


def _check_keys(first: Fields, other: Fields, row: int, where: str) -> None:
    for has, fields, lacks, others in ((row, other, 0, first), (0, first, row, other)):
        for key in fields:
            if key not in others:
                what = "no names" if key is PLAIN else repr(key)
                raise DatadietError(
                    f"example {has} has {what}, example {lacks} has not",
                    where=where,
                    fix="give every example the same keys",
                )


def _fits(array: np.ndarray, dtype: np.dtype) -> bool:
    """Whether an example can be kept as the first one is: whole numbers by value, all else by type.

    Bytes among floats are pixels that a transform scales in one place and not in another.
    """
    if dtype.kind == "f":
        return array.dtype != np.uint8
    if np.can_cast(array.dtype, dtype):
        return True
    return array.dtype.kind in "iu" and dtype.kind in "iu" and np.array_equal(array, array.astype(dtype))


def _example(source: Any, row: int, where: str) -> tuple[Fields, int]:
    try:
        pair = source[row]
    except DatadietError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise DatadietError(f"example {row} cannot be read: {type(error).__name__}: {error}", where=where) from error
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise DatadietError(f"example {row} is not a pair (input, label)", where=where)
    return _input(pair[0], row, where), _label(pair[1], row, where)


def _input(value: Any, row: int, where: str) -> Fields:
    if isinstance(value, Mapping):
        return {str(key): _array(item, row, where) for key, item in value.items()}
    array = _array(value, row, where)
    if array.ndim == 3:
        array = _channels_last(array, hasattr(value, "detach"), row, where)
    if array.ndim == 0:
        array = array[None]
    return {PLAIN: array}


def _channels_last(array: np.ndarray, tensor: bool, row: int, where: str) -> np.ndarray:
    """(H, W, C) of a tensor (C, H, W); an array is (H, W, C), or (C, H, W) where only that leaves it 4 channels."""
    if not tensor:
        return array.transpose(1, 2, 0) if array.shape[0] <= 4 < array.shape[2] else array
    if array.shape[2] <= 4 < array.shape[0]:
        raise DatadietError(
            f"example {row} is a tensor of shape {array.shape}: are its channels first, or last?",
            where=where,
            fix="permute a tensor to (C, H, W), or give an array (H, W, C)",
        )
    return array.transpose(1, 2, 0)


def _array(value: Any, row: int, where: str) -> np.ndarray:
    if isinstance(value, Image.Image) and value.mode not in KEPT and not value.mode.startswith(DEEP):
        try:
            value = value.convert("RGB")  # as in a folder of images: palette indices are no colours
        except UNREADABLE as error:
            raise unreadable(f"{where}, example {row}", error) from error
    array = np.asarray(arrays.plain(value, f"{where}, example {row}"))
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
