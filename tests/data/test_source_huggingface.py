"""Hugging Face datasets: what save_to_disk writes, objects, and the missing package."""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from datadiet.data import load
from datadiet.errors import DatadietError

IMAGE = {"_type": "Image"}
LABEL = {"names": ["ant", "bee"], "_type": "ClassLabel"}


@pytest.fixture
def images(png):
    """A table as `datasets` keeps one: images as structs of bytes, labels as class numbers."""

    def make(count=20, labels=None, size=(8, 6), mode="RGB"):
        cells = [{"bytes": png(row, size=size, mode=mode), "path": None} for row in range(count)]
        return pa.table({"image": cells, "label": [row % 2 for row in range(count)] if labels is None else labels})

    return make


def save(folder, table, features, shards=1):
    """The layout of Dataset.save_to_disk."""
    folder.mkdir(parents=True)
    names = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
    step = -(-table.num_rows // shards)
    for shard, name in enumerate(names):
        part = table.slice(shard * step, step)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


class Rows:
    """As much of `datasets.Dataset` as is used."""

    def __init__(self, table, features):
        self.table, self.features, self.column_names = table, features, table.column_names

    def __len__(self):
        return self.table.num_rows

    def with_format(self, kind):
        assert kind == "arrow"
        return self.table


def test_a_saved_dataset_of_images_is_read_without_the_package(tmp_path, images):
    folder = save(tmp_path / "bugs", images(), {"image": IMAGE, "label": LABEL}, shards=3)
    data = load(folder, test_fraction=0)
    assert data.name == "bugs"
    assert data.classes == ("ant", "bee")
    assert data.input_shape == (3, 6, 8)
    assert data.train.inputs[:, 0, 0, 0].tolist() == list(range(20))
    assert load(**data.source).fingerprint == data.fingerprint


@pytest.mark.parametrize("held", ["test", "validation"])
def test_a_saved_dict_gives_its_splits(tmp_path, images, held):
    features = {"image": IMAGE, "label": LABEL}
    save(tmp_path / "d" / "train", images(), features)
    save(tmp_path / "d" / held, images(6), features)
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", held]}))
    data = load(tmp_path / "d")
    assert (len(data), len(data.test)) == (20, 6)


def test_objects_are_read_alone_in_a_dict_and_with_a_test_set(images):
    features = {"image": IMAGE, "label": LABEL}
    train, test = Rows(images(), features), Rows(images(6), features)
    assert load({"train": train, "test": test}).test.labels.tolist() == [0, 1] * 3
    assert len(load(train, test=test)) == 20
    data = load(train, name="bugs")
    assert (data.name, len(data), len(data.test)) == ("bugs", 16, 4)
    assert data.source == {"source": "memory"}


@pytest.mark.parametrize("column", ["image", "x"])
def test_a_test_split_that_lists_its_classes_in_another_order_is_matched_by_name(images, column):
    def rows(labels, names):
        table = images(len(labels), labels=labels)
        if column == "x":
            table = table.set_column(0, "x", pa.array(np.arange(float(len(labels)))))
        features = {"image": IMAGE} if column == "image" else {}
        return Rows(table, {**features, "label": {"names": names, "_type": "ClassLabel"}})

    train = rows([0, 1] * 5, ["ant", "bee"])
    assert load(train, test=rows([0, 0, 1], ["bee", "ant"])).test.labels.tolist() == [1, 1, 0]
    assert load(train, test=rows([2, 0], ["bee", "cow", "ant"])).test.labels.tolist() == [0, 1]
    with pytest.raises(DatadietError, match=r"column 'label': class 'cow' \(row 1\) does not occur in training"):
        load(train, test=rows([2, 1], ["bee", "cow", "ant"]))
    with pytest.raises(DatadietError, match="two have one name"):
        load(train, test=rows([2, 1], ["bee", "bee", "ant"]))


def test_a_test_split_and_test_examples_beside_it_are_one_too_many(images):
    rows = Rows(images(), {"image": IMAGE, "label": LABEL})
    with pytest.raises(DatadietError, match="test examples are given twice; leave out test="):
        load({"train": rows, "test": rows}, test=rows)
    assert len(load({"train": rows, "validation": rows}, test=rows).test) == 20


def test_one_coloured_image_among_grey_ones_keeps_its_colour(images):
    features = {"image": IMAGE, "label": LABEL}
    grey = images(mode="L")
    assert load(Rows(grey, features)).input_shape == (1, 6, 8)
    assert load(Rows(pa.concat_tables([grey, images()]), features)).input_shape == (3, 6, 8)


def test_numeric_columns_are_a_table():
    table = pa.table({"a": np.arange(20.0), "v": [[1.0, 2.0]] * 20, "kind": [0, 1] * 10})
    data = load(Rows(table, {"kind": LABEL, "a": {"_type": "Value"}}))
    assert data.input_shape == (3,)
    assert data.classes == ("ant", "bee")
    assert load(Rows(table, {"kind": LABEL}), drop=["v"]).input_shape == (1,)


def test_unlabelled_rows_mixed_sizes_and_missing_images_are_named(images, png):
    features = {"image": IMAGE, "label": LABEL}
    with pytest.raises(DatadietError, match=r"the label in row 2 is missing \(-1\)"):
        load(Rows(images(4, labels=[0, 1, -1, 1]), features))
    with pytest.raises(DatadietError, match="1 labels are missing, the first in row 1"):
        load(Rows(images(4, labels=[0, None, 1, 1]), features))
    mixed = pa.concat_tables([images(4), images(4, size=(9, 9))])
    with pytest.raises(DatadietError, match="several sizes: row 0 is 8×6, row 4 is 9×9"):
        load(Rows(mixed, features))
    cells = [{"bytes": png(), "path": None}, {"bytes": None, "path": None}]
    with pytest.raises(DatadietError, match="row 1: no image"):
        load(Rows(pa.table({"image": cells, "label": [0, 1]}), features))
    cells = [{"bytes": png(), "path": None}, {"bytes": png()[:40], "path": None}]
    with pytest.raises(DatadietError, match="row 1: unreadable"):
        load(Rows(pa.table({"image": cells, "label": [0, 1]}), features))


def test_a_damaged_saved_folder_is_one_line(tmp_path, images):
    folder = save(tmp_path / "bugs", images(), {"image": IMAGE, "label": LABEL})
    file = folder / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-900])
    with pytest.raises(DatadietError, match="arrow: missing or truncated"):
        load(folder)
    file.unlink()
    with pytest.raises(DatadietError, match="arrow: missing or truncated"):
        load(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(DatadietError, match=r"state.json: missing or not JSON"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.json", {"_data_files": 5}, r"state\.json: _data_files is of type int; save the dataset again"),
        ("state.json", {"_data_files": ["a"]}, r"state\.json: _data_files names no files"),
        ("state.json", [1], r"state\.json: not a dictionary"),
        ("dataset_info.json", {"features": [1]}, r"dataset_info\.json: features is of type list"),
        (
            "dataset_info.json",
            {"features": {"label": {**LABEL, "names": 5}}},
            "class names of 'label' are of type int",
        ),
        ("dataset_dict.json", {"splits": 5}, r"dataset_dict\.json: splits is of type int"),
        ("dataset_dict.json", {"splits": "train"}, r"dataset_dict\.json: splits is of type str"),
    ],
)
def test_a_saved_folder_whose_json_means_something_else_is_one_line(tmp_path, images, file, content, message):
    folder = save(tmp_path / "bugs", images(), {"image": IMAGE, "label": LABEL})
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(DatadietError, match=message):
        load(folder)


