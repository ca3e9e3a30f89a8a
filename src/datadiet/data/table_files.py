"""Parquet and CSV files as Arrow tables; what makes a file unreadable, in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from datadiet.errors import DatadietError

ENDINGS = (".parquet", ".pq", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
UTF8 = "save it as UTF-8"
DELIMITERS = (",", ";", "\t", "|")
HEADER = 65_536  # bytes in which the first line is looked for


def read_both(path: Path, test: Path | None, delimiter: str | None = None) -> tuple[pa.Table, pa.Table | None]:
    """The tables in a file and in another one to test on, whose text columns are those of the first."""
    if delimiter is not None:
        given = delimiter
        delimiter = {"\\t": "\t", "tab": "\t"}.get(str(given), given)
        if not isinstance(delimiter, str) or len(delimiter.encode()) != 1 or delimiter in '"\r\n':
            raise DatadietError(f"delimiter is {given!r}", where=path, fix="give the one character between two columns")
        if _is_parquet(path) and (test is None or _is_parquet(test)):
            raise DatadietError("delimiter is given, but Parquet has none", where=path, fix="leave out delimiter")
    table = read(path, delimiter=delimiter)
    return table, None if test is None else read(test, like=table.schema, delimiter=delimiter)


def read(path: Path, like: pa.Schema | None = None, delimiter: str | None = None) -> pa.Table:
    """The table in a file, with at least one row; in a CSV, text columns of the table `like` are text here too.

    Args:
        delimiter: what stands between the columns of a CSV; default a comma, a tab in a .tsv.
    """
    if not path.is_file():
        raise DatadietError("no such file", where=path)
    if path.stat().st_size == 0:
        raise DatadietError("an empty file", where=path)
    try:
        table = _parquet(path) if _is_parquet(path) else _csv(path, like, delimiter or _usual(path))
        names = table.column_names
    except UnicodeDecodeError as error:
        raise DatadietError("is not UTF-8 text", where=path, fix=UTF8) from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "CSV parse error" in reason:
            _refuse_other_delimiter(path, delimiter or _usual(path), like is not None)
        if "invalid UTF8" in reason:
            raise DatadietError(f"is not UTF-8 text ({reason})", where=path, fix=UTF8) from error
        raise DatadietError(f"truncated or in another format ({reason})", where=path, fix="save it again") from error
    if len(names) == 1 and not _is_parquet(path):
        _refuse_other_delimiter(path, delimiter or _usual(path), like is not None)
    doubled = sorted({column for column in names if names.count(column) > 1})
    if doubled:
        raise DatadietError(f"two columns are called {doubled[0]!r}", where=path, fix="rename one")
    if table.num_rows == 0:
        raise DatadietError("has no rows", where=path)
    return table


def _parquet(path: Path) -> pa.Table:
    with pa.OSFile(os.fsencode(path)) as file:  # by its bytes: Arrow takes no path that is not UTF-8
        return pyarrow.parquet.read_table(file)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _usual(path: Path) -> str:
    return "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","


def _text(path: Path) -> pa.NativeFile:
    return pa.input_stream(pa.OSFile(os.fsencode(path)), compression=COMPRESSED.get(path.suffix.lower()))


def _refuse_other_delimiter(path: Path, delimiter: str, test: bool) -> None:
    """Say so where the columns stand apart by another character: the header has it, and not the one expected."""
    with _text(path) as file:
        header = file.read(HEADER).splitlines()[:1]
    found = [one for one in DELIMITERS if one.encode() in b"".join(header)]
    if not found or delimiter in found:
        return
    looks = max(found, key=lambda one: header[0].count(one.encode()))
    if test:
        fix = "save it like the training table"
    else:
        written = "\\t" if looks == "\t" else looks
        fix = f"say so with delimiter={looks!r} (--data-option 'delimiter={written}')"
    raise DatadietError(
        f"its header has no {delimiter!r}, the separator of columns looks like {looks!r}", where=path, fix=fix
    )


def _csv(path: Path, like: pa.Schema | None, delimiter: str) -> pa.Table:
    texts = [field.name for field in like or () if is_text(field.type)]
    with _text(path) as file:
        return pyarrow.csv.read_csv(
            file,
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter,
                newlines_in_values=True,  # of quoted texts; without it only a file's first block may have any
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(texts, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


def of_values(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    kind = of_values(kind)
    # string_view by its name: older versions of Arrow have no check for it
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view")
