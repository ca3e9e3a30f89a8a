"""Parquet and CSV tables: numeric and categorical columns become one float32 row an example.

Numbers stay as they are (the dataset's own mean and std standardise them per batch); a text, dictionary or
boolean column becomes one 0/1 input for each category that occurs in training; a list is spread out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datadiet.data.arrays import encode_labels, match_labels, rename_labels
from datadiet.data.buffers import buffer
from datadiet.data.checks import refuse_unseen
from datadiet.data.dataset import Dataset, from_arrays
from datadiet.data.splits import fixed_test_split
from datadiet.data.table_files import UTF8, is_text, of_values, read
from datadiet.errors import DatadietError, unknown

log = logging.getLogger(__name__)

LABELS = ("label", "target", "class", "y")
INDEX = re.compile(r"|Unnamed: 0|__index_level_\d+__")  # how pandas and R write one that has no name
CATEGORIES = 1000
FREE_TEXT = 20  # more categories than this, most of them of one row each, are hardly categories
TOKENS = "input_ids"  # what tokenizers call their numbers
SAMPLE = 10_000  # rows of a column looked at for what float32 loses


@dataclass(frozen=True)
class Column:
    """How one column becomes inputs: a number, `width` numbers, or one input for each category."""

    name: str
    width: int
    categories: tuple[str, ...] | None = None
    boolean: bool = False


def load(
    path: Path,
    *,
    label: str | None = None,
    test: str | Path | None = None,
    split: str | None = None,
    test_fraction: float | None = 0.2,
    id: str | None = None,
    drop: Sequence[str] = (),
    name: str = "",
) -> Dataset:
    """The rows of a table as examples.

    Args:
        path: a .parquet, .csv or .tsv file (also .csv.gz); a CSV has its column names in the first line.
        label: the column of the class; default the first of label, target, class, y that is there.
        test: another file with the same columns, to test on.
        split: a column that says "train" or "test" for each row.
        test_fraction: where neither is given, the stratified part cut off for testing.
        id: a column whose values name the rows.
        drop: columns to leave out.
    """
    table = read(path)
    tested = None if test is None else read(Path(test), like=table.schema)
    return assemble(
        name or path.name.split(".")[0],
        table,
        tested,
        label=label,
        split=split,
        test_fraction=test_fraction,
        id=id,
        drop=drop,
        where=str(path),
        test_where=str(test),
    )


def assemble(
    name: str,
    table: pa.Table,
    tested: pa.Table | None,
    *,
    label: str | None,
    test_fraction: float | None,
    where: str,
    test_where: str,
    split: str | None = None,
    id: str | None = None,
    drop: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    test_classes: Sequence[str] | None = None,
) -> Dataset:
    """The Dataset in a table, and another one to test on (or a split column, or a fraction).

    Args:
        classes, test_classes: where the label columns hold class numbers, the names they count, in either table.
    """
    label = label_column(table, label, where)
    split, id = column_name(split), column_name(id)
    listed = drop if isinstance(drop, Iterable) and not isinstance(drop, str) else (drop,)
    drop = [str(column) for column in listed if column is not None]
    for column in (split, id, *drop):
        if column is not None and column not in table.column_names:
            raise unknown("column", column, table.column_names, where=where)
    left_out = {label, split, id, *drop}
    features = _inputs([column for column in table.column_names if column not in left_out], where)
    if not features:
        raise DatadietError("no column is left for the inputs", where=where)
    labels, names = read_labels(table, label, classes, where)
    if len(names) < 2:
        raise DatadietError("all examples are of one class", where=where, fix="at least two classes are needed")
    everything = np.arange(table.num_rows)
    kept, held = everything, everything[:0]
    if tested is not None and split is not None:
        raise DatadietError("test= and split= are both given", where=where, fix="leave one out")
    if split is not None:
        kept, held = _by_column(table, split, where)
        if classes is None:
            refuse_unseen(labels[held], labels[kept], where=f"{where}, column {label!r}", names=names, rows=held)
    elif tested is None and test_fraction:
        kept, held = fixed_test_split(labels, test_fraction, where=f"{where}, test split", names=tuple(names))
    columns = [_describe(table, column, kept, where) for column in features]
    inputs = _encode(table, columns, where)
    test = (inputs[held], labels[held]) if len(held) else None
    if tested is not None:
        lacking = [column for column in (*features, label) if column not in tested.column_names]
        if lacking:
            raise DatadietError(f"has no column {lacking[0]!r}", where=test_where, fix="the training table has one")
        if classes is None:
            place = f"{test_where}, column {label!r}"
            found = match_labels(values(tested.column(label), place), names, where=place)
        else:
            found = read_test_labels(tested, label, classes, test_classes, test_where)
        test = (_encode(tested, columns, test_where), found)
    return from_arrays(
        name,
        (inputs[kept] if len(held) else inputs, labels[kept]),
        test,
        kind="table",
        classes=names,
        ids=None if id is None else [str(table.column(id)[int(row)].as_py()) for row in kept],
        rows=kept if len(held) else None,
    )


def _inputs(columns: Sequence[str], where: str) -> list[str]:
    """The columns that become inputs: not an index, which tells the order of the rows and no more."""
    kept = [column for column in columns if not INDEX.fullmatch(column)]
    for column in columns:
        if column not in kept:
            log.warning("%s: column %r is left out: it is an index; rename it to have it as an input", where, column)
        elif column in LABELS:
            log.warning("%s: column %r becomes an input, it is not the label; %s", where, column, _leave_out(column))
    return kept


def _leave_out(column: str) -> str:
    return f"leave it out with drop={column!r} (--data-option drop={column})"


def label_column(table: pa.Table, label: str | None, where: str) -> str:
    """The column of the class: the one named, or the first usual one."""
    label = column_name(label)
    if label is not None:
        if label not in table.column_names:
            raise unknown("column", label, table.column_names, where=where)
        return label
    usual = next((name for name in LABELS if name in table.column_names), None)
    if usual is None:
        raise DatadietError(
            "which column is the label?",
            where=where,
            fix=f"give label= (--label); columns are {', '.join(table.column_names)}",
        )
    return usual


def column_name(name: Any) -> str | None:
    """The text of a name: the columns of a header like 0,1,2 may be asked for by their numbers."""
    return None if name is None else str(name)


def read_labels(
    table: pa.Table, label: str, classes: Sequence[str] | None, where: str
) -> tuple[np.ndarray, Sequence[str]]:
    """Class indices and names; where the names are known, the column holds indices."""
    place = f"{where}, column {label!r}"
    found = values(table.column(label), place)
    if classes is None:
        return encode_labels(found, where=place)
    if found.dtype.kind not in "iu":
        raise DatadietError(f"labels of type {found.dtype} where class numbers are promised", where=place)
    bad = np.flatnonzero((found < 0) | (found >= len(classes)))
    if len(bad):
        fault = "missing (-1)" if found[bad[0]] == -1 else f"out of range ({found[bad[0]]})"
        raise DatadietError(f"the label in row {bad[0]} is {fault}", where=place, fix="drop unlabelled rows")
    return found.astype(np.int64), classes


def read_test_labels(
    table: pa.Table, label: str, classes: Sequence[str], listed: Sequence[str] | None, where: str
) -> np.ndarray:
    """Class indices of a test table whose class numbers count the names `listed`, by default as in training."""
    labels = read_labels(table, label, listed or classes, where)[0]
    return rename_labels(labels, listed or classes, classes, where=f"{where}, column {label!r}")


def values(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """A label column as numpy: numbers, or objects with None for what is missing."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if column.null_count:
            row = int(np.argmax(np.asarray(pc.is_null(column))))
            raise DatadietError(
                f"{column.null_count} labels are missing, the first in row {row}",
                where=where,
                fix="fill them in or drop those rows",
            )
        return np.asarray(column.to_numpy())
    if is_text(kind) or pa.types.is_null(kind):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_binary(kind):
        raise DatadietError("labels that are bytes, not UTF-8 text", where=where, fix=UTF8)
    raise DatadietError(f"labels of type {kind}", where=where, fix="use numbers or names")


