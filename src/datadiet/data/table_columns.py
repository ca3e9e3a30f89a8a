"""How a table's columns become inputs: numbers as they are, categories one-hot, lists spread out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datadiet.data.buffers import buffer
from datadiet.data.table_files import UTF8, is_text, of_values
from datadiet.errors import DatadietError

log = logging.getLogger(__name__)

CATEGORIES = 1000
FREE_TEXT = 20  # more categories than this, most of them of one row each, are hardly categories
TOKENS = "input_ids"  # what tokenizers call their numbers
HEADER = "counted from 0, the header left out"
SAMPLE = 10_000  # rows of a column looked at for what float32 loses


@dataclass(frozen=True)
class Column:
    """How one column becomes inputs: a number, `width` numbers, or one input for each category."""

    name: str
    width: int
    categories: tuple[str, ...] | None = None
    boolean: bool = False


def leave_out(column: str) -> str:
    return f"leave it out with drop={column!r} (--data-option drop={column})"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in lists) and _is_number(kind.value_type)


def _is_boolean(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(of_values(kind)))


def described(table: pa.Table, name: str, kept: np.ndarray, where: str) -> Column:
    """How a column is encoded, by its type and its training rows."""
    column, kind = table.column(name), table.column(name).type
    place = f"{where}, column {name!r}"
    if _is_number(kind):
        _warn_of_rounding(column, place)
        return Column(name, 1)
    if _is_list(kind):
        _refuse_missing(np.asarray(pc.is_null(column)), place)
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            raise DatadietError(
                "lists of several lengths", where=place, fix=f"make them one length, or {leave_out(name)}"
            )
        if name == TOKENS:
            log.warning(
                "%s: token numbers are treated as quantities here; for a network that takes tokens give a dictionary "
                "of arrays, ({'%s': …}, labels)",
                place,
                name,
            )
        return Column(name, int(lengths[0]))
    if is_text(kind) or _is_boolean(kind):
        if str(kind) == "string_view":
            column = column.cast(pa.string())  # Arrow takes no rows from the other
        seen = sorted({str(v) for v in pc.unique(column.take(pa.array(kept))).to_pylist() if v is not None})
        if len(seen) > CATEGORIES:
            raise DatadietError(
                f"{len(seen)} categories, at most {CATEGORIES} become inputs",
                where=place,
                fix=f"{leave_out(name)}, name rows with it (id={name!r}), or make it numbers",
            )
        if len(seen) > FREE_TEXT and len(seen) > len(kept) / 2:
            log.warning(
                "%s: %d different texts in %d training rows become an input each, and a text that only test rows have "
                "becomes none; %s, or make numbers of it",
                place,
                len(seen),
                len(kept),
                leave_out(name),
            )
        return Column(name, len(seen), tuple(seen), boolean=_is_boolean(kind))
    if pa.types.is_binary(kind):
        raise DatadietError("bytes, not UTF-8 text", where=place, fix=f"{UTF8}, or {leave_out(name)}")
    raise DatadietError(f"a column of type {kind} cannot become inputs", where=place, fix=leave_out(name))


def _warn_of_rounding(column: pa.ChunkedArray, place: str) -> None:
    """Say so where float32 keeps few of a column's values apart, such as the seconds of timestamps."""
    there = column.drop_null()
    there = there.take(np.arange(0, len(there), max(1, len(there) // SAMPLE)))
    if not pa.types.is_integer(column.type):  # whole numbers as they are: the larger ones float64 merges too
        there = there.cast(pa.float64(), safe=False)
    exact = np.asarray(there.to_numpy())
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    before, after = len(np.unique(exact)), len(np.unique(rounded))
    if before and after <= before / 2:
        log.warning(
            "%s: of %d values %d are left in float32; subtract its smallest value, or leave it out with drop=",
            place,
            before,
            after,
        )


def encoded(table: pa.Table, columns: Sequence[Column], where: str) -> np.ndarray:
    """(N, D) float32; a missing or infinite value is an error that names column and row, from 0."""
    out = buffer((table.num_rows, sum(column.width for column in columns)), np.float32)
    start = 0
    for column in columns:
        data, place = table.column(column.name), f"{where}, column {column.name!r}"
        if column.categories is not None:
            _one_hot(data, column, out[:, start : start + column.width], place)
        else:
            out[:, start : start + column.width] = _numbers(data, column, place)
        start += column.width
    return out


def _one_hot(data: pa.ChunkedArray, column: Column, out: np.ndarray, place: str) -> None:
    if not (is_text(data.type) or _is_boolean(data.type)):
        raise DatadietError(f"is of type {data.type} here, of categories in training", where=place)
    if _is_boolean(data.type) != column.boolean:
        raise DatadietError(
            f"is of type {data.type} here, of {'booleans' if column.boolean else 'text'} in training",
            where=place,
            fix="give it one type in both tables",
        )
    _refuse_missing(np.asarray(pc.is_null(data)), place)
    known = {category: index for index, category in enumerate(column.categories or ())}
    index = np.array([known.get(str(value), -1) for value in data.to_pylist()])
    # A category that only occurs in test rows is none of the inputs: all zeros.
    out[:] = 0
    rows = np.flatnonzero(index >= 0)
    out[rows, index[rows]] = 1


def _numbers(data: pa.ChunkedArray, column: Column, place: str) -> np.ndarray:
    kind = data.type
    if not (_is_number(kind) or _is_list(kind)) or (_is_list(kind) != (column.width > 1) and not _is_list(kind)):
        raise DatadietError(f"is of type {kind} here, of numbers in training", where=place)
    if _is_list(kind):
        _refuse_missing(np.asarray(pc.is_null(data)), place)
        lengths = np.asarray(pc.list_value_length(data))
        if (lengths != column.width).any():
            row = int(np.argmax(lengths != column.width))
            raise DatadietError(f"{lengths[row]} values in row {row} ({HEADER}), {column.width} elsewhere", where=place)
        flat: Any = pc.list_flatten(data)
    else:
        flat = data
    missing = np.asarray(pc.is_null(flat)).reshape(len(data), -1).any(1)
    _refuse_missing(missing, place)
    exact = np.asarray(flat.cast(pa.float64(), safe=False).to_numpy(), np.float64).reshape(len(data), -1)
    with np.errstate(over="ignore"):
        numbers = exact.astype(np.float32)
    bad = ~np.isfinite(numbers).all(1)
    if bad.any():
        _refuse_missing(~np.isfinite(exact).all(1), place)
        first = int(np.argmax(bad))
        large = exact[first][~np.isfinite(numbers[first])][0]
        raise DatadietError(
            f"{int(bad.sum())} values are finite but too large for float32, the first ({large:g}) in row {first} "
            f"({HEADER})",
            where=place,
            fix=f"scale the column, or {leave_out(column.name)}",
        )
    return numbers


def _refuse_missing(missing: Any, place: str) -> None:
    if missing.any():
        raise DatadietError(
            f"{int(missing.sum())} values missing, NaN or infinite, first in row {int(np.argmax(missing))} ({HEADER})",
            where=place,
            fix="fill them in, drop those rows, or leave the column out with drop=",
        )
