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


def read(path: Path, like: pa.Schema | None = None) -> pa.Table:
    """The table in a file, with at least one row; in a CSV, text columns of the table `like` are text here too."""
    if not path.is_file():
        raise DatadietError("no such file", where=path)
    if path.stat().st_size == 0:
        raise DatadietError("an empty file", where=path)
    try:
        table = _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path, like)
        names = table.column_names
    except UnicodeDecodeError as error:
        raise DatadietError("is not UTF-8 text", where=path, fix=UTF8) from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "invalid UTF8" in reason:
            raise DatadietError(f"is not UTF-8 text ({reason})", where=path, fix=UTF8) from error
        raise DatadietError(f"truncated or in another format ({reason})", where=path, fix="save it again") from error
    doubled = sorted({column for column in names if names.count(column) > 1})
    if doubled:
        raise DatadietError(f"two columns are called {doubled[0]!r}", where=path, fix="rename one")
    if table.num_rows == 0:
        raise DatadietError("has no rows", where=path)
    return table


def _parquet(path: Path) -> pa.Table:
    with pa.OSFile(os.fsencode(path)) as file:  # by its bytes: Arrow takes no path that is not UTF-8
        return pyarrow.parquet.read_table(file)


def _csv(path: Path, like: pa.Schema | None) -> pa.Table:
    lower = path.name.lower()
    ending = Path(lower).suffix
    texts = [field.name for field in like or () if is_text(field.type)]
    with pa.input_stream(pa.OSFile(os.fsencode(path)), compression=COMPRESSED.get(ending)) as file:
        return pyarrow.csv.read_csv(
            file,
            parse_options=pyarrow.csv.ParseOptions(
                delimiter="\t" if lower.removesuffix(".gz").endswith(".tsv") else ",",
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