def _by_column(table: pa.Table, split: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    words = [str(word).lower() for word in table.column(split).to_pylist()]
    for row, word in enumerate(words):
        if word not in ("train", "training", "test", "testing"):
            raise DatadietError(
                f"{word!r} in row {row}", where=f"{where}, column {split!r}", fix='write "train" or "test"'
            )
    testing = np.array([word.startswith("test") for word in words])
    if testing.all() or not testing.any():
        raise DatadietError("all rows are of one split", where=f"{where}, column {split!r}")
    return np.flatnonzero(~testing), np.flatnonzero(testing)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in lists) and _is_number(kind.value_type)


def _is_boolean(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(of_values(kind)))


def _describe(table: pa.Table, name: str, kept: np.ndarray, where: str) -> Column:
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
                "lists of several lengths", where=place, fix=f"make them one length, or {_leave_out(name)}"
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
                fix=f"{_leave_out(name)}, name rows with it (id={name!r}), or make it numbers",
            )
        if len(seen) > FREE_TEXT and len(seen) > len(kept) / 2:
            log.warning(
                "%s: %d different texts in %d training rows become an input each, and a text that only test rows have "
                "becomes none; %s, or make numbers of it",
                place,
                len(seen),
                len(kept),
                _leave_out(name),
            )
        return Column(name, len(seen), tuple(seen), boolean=_is_boolean(kind))
    if pa.types.is_binary(kind):
        raise DatadietError("bytes, not UTF-8 text", where=place, fix=f"{UTF8}, or {_leave_out(name)}")
    raise DatadietError(f"a column of type {kind} cannot become inputs", where=place, fix=_leave_out(name))


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


def _encode(table: pa.Table, columns: Sequence[Column], where: str) -> np.ndarray:
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
            raise DatadietError(f"{lengths[row]} values in row {row}, {column.width} elsewhere", where=place)
        flat: Any = pc.list_flatten(data)
    else:
        flat = data
    missing = np.asarray(pc.is_null(flat)).reshape(len(data), -1).any(1)
    _refuse_missing(missing, place)
    with np.errstate(over="ignore"):
        numbers = np.asarray(flat.cast(pa.float64(), safe=False).to_numpy(), np.float64).astype(np.float32)
    numbers = numbers.reshape(len(data), -1)
    _refuse_missing(~np.isfinite(numbers).all(1), place)
    return numbers


def _refuse_missing(missing: Any, place: str) -> None:
    if missing.any():
        raise DatadietError(
            f"{int(missing.sum())} values missing, NaN or infinite, first in row {int(np.argmax(missing))}",
            where=place,
            fix="fill them in, drop those rows, or leave the column out with drop=",
        )
