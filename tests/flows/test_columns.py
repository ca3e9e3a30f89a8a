"""A column of someone else's scores, mapped from a file: the same values, and clear words for what is no column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import datadiet as dd
from datadiet.errors import DatadietError
from datadiet.flows.columns import column

VALUES = np.random.default_rng(0).normal(size=1000).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", VALUES)
    save_file({"x": VALUES, "y": VALUES.astype(np.float64)}, tmp_path / "a.safetensors")
    pq.write_table(pa.table({"x": VALUES, "n": pa.array(range(1000))}), tmp_path / "a.parquet", row_group_size=77)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "name", "kind"),
    [
        ("a.npy", None, "f4"), ("a.safetensors", "x", "f4"), ("a.safetensors", "y", "f8"), ("a.parquet", "x", "f4"),
        ("a.parquet", "n", "i8"),
    ],
)  # fmt: skip
def test_the_values_are_those_of_the_file(files: Path, file: str, name: str | None, kind: str) -> None:
    found = column(files / file, name)
    assert found.dtype == np.dtype(kind)
    np.testing.assert_array_equal(found, np.arange(1000) if name == "n" else VALUES)
    assert isinstance(found, np.memmap) == (not file.endswith("parquet"))
    chosen = dd.select(files / file, name, keep=0.1)
    np.testing.assert_array_equal(np.asarray(chosen), np.asarray(dd.select(np.asarray(found), keep=0.1)))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.safetensors", "z"), ("a.parquet", None), ("a.parquet", "q"), ("b.npy", None), ("two.npy", None),
        ("cut.npy", None), ("cut.safetensors", "y"), ("cut.parquet", "x"), ("text.parquet", "s"), ("null.parquet", "x"),
    ],
)  # fmt: skip
def test_what_is_no_column_is_said_in_words(files: Path, file: str, name: str | None) -> None:
    np.save(files / "two.npy", np.zeros((3, 3)))
    pq.write_table(pa.table({"s": ["a", "b"]}), files / "text.parquet")
    pq.write_table(pa.table({"x": [1.0, None]}), files / "null.parquet")
    for kind in ("npy", "safetensors", "parquet"):
        (files / f"cut.{kind}").write_bytes((files / f"a.{kind}").read_bytes()[:-200])
    with pytest.raises(DatadietError) as problem:
        column(files / file, name)
    assert file in str(problem.value)