def test_saved_files_with_other_columns_and_cells_that_are_no_images_are_one_line(tmp_path, images):
    features = {"image": IMAGE, "label": LABEL}
    folder = save(tmp_path / "bugs", images(), features, shards=2)
    other = save(tmp_path / "other", pa.table({"x": [1]}), {})
    (other / "data-00000-of-00001.arrow").rename(folder / "data-00001-of-00002.arrow")
    with pytest.raises(DatadietError, match="bugs: its files have other columns"):
        load(folder)
    for cell in ({"bytes": "text", "path": None}, {"bytes": None, "path": 5}, 5):
        with pytest.raises(DatadietError, match="row 0: no image"):
            load(Rows(pa.table({"image": [cell] * 4, "label": [0, 1] * 2}), features))


def test_token_numbers_in_a_table_are_warned_of_and_in_a_dictionary_are_not(caplog):
    tokens = np.arange(100).reshape(20, 5)
    table = pa.table({"input_ids": tokens.tolist(), "attention_mask": [[1] * 5] * 20, "label": [0, 1] * 10})
    with caplog.at_level(logging.WARNING):
        load(({"input_ids": tokens}, [0, 1] * 10))
        assert not caplog.records
        assert load(Rows(table, {"label": LABEL})).input_shape == (10,)
    (record,) = caplog.records
    assert "column 'input_ids': token numbers are treated as quantities here; for a network" in record.getMessage()
    assert "({'input_ids': …}, labels)" in record.getMessage()


def test_a_stream_is_refused_in_words():
    class Stream:
        features: ClassVar = {"image": IMAGE, "label": LABEL}
        column_names = ("image", "label")

        def with_format(self, kind):
            return self

    with pytest.raises(DatadietError, match="a stream without a length"):
        load(Stream())


def test_without_the_package_a_name_gives_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatadietError, match=r"`datasets` package is not installed; pip install 'datadiet\[hf\]'"):
        load("hf:somebody/something")


def test_a_name_is_loaded_by_the_package_and_its_offline_switch_is_put_back(monkeypatch, images, tmp_path):
    asked = []

    def load_dataset(repository, config=None, cache_dir=None):
        asked.append((repository, config, cache_dir, package.config.HF_HUB_OFFLINE))
        if repository == "no/such":
            raise ConnectionError("Couldn't reach 'no/such' on the Hub\nand more lines")
        features = {"image": IMAGE, "label": LABEL}
        return {"train": Rows(images(), features), "test": Rows(images(4), features)}

    package = SimpleNamespace(config=SimpleNamespace(HF_HUB_OFFLINE=False), load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", package)
    data = load("hf:some/bugs", config="large", data_dir=tmp_path, download=False)
    assert (data.name, len(data), len(data.test), data.classes) == ("bugs", 20, 4, ("ant", "bee"))
    assert asked == [("some/bugs", "large", str(tmp_path), True)]
    assert package.config.HF_HUB_OFFLINE is False
    assert load(**data.source).fingerprint == data.fingerprint
    with pytest.raises(DatadietError, match=r"hf:no/such: cannot be loaded \(Couldn't reach 'no/such' on the Hub\);"):
        load("hf:no/such")
    assert package.config.HF_HUB_OFFLINE is False
