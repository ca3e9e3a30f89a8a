"""What inputs and labels must be, said in one line where they are not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from datadiet.data.content import Inputs, chunks
from datadiet.errors import DatadietError

log = logging.getLogger(__name__)


def check_labels(labels: Any, rows: int, classes: int | None, *, where: str) -> np.ndarray:
    """(N,) int64 labels in 0 … classes - 1 (None: from 0), or an error that names the first offender."""
    array = as_array(labels, where)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DatadietError(f"labels of shape {array.shape}", where=where, fix="one label a row is needed")
    if len(array) != rows:
        raise DatadietError(f"{len(array)} labels for {rows} inputs", where=where)
    if array.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(array))
        if len(bad):
            raise DatadietError(
                f"{len(bad)} labels are missing (NaN), the first in row {bad[0]} (counted from 0)", where=where
            )
        if (array != np.floor(array)).any():
            raise DatadietError("labels are not whole numbers", where=where, fix="classes are counted from 0")
    elif array.dtype.kind not in "iub":
        raise DatadietError(f"labels of type {array.dtype}", where=where, fix="classes are whole numbers from 0")
    array = array.astype(np.int64)
    bad = np.flatnonzero(array < 0 if classes is None else (array < 0) | (array >= classes))
    if len(bad):
        fix = "classes are counted from 0" if classes is None else f"0 to {classes - 1} are legal"
        if array[bad[0]] == -1:
            fix += "; drop unlabelled rows, or write the classes -1 and 1 as 0 and 1"
        raise DatadietError(f"label {array[bad[0]]} in row {bad[0]} is out of range", where=where, fix=fix)
    return array


def as_array(values: Any, where: object) -> np.ndarray:
    """A plain array, or the memory map that it is; one with masked values is refused."""
    try:
        array = np.asanyarray(values)
    except ValueError as error:
        raise DatadietError("rows of several sizes", where=where, fix="make them one shape first") from error
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        mask = np.ma.getmaskarray(array)
        raise DatadietError(
            f"{int(mask.sum())} missing (masked) values, the first in row {np.argwhere(np.atleast_1d(mask))[0][0]} "
            "(counted from 0)",
            where=where,
            fix="fill them in or drop those rows",
        )
    return array if isinstance(array, np.memmap) else np.asarray(array)


def count_up(values: Any, rows: int, *, where: str) -> np.ndarray:
    """(N,) int64 training labels where nobody names the classes: these are 0 … the highest label."""
    labels = check_labels(values, rows, None, where=where)
    if labels.max() >= max(1000, rows):
        raise DatadietError(
            f"label {labels.max()} in row {labels.argmax()} is out of range: more classes than examples",
            where=where,
            fix="number the classes from 0",
        )
    empty = np.flatnonzero(np.bincount(labels) == 0)
    if len(empty):
        log.warning(
            "%s: no example is of class %s; classes are counted from 0, and each of the %d becomes an output",
            where,
            ", ".join(map(str, empty[:5])) + (", …" if len(empty) > 5 else ""),
            labels.max() + 1,
        )
    return labels


def refuse_unseen(
    tested: np.ndarray, trained: np.ndarray, *, where: str, names: Sequence[str] = (), rows: np.ndarray | None = None
) -> None:
    """Refuse a class that only test examples have: the network would have an output that nothing ever trains.

    Args:
        tested, trained: class numbers.
        names: what the classes are called, if not by their numbers.
        rows: how errors count the test examples.
    """
    strange = np.flatnonzero(~np.isin(tested, trained))
    if len(strange):
        first = int(strange[0])
        known = [names[label] if names else str(label) for label in np.unique(trained)]
        label = names[tested[first]] if names else str(tested[first])
        raise unseen(label, first if rows is None else int(rows[first]), known, where)


def unseen(label: str, row: int, known: Sequence[str], where: str) -> DatadietError:
    return DatadietError(
        f"the label {label!r} in row {row} does not occur in training",
        where=where,
        fix=f"classes are {', '.join(known[:10])}{', …' if len(known) > 10 else ''}",
    )


def real(value: Any, what: str, *, where: str) -> float:
    """A plain float of any number, in the digits that it is printed with: float32's 0.1 is 0.1."""
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        raise DatadietError(f"{what} is of type {type(value).__name__}", where=where, fix="a number is needed")
    return float(str(value)) if isinstance(value, np.floating) else float(value)


