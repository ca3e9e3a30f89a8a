"""What is said of tables that are read in another way than was meant."""

from __future__ import annotations

import gzip
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datadiet.data import load
from datadiet.errors import DatadietError

N = 40


def write(path, columns, delimiter=","):
    """A CSV, or what its name says, of a column each."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
        return path
    lines = [delimiter.join(columns), *(delimiter.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def columns(**more):
    return {"a": [float(row) for row in range(N)], **more, "label": [row % 2 for row in range(N)]}


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize(
    ("column", "words", "said"),
    [
        (
            "split",
            ["train", "Test"],
            "; test on its test rows with split='split' (--data-option split=split), or leave",
        ),
        ("part", ["training", "testing"], "; test on its test rows with split='part' (--data-option split=part), or "),
        (
            "set",
            ["train", "test", "dev"],
            "(--data-option split=set), once no row is of 'dev', or leave it out with dr",
        ),
        ("fold", ["train", "valid"], "kind are trained on; leave it out with drop='fold' (--data-option drop=fold)"),
    ],
)
def test_a_column_that_tells_training_rows_from_others_is_warned_of(tmp_path, caplog, name, column, words, said):
    path = write(tmp_path / name, columns(**{column: [words[row % 7 % len(words)] for row in range(N)]}))
    with caplog.at_level(logging.WARNING):
        load(path)
    assert len(caplog.records) == 1
    assert f"column '{column}' tells training rows from others, but becomes an input, and rows of every" in caplog.text
    assert said in caplog.text


def test_a_split_that_is_asked_for_or_left_out_and_other_words_are_not_warned_of(tmp_path, caplog):
    splits, towns = (
        [["train", "test"][row % 3 // 2] for row in range(N)],
        [["bus", "train"][row % 2] for row in range(N)],
    )
    path = write(tmp_path / "t.csv", columns(split=splits, way=towns, only=["train"] * N, no=["no"] * N))
    with caplog.at_level(logging.WARNING):
        assert len(load(path, split="split").test) == 13
        load(path, drop="split")
        assert not caplog.records
        load(path, split="split", test_fraction=0)
    assert not caplog.records


def test_beside_a_test_table_a_split_column_is_only_to_be_left_out(tmp_path, caplog):
    train = write(tmp_path / "a.csv", columns(split=["train"] * N))
    test = write(tmp_path / "b.csv", columns(split=["test"] * N))
    with caplog.at_level(logging.WARNING):
        load(train, test=test)
    assert "column 'split' tells training rows from others, but becomes an input; leave it out with drop='split'" in (
        caplog.text
    )


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_finite_values_beyond_float32_are_not_called_missing(tmp_path, name):
    values = [-1e300 if row == 7 else 1e200 if row > 30 else 1.0 for row in range(N)]
    with pytest.raises(DatadietError) as caught:
        load(write(tmp_path / name, columns(b=values)))
    assert str(caught.value).endswith(
        "column 'b': 10 values are finite but too large for float32, the first (-1e+300) in row 7 (counted from 0, the "
        "header left out); scale the column, or leave it out with drop='b' (--data-option drop=b)"
    )
    with pytest.raises(DatadietError, match="column 'b': 1 values missing, NaN or infinite, first in row 9"):
        load(write(tmp_path / name, columns(b=[np.inf if row == 9 else v for row, v in enumerate(values)])))


@pytest.mark.parametrize("spare", [";", "\t", "|"])
def test_another_separator_is_guessed_and_can_be_said(tmp_path, spare):
    path = write(tmp_path / "t.csv", columns(b=list(range(N))), spare)
    written = {"\t": "\\t"}.get(spare, spare)
    with pytest.raises(DatadietError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: its header has no ',', the separator of columns looks like {spare!r}; say so with "
        f"delimiter={spare!r} (--data-option 'delimiter={written}')"
    )
    data = load(path, delimiter=written, test=write(tmp_path / "u.csv", columns(b=list(range(N))), spare))
    assert data.fingerprint == load(write(tmp_path / "v.csv", columns(b=list(range(N)))), test_fraction=0).fingerprint
    assert load(**data.source).fingerprint == data.fingerprint


def test_a_separator_is_guessed_where_commas_are_in_the_numbers_and_in_other_files_too(tmp_path):
    (tmp_path / "t.csv").write_text("a;b;label\n1,5;2,5;0\n2,5;1,5;1\n")
    with pytest.raises(DatadietError, match=r"t\.csv: its header has no ',', the separator of columns looks like ';'"):
        load(tmp_path / "t.csv")
    with pytest.raises(DatadietError, match=r"its header has no ',', .* looks like ';'"):
        load(write(tmp_path / "t.csv.gz", columns(), ";"))
    with pytest.raises(DatadietError, match=r"its header has no '\\t', .* looks like ','; say so with delimiter=','"):
        load(write(tmp_path / "t.tsv", columns()))
    with pytest.raises(DatadietError, match=r"b\.csv: its header has no ','.*; save it like the training table"):
        load(write(tmp_path / "a.csv", columns()), test=write(tmp_path / "b.csv", columns(), ";"))


def test_a_separator_that_is_none_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", columns())
    for wrong in ("", ";;", '"', "\n", "§", 7, ["x"]):
        with pytest.raises(DatadietError, match=r"delimiter is .*; give the one character between two columns"):
            load(path, delimiter=wrong)
    with pytest.raises(DatadietError, match="delimiter is given, but Parquet has none"):
        load(write(tmp_path / "t.parquet", columns()), delimiter=";")


def test_rows_in_errors_say_how_they_are_counted(tmp_path):
    lacking = [None if row == 21 else row for row in range(N)]
    counted = r"in row 21 \(counted from 0, the header left out\)"
    for table in (columns(b=lacking), {**columns(), "label": [None if row == 21 else row % 2 for row in range(N)]}):
        with pytest.raises(DatadietError, match=counted):
            load(write(tmp_path / "t.parquet", table))
    with pytest.raises(DatadietError, match=f"'dev' {counted}"):
        load(write(tmp_path / "t.csv", columns(s=["dev" if row == 21 else "train" for row in range(N)])), split="s")
