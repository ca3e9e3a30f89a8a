"""Parquet and CSV tables."""

from __future__ import annotations

import gzip
import logging
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from datadiet.data import load
from datadiet.errors import DatadietError

N = 40


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "age": rng.integers(18, 90, N),
            "height": rng.normal(170, 10, N),
            "town": pa.array(["Rome", "Oslo", "Bern", "Oslo"] * (N // 4)).dictionary_encode(),
            "member": [bool(row % 3) for row in range(N)],
            "label": [["no", "yes"][row % 2] for row in range(N)],
        }
    )


def save(table, path):
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return path
    if "town" in table.column_names:
        place = table.column_names.index("town")
        table = table.set_column(place, "town", table.column("town").cast(pa.string()))
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(table, sink)
    text = sink.getvalue().to_pybytes()
    if ".tsv" in path.name:
        text = text.replace(b",", b"\t")
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz", "t.tsv"])
def test_numbers_stay_raw_and_categories_become_columns_in_sorted_order(tmp_path, table, name):
    data = load(save(table, tmp_path / name), test_fraction=0)
    assert data.name == "t"
    assert data.kind == "table"
    assert data.classes == ("no", "yes")
    assert data.input_shape == (2 + 3 + 2,)
    want = np.stack(
        [
            table["age"].to_numpy(),
            table["height"].to_numpy(),
            *[[float(town == one) for town in table["town"].to_pylist()] for one in ("Bern", "Oslo", "Rome")],
            *[[float(member == one) for member in table["member"].to_pylist()] for one in (False, True)],
        ],
        axis=1,
    ).astype(np.float32)
    assert np.array_equal(data.train.inputs, want)
    assert np.allclose(data.mean, want.mean(0, dtype=np.float64))
    assert data.labels.tolist() == [0, 1] * (N // 2)


def test_the_cut_test_split_keeps_rows_and_ids_and_loads_again(tmp_path, table):
    keyed = table.append_column("key", pa.array([f"row{row}" for row in range(N)]))
    data = load(save(keyed, tmp_path / "t.parquet"), id="key")
    assert (len(data), len(data.test)) == (32, 8)
    assert list(data.train.ids) == [f"row{row}" for row in data.rows]
    assert np.array_equal(data.train.inputs[:, 0], table["age"].to_numpy()[data.rows])
    assert load(**data.source).fingerprint == data.fingerprint


def test_categories_come_from_training_rows_and_new_ones_in_test_are_all_zeros(tmp_path, table):
    other = table.slice(0, 4).set_column(2, "town", pa.array(["Rome", "Lima", "Lima", "Oslo"]))
    data = load(save(table, tmp_path / "a.parquet"), test=save(other, tmp_path / "b.csv"))
    assert len(data) == N
    assert data.test.inputs[:, 2:5].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert load(**data.source).test.fingerprint == data.test.fingerprint


def test_a_test_csv_is_read_with_the_text_columns_of_training(tmp_path):
    def write(name, words):
        rows = [f"{row},{word},{'xy'[row % 2]}" for row, word in enumerate(words)]
        (tmp_path / name).write_text("\n".join(["a,flag,label", *rows]) + "\n")
        return tmp_path / name

    train = write("a.csv", ["true", "false", "unknown"] * 4)
    data = load(train, test=write("b.csv", ["false", "true"] * 2))
    assert data.test.inputs[:, 1:].tolist() == [[1, 0, 0], [0, 1, 0]] * 2
    numbers = load(write("c.csv", ["1", "02", "x"] * 4), test=write("d.csv", ["02", "1"]))
    assert numbers.test.inputs[:, 1:].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert load(train, label="flag", test=write("e.csv", ["true", "false"])).test.labels.tolist() == [1, 0]
    with pytest.raises(DatadietError, match="column 'flag': is of type string here, of booleans in training"):
        load(write("f.csv", ["true", "false"] * 4), test=train)


def test_booleans_and_text_are_not_matched(tmp_path, table):
    texts = table.set_column(3, "member", pa.array(["True", "False"] * (N // 2)))
    booleans, words = save(table, tmp_path / "a.parquet"), save(texts, tmp_path / "b.parquet")
    with pytest.raises(DatadietError, match="column 'member': is of type bool here, of text in training; give it one"):
        load(words, test=booleans)
    with pytest.raises(DatadietError, match="column 'member': is of type string here, of booleans in training"):
        load(booleans, test=words)


@pytest.mark.parametrize("name", ["T.PARQUET", "T.CSV", "T.CSV.GZ", "T.TSV", "T.Tsv.gz"])
def test_endings_may_be_in_capitals(tmp_path, table, name):
    lower = save(table, tmp_path / name.lower())
    want = load(lower).fingerprint
    assert load(lower.rename(tmp_path / name)).fingerprint == want


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"gr\xf6\xdfe,label\n1,a\n2,b\n", r"t\.csv: is not UTF-8 text; save it as UTF-8"),
        (b"town,label\nK\xf6ln,a\nBern,b\n", r"column 'town': bytes, not UTF-8 text; save it as UTF-8, or leave"),
        (b"x,label\n1,K\xf6ln\n2,Bern\n", r"column 'label': labels that are bytes, not UTF-8 text; save it as"),
    ],
    ids=["header", "values", "labels"],
)
def test_a_csv_in_latin_1_is_said_to_be_none_in_utf8(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DatadietError, match=message):
        load(tmp_path / "t.csv", test_fraction=0)


def test_a_test_csv_in_latin_1_is_said_to_be_none_in_utf8(tmp_path):
    (tmp_path / "a.csv").write_text("town,label\nBern,a\nRome,b\n")
    (tmp_path / "b.csv").write_bytes(b"town,label\nK\xf6ln,a\nBern,b\n")
    with pytest.raises(DatadietError, match=r"b\.csv: is not UTF-8 text .*; save it as UTF-8"):
        load(tmp_path / "a.csv", test=tmp_path / "b.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have file names in UTF-8 alone")
def test_a_table_below_a_folder_whose_name_is_no_utf8_is_read(tmp_path, table):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for name in ("t.csv.gz", "t.parquet"):
        save(table, tmp_path / name).rename(folder / name)
        data = load(folder / name)
        assert load(**data.source).fingerprint == data.fingerprint


def test_text_is_text_in_every_arrow_type(tmp_path, table):
    want = load(save(table, tmp_path / "a.parquet")).fingerprint
    kind = pa.string_view() if hasattr(pa, "string_view") else pa.large_string()
    for place, name in ((2, "town"), (4, "label")):
        table = table.set_column(place, name, pa.array(table.column(name).to_pylist(), kind))
    assert load(save(table, tmp_path / "b.parquet")).fingerprint == want


def test_whole_numbers_too_large_for_a_double_are_rounded(tmp_path):
    large = pa.array([2**63 + row for row in range(20)], pa.uint64())
    table = pa.table({"x": large, "v": [[2**53 + 1 + row, row] for row in range(20)], "y": [0, 1] * 10})
    data = load(save(table, tmp_path / "t.parquet"), test_fraction=0)
    assert data.train.inputs[0].tolist() == [2.0**63, 2.0**53, 0.0]


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_column_that_float32_makes_constant_is_warned_of(tmp_path, caplog, name):
    table = pa.table({"time": [1_700_000_000 + row for row in range(40)], "x": np.linspace(0, 1, 40), "y": [0, 1] * 20})
    with caplog.at_level(logging.WARNING):
        load(save(table, tmp_path / name))
    assert len(caplog.records) == 1
    assert "column 'time': of 40 values 1 are left in float32; subtract its smallest value" in caplog.text


def test_whole_numbers_that_a_double_merges_too_are_warned_of(tmp_path, caplog):
    table = pa.table({"id": [2**60 + row for row in range(40)], "x": np.linspace(0, 1, 40), "y": [0, 1] * 20})
    with caplog.at_level(logging.WARNING):
        load(save(table, tmp_path / "t.parquet"))
    assert "column 'id': of 40 values 1 are left in float32" in caplog.text


def test_a_split_column_says_which_rows_are_for_testing(tmp_path, table):
    words = ["train"] * 30 + ["test"] * 10
    data = load(save(table.append_column("part", pa.array(words)), tmp_path / "t.csv"), split="part")
    assert (len(data), len(data.test)) == (30, 10)
    assert data.input_shape == (7,)
    with pytest.raises(DatadietError, match="column 'part': 'dev' in row 0"):
        load(save(table.append_column("part", pa.array(["dev"] * N)), tmp_path / "u.csv"), split="part")


@pytest.mark.parametrize(
    ("texts", "warned"),
    [
        ([f"a sentence, number {row}" for row in range(60)], True),
        ([f"one of {row % 22}" for row in range(60)], False),
        ([f"few {row}" for row in range(20)], False),
    ],
)
def test_texts_that_hardly_ever_come_twice_are_warned_of(tmp_path, caplog, texts, warned):
    table = pa.table({"text": texts, "x": np.arange(len(texts)), "label": [0, 1] * (len(texts) // 2)})
    with caplog.at_level(logging.WARNING):
        data = load(save(table, tmp_path / "t.parquet"))
    assert len(caplog.records) == warned
    if warned:
        assert data.test.inputs[:, :-1].sum() == 0
        assert "column 'text': 48 different texts in 48 training rows become an input each" in caplog.text
        assert "leave it out with drop='text' (--data-option drop=text), or make numbers of it" in caplog.text


def test_a_class_that_only_rows_for_testing_have_is_refused(tmp_path, table):
    parts = pa.array(["train"] * 30 + ["test"] * 10)
    labels = pa.array(["no", "yes"] * 19 + ["maybe", "no"])
    split = table.append_column("part", parts).set_column(4, "label", labels)
    with pytest.raises(
        DatadietError, match="column 'label': the label 'maybe' in row 38 does not occur in training; classes are no, y"
    ):
        load(save(split, tmp_path / "t.parquet"), split="part")


def test_columns_that_are_called_by_numbers_may_be_asked_for_by_numbers(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{row},{row % 5},{row * 2},{'test' if row % 4 == 0 else 'train'},{row % 3}" for row in range(60)]
    path.write_text("\n".join(["0,1,2,3,4", *rows]) + "\n")
    want = load(path, label="4", id="0", split="3", drop=["1"])
    for drop in (1, [1], (1, None)):
        data = load(path, label=4, id=0, split=3, drop=drop)
        assert data.fingerprint == want.fingerprint
        assert data.train.ids == want.train.ids
        assert load(**data.source).fingerprint == want.fingerprint
    assert load(path, label=4, split=3, drop=None).input_shape == (3,)
    for option in ({"drop": 7}, {"id": 7}, {"split": 7}, {"drop": [[1]]}, {"drop": True}):
        with pytest.raises(DatadietError, match=r"unknown column '(7|\[1\]|True)'"):
            load(path, **{"label": 4, **option})
    with pytest.raises(DatadietError, match="unknown column '9'"):
        load(path, label=9)


def test_a_column_of_vectors_is_spread_out(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    labels = pa.array([0, 1] * 10)
    data = load(save(pa.table({"v": list(vectors), "y": labels}), tmp_path / "t.parquet"), test_fraction=0)
    assert np.array_equal(data.train.inputs, vectors)
    with pytest.raises(DatadietError, match="lists of several lengths"):
        load(save(pa.table({"v": [[1.0]] * 19 + [[1.0, 2.0]], "y": labels}), tmp_path / "u.parquet"))


def test_numeric_labels_are_sorted_by_size_and_named(tmp_path):
    table = pa.table({"x": np.arange(30.0), "target": [10, 9, 100] * 10})
    for name in ("t.csv", "t.parquet"):
        data = load(save(table, tmp_path / name))
        assert data.classes == ("9", "10", "100")
    data = load(save(pa.table({"x": np.arange(30.0), "y": [1.0, 2.0, 3.0] * 10}), tmp_path / "f.parquet"))
    assert data.classes == ("1", "2", "3")


def test_the_label_column_is_asked_for_when_no_usual_one_is_there(tmp_path, table):
    path = save(table.rename_columns(["age", "height", "town", "member", "verdict"]), tmp_path / "t.csv")
    with pytest.raises(DatadietError, match=r"which column is the label\?; give label= .*verdict"):
        load(path)
    assert load(path, label="verdict").classes == ("no", "yes")
    with pytest.raises(DatadietError, match="unknown column 'verdikt'; did you mean verdict"):
        load(path, label="verdikt")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_missing_values_and_labels_name_column_and_row(tmp_path, table, name):
    ages = [None if row == 7 else float(row) for row in range(N)]
    with pytest.raises(DatadietError, match=r"column 'age': 1 values missing, NaN or infinite, first in row 7"):
        load(save(table.set_column(0, "age", pa.array(ages)), tmp_path / name))
    ages = [float("nan") if row == 8 else float(row) for row in range(N)]
    with pytest.raises(DatadietError, match=r"column 'age': .*row 8"):
        load(save(table.set_column(0, "age", pa.array(ages)), tmp_path / name))
    ages = [float("inf") if row == 9 else float(row) for row in range(N)]
    with pytest.raises(DatadietError, match=r"column 'age': .*row 9"):
        load(save(table.set_column(0, "age", pa.array(ages)), tmp_path / name))
    towns = [None if row == 3 else "Oslo" for row in range(N)]
    with pytest.raises(DatadietError, match=r"column 'town': .*row 3"):
        load(save(table.set_column(2, "town", pa.array(towns)), tmp_path / name))
    labels = [None if row == 5 else "yes" for row in range(N)]
    with pytest.raises(DatadietError, match=r"column 'label': 1 labels are missing, the first in row 5"):
        load(save(table.set_column(4, "label", pa.array(labels)), tmp_path / name))
    numbers = [None if row == 6 else row % 2 for row in range(N)]
    with pytest.raises(DatadietError, match=r"column 'label': 1 labels are missing, the first in row 6"):
        load(save(table.set_column(4, "label", pa.array(numbers)), tmp_path / name))


def test_labels_that_are_measurements_are_refused(tmp_path, table):
    path = save(table.set_column(4, "label", pa.array(np.linspace(0, 1, N))), tmp_path / "t.parquet")
    with pytest.raises(DatadietError, match="a measurement, not a class"):
        load(path)


def test_one_class_and_a_class_of_one_row_are_refused(tmp_path, table):
    path = save(table.set_column(4, "label", pa.array(["yes"] * N)), tmp_path / "t.csv")
    with pytest.raises(DatadietError, match="all examples are of one class"):
        load(path)
    path = save(table.set_column(4, "label", pa.array(["yes"] * 20 + ["no"] * 19 + ["once"])), tmp_path / "u.csv")
    with pytest.raises(DatadietError, match="class 'once' has 1 example"):
        load(path)


def test_too_many_categories_and_odd_types_name_the_column(tmp_path):
    count = 1201
    labels = pa.array([row % 2 for row in range(count)])
    path = save(
        pa.table({"x": np.arange(count), "name": [f"n{i}" for i in range(count)], "y": labels}),
        tmp_path / "t.csv",
    )
    with pytest.raises(DatadietError, match=r"column 'name': \d+ categories, at most 1000"):
        load(path, test_fraction=0)
    assert load(path, drop=["name"]).input_shape == (1,)
    dates = pa.array(np.arange(count).astype("datetime64[D]"))
    with pytest.raises(DatadietError, match="column 'when': a column of type date32"):
        load(save(pa.table({"x": np.arange(count), "when": dates, "y": labels}), tmp_path / "u.parquet"))
    with pytest.raises(DatadietError, match="no column is left"):
        load(path, drop=["name", "x"])


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_an_index_becomes_no_input_and_the_line_says_so(tmp_path, table, caplog, name):
    want = load(save(table, tmp_path / "t.parquet"))
    indexed = table.add_column(0, name, pa.array(np.arange(N)))
    for ending in ("parquet", "csv"):
        caplog.clear()
        data = load(save(indexed, tmp_path / f"i.{ending}"))
        assert data.fingerprint == want.fingerprint
        assert f"column {name!r} is left out: it is an index" in caplog.text
    assert load(tmp_path / "i.csv", id=name).train.ids[:2] == [str(row) for row in want.rows[:2]]


def test_a_second_column_that_is_called_like_a_label_is_named(tmp_path, table, caplog):
    data = load(save(table.append_column("y", pa.array(np.arange(N) % 2)), tmp_path / "t.parquet"))
    assert data.classes == ("no", "yes")
    assert "column 'y' becomes an input, it is not the label; leave it out with drop='y' (--data-option" in caplog.text


def test_lines_in_quoted_texts_are_read_beyond_the_first_block(tmp_path):
    rows = [f'"a text of\ntwo lines, {row % 3}",{row},{row % 2}' for row in range(60_000)]
    (tmp_path / "t.csv").write_text("\n".join(["text,x,label", *rows]) + "\n")
    assert load(tmp_path / "t.csv", test_fraction=0).train.inputs.shape == (60_000, 4)


def test_a_missing_list_is_called_missing(tmp_path):
    lists = pa.array([[1.0, 2.0]] * 20 + [None] + [[1.0, 2.0]] * 19)
    path = save(pa.table({"v": lists, "label": [0, 1] * 20}), tmp_path / "t.parquet")
    with pytest.raises(DatadietError, match="column 'v': 1 values missing, NaN or infinite, first in row 20"):
        load(path)


def test_broken_tables_are_one_line(tmp_path, table):
    path = save(table, tmp_path / "t.parquet")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DatadietError, match=r"t.parquet: truncated or in another format"):
        load(path)
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(DatadietError, match="an empty file"):
        load(tmp_path / "e.csv")
    (tmp_path / "h.csv").write_text("x,label\n")
    with pytest.raises(DatadietError, match="has no rows"):
        load(tmp_path / "h.csv")
    (tmp_path / "r.csv").write_text("x,label\n1,a\n2\n")
    with pytest.raises(DatadietError, match=r"r.csv: truncated or in another format .*columns"):
        load(tmp_path / "r.csv")
    (tmp_path / "d.csv").write_text("x,x,label\n1,2,a\n")
    with pytest.raises(DatadietError, match="two columns are called 'x'"):
        load(tmp_path / "d.csv")


def test_a_test_table_must_fit_the_training_table(tmp_path, table):
    path = save(table, tmp_path / "t.parquet")
    with pytest.raises(DatadietError, match="no such file"):
        load(path, test=tmp_path / "none.csv")
    with pytest.raises(DatadietError, match="has no column 'height'"):
        load(path, test=save(table.drop_columns(["height"]), tmp_path / "b.parquet"))
    with pytest.raises(DatadietError, match="the label 'maybe' in row 0 does not occur in training"):
        load(path, test=save(table.set_column(4, "label", pa.array(["maybe"] * N)), tmp_path / "c.parquet"))
    with pytest.raises(DatadietError, match="column 'age': is of type string here, of numbers"):
        load(path, test=save(table.set_column(0, "age", pa.array(["old"] * N)), tmp_path / "d.parquet"))