def refuse_infinite(array: np.ndarray, where: str, given: np.ndarray | None = None) -> None:
    """Refuse values that are no numbers.

    Args:
        given: the array before it was made float32, whose finite values may have been too large.
    """
    seen = 0
    for block in chunks(array):
        good = np.isfinite(block.reshape(len(block), -1)).all(1)
        if not good.all():
            row = seen + int(np.argmin(good))
            if given is not None and (large := np.abs(given[row]).max()) < np.inf:
                raise DatadietError(
                    f"finite values too large for float32, the first ({large:g}) in row {row} (counted from 0)",
                    where=where,
                    fix="scale them",
                )
            raise DatadietError(
                f"NaN or infinite values, the first in row {row} (counted from 0)",
                where=where,
                fix="fill or drop those rows",
            )
        seen += len(block)


def check_inputs(inputs: Any, where: str) -> Inputs:
    if isinstance(inputs, Mapping):
        named = {str(key): as_array(array, where) for key, array in inputs.items()}
        for key, array in named.items():
            if array.dtype.kind not in "fiub":
                raise DatadietError(f"{key!r} is of type {array.dtype}", where=where, fix="numbers are needed")
            if array.ndim == 0 or 0 in array.shape[1:]:
                raise DatadietError(f"{key!r} is of shape {array.shape}", where=where, fix="give a value for every row")
            if not array.dtype.isnative:
                named[key] = array.astype(array.dtype.newbyteorder("="))  # torch takes no other byte order
            if array.dtype.kind == "f":
                refuse_infinite(array, f"{where}, {key!r}")
        return named
    array = as_array(inputs, where)
    if array.ndim < 2 or 0 in array.shape[1:]:
        fix = "(N, D) or (N, H, W[, C]) is needed" + (", none of them 0" if array.ndim > 1 else "")
        raise DatadietError(f"inputs of shape {array.shape}", where=where, fix=fix)
    if array.dtype == object:
        raise DatadietError("inputs of several sizes or types", where=where, fix="make them one shape first")
    if array.dtype.kind not in "fiub":
        raise DatadietError(f"inputs of type {array.dtype}", where=where, fix="numbers are needed")
    given = array
    if array.dtype not in (np.uint8, np.float32):
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            array = array.astype(np.float32)
    if array.ndim == 2 and array.dtype == np.uint8:
        array = array.astype(np.float32)
    if array.dtype == np.float32:
        refuse_infinite(array, where, given)
    return array


def as_images(inputs: Inputs, where: str, channels_last: bool = False) -> Inputs:
    """(N, H, W, C); up to 4 channels are told from height and width, more only where they are said to be last."""
    assert not isinstance(inputs, Mapping)
    if inputs.ndim == 3:
        return inputs[..., None]
    if inputs.ndim != 4:
        raise DatadietError(f"images of shape {inputs.shape}", where=where, fix="(N, H, W) or (N, H, W, C) is needed")
    if inputs.shape[3] <= 4 or channels_last:
        return inputs
    if inputs.shape[1] > 4:
        raise DatadietError(
            f"images of shape {inputs.shape}: no axis is one of 1 to 4 channels",
            where=where,
            fix="give (N, H, W, C) with C up to 4; for more channels a torch Dataset of (C, H, W) tensors",
        )
    return np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))  # channels first, as PyTorch keeps them


def count_rows(inputs: Inputs, where: str) -> int:
    lengths = {len(array) for array in inputs.values()} if isinstance(inputs, Mapping) else {len(inputs)}
    if len(lengths) != 1:
        raise DatadietError(f"arrays of {sorted(lengths)} rows", where=where)
    count = lengths.pop()
    if count == 0:
        raise DatadietError("no examples", where=where)
    return count


def check_same_shape(train: Inputs, test: Inputs, name: str) -> None:
    if isinstance(train, Mapping) or isinstance(test, Mapping):
        if not (isinstance(train, Mapping) and isinstance(test, Mapping) and set(train) == set(test)):
            raise DatadietError("training and test inputs have other names", where=name)
        return
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise DatadietError(
            f"training examples are {train.shape[1:]} {train.dtype}, test examples {test.shape[1:]} {test.dtype}",
            where=name,
        )
