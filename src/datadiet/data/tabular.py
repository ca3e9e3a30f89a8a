"""Parquet and CSV tables: numeric and categorical columns become one float32 row an example.

Numbers stay as they are (the dataset's own mean and std standardise them per batch); a text, dictionary or
boolean column becomes one 0/1 input for each category that occurs in training; a list is spread out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datadiet.data.arrays import encode_labels, match_labels, rename_labels
from datadiet.data.checks import refuse_unseen
from datadiet.data.dataset import Dataset, from_arrays
from datadiet.data.splits import fixed_test_split
from datadiet.data.table_columns import HEADER, described, encoded, leave_out
from datadiet.data.table_files import UTF8, is_text, read_both
from datadiet.errors import DatadietError, unknown

log = logging.getLogger(__name__)

LABELS = ("label", "target", "class", "y")
INDEX = re.compile(r"|Unnamed: 0|__index_level_\d+__")  # how pandas and R write one that has no name
SPLITS = ("split", "fold", "subset", "partition", "set")
TRAINING, TESTING = ("train", "training"), ("test", "testing")
HELD = {*TRAINING, *TESTING, "valid", "validation", "val", "dev", "eval", "evaluation", "holdout"}


def load(
    path: Path,
    *,
    label: str | None = None,
    test: str | Path | None = None,
    split: str | None = None,
    test_fraction: float | None = 0.2,
    id: str | None = None,
    drop: Sequence[str] = (),
    delimiter: str | None = None,
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
        delimiter: what stands between the columns of a CSV, here and in `test`; default a comma, a tab in a .tsv.
    """
    table, tested = read_both(path, None if test is None else Path(test), delimiter)
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
        may_split=True,
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
    may_split: bool = False,
) -> Dataset:
    """The Dataset in a table, and another one to test on (or a split column, or a fraction).

    Args:
        classes, test_classes: where the label columns hold class numbers, the names they count, in either table.
        may_split: whether the source has the option `split`, which a warning may then name.
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
    for column in features:
        _warn_of_split(table, column, where, may_split and tested is None and split is None)
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
    columns = [described(table, column, kept, where) for column in features]
    inputs = encoded(table, columns, where)
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
        test = (encoded(tested, columns, test_where), found)
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
            log.warning("%s: column %r becomes an input, it is not the label; %s", where, column, leave_out(column))
    return kept


def _warn_of_split(table: pa.Table, column: str, where: str, may_split: bool) -> None:
    """Say so where an input tells which rows are for training and which are not."""
    if not is_text(table.schema.field(column).type):
        return
    found = {str(word) for word in pc.unique(table.column(column)).to_pylist() if word is not None}
    words = {word.lower() for word in found}
    usual = column.lower() in SPLITS
    if not words or not words <= HELD or not (usual or (len(words) > 1 and words & {*TRAINING, *TESTING})):
        return
    every = ", and rows of every kind are trained on" if len(words) > 1 else ""
    mend = leave_out(column)
    if may_split and words & {*TRAINING} and words & {*TESTING}:
        others = sorted(word for word in found if word.lower() not in (*TRAINING, *TESTING))
        once = f", once no row is of {', '.join(map(repr, others))}" if others else ""
        mend = f"test on its test rows with split={column!r} (--data-option split={column}){once}, or {mend}"
    log.warning("%s: column %r tells training rows from others, but becomes an input%s; %s", where, column, every, mend)


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
                f"{column.null_count} labels are missing, the first in row {row} ({HEADER})",
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
        if word not in (*TRAINING, *TESTING):
            raise DatadietError(
                f"{word!r} in row {row} ({HEADER})", where=f"{where}, column {split!r}", fix='write "train" or "test"'
            )
    testing = np.array([word in TESTING for word in words])
    if testing.all() or not testing.any():
        raise DatadietError("all rows are of one split", where=f"{where}, column {split!r}")
    return np.flatnonzero(~testing), np.flatnonzero(testing)
