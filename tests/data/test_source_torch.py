"""Map-style torch datasets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, Subset, TensorDataset

from datadiet.data import buffers, load
from datadiet.errors import DatadietError

X = np.random.default_rng(0).integers(0, 256, (24, 6, 8, 3), dtype=np.uint8)
Y = np.arange(24) % 3


class Items(TorchDataset):
    """Examples made by a function of the row."""

    def __init__(self, make, count=24, classes=None):
        self.make, self.count = make, count
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return self.make(row)


KINDS = {
    "tensors": lambda row: (torch.from_numpy(X[row]).permute(2, 0, 1), int(Y[row])),
    "arrays": lambda row: (X[row], Y[row]),
    "pictures": lambda row: (Image.fromarray(X[row]), torch.tensor(Y[row])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_arrays_and_pictures_give_the_same_images(kind):
    data = load(Items(KINDS[kind]), test_fraction=0)
    assert data.train.inputs.dtype == np.uint8
    assert np.array_equal(data.train.inputs, X)
    assert np.array_equal(data.labels, Y)
    assert data.input_shape == (3, 6, 8)
    assert data.source == {"source": "memory"}


def test_float_tensors_stay_float_and_vectors_are_a_table():
    images = torch.from_numpy(X).permute(0, 3, 1, 2).float() / 255
    data = load(TensorDataset(images, torch.from_numpy(Y)), test_fraction=0)
    assert data.train.inputs.dtype == np.float32
    assert np.allclose(data.train.inputs * 255, X, atol=1e-4)
    assert load(TensorDataset(torch.randn(24, 5), torch.from_numpy(Y))).kind == "table"


def test_grey_tensors_have_one_channel():
    data = load(TensorDataset(torch.rand(24, 1, 4, 4), torch.from_numpy(Y)))
    assert data.input_shape == (1, 4, 4)


@pytest.mark.parametrize("shape", [(13, 6, 8), (7, 3, 9), (3, 2, 4)])
def test_tensors_have_their_channels_first_however_many(shape):
    images = torch.rand(24, *shape)
    data = load(TensorDataset(images, torch.from_numpy(Y)), test_fraction=0)
    assert data.input_shape == shape
    assert np.array_equal(data.train.inputs, images.permute(0, 2, 3, 1).numpy())


def test_a_tensor_that_may_have_its_channels_last_is_asked_about_and_an_array_is_not():
    with pytest.raises(DatadietError, match=r"example 0 is a tensor of shape \(6, 8, 3\): are its channels first"):
        load(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)))
    wide = np.random.default_rng(0).random((24, 6, 8, 13), np.float32)
    assert load(Items(lambda row: (wide[row], Y[row]))).input_shape == (13, 6, 8)


def test_pictures_of_a_palette_give_their_colours():
    picture = Image.fromarray(np.repeat(np.array([[[200, 10, 30]]], np.uint8), 8, axis=0)).quantize(4)
    assert picture.mode == "P"
    data = load(Items(lambda row: (picture, int(Y[row]))), test_fraction=0)
    assert data.train.inputs[0, 0, 0].tolist() == [200, 10, 30]


def test_plain_numbers_in_a_dict_keep_their_kind():
    data = load(
        Items(lambda row: ({"age": 20 + row, "size": float(row) if row else 0.5}, int(Y[row]))), test_fraction=0
    )
    assert data.train.inputs["age"].dtype == np.int64
    assert data.train.inputs["size"].tolist() == [0.5, *range(1, 24)]


def test_dicts_of_tensors_are_tokens():
    rows = Items(lambda row: ({"input_ids": torch.arange(7) + row, "mask": torch.ones(7)}, int(Y[row])))
    data = load(rows)
    assert data.kind == "tokens"
    assert data.train.inputs["input_ids"].dtype == np.int64
    assert data.gather([0])["input_ids"][0, 0] == data.rows[0]


def test_class_names_come_along_even_from_a_subset():
    items = Items(KINDS["arrays"], classes=["a", "b", "c"])
    assert load(items).classes == ("a", "b", "c")
    part = load(Subset(items, range(12)), test=Subset(items, range(12, 24)))
    assert part.classes == ("a", "b", "c")
    assert len(part.test) == 12


def test_a_test_set_that_lists_its_classes_in_another_order_is_matched_by_name():
    def items(classes):
        return Items(lambda row: (X[row], row % len(classes)), count=6, classes=classes)

    train = items(["cat", "dog", "emu"])
    assert load(train, test=items(["emu", "cat"])).test.labels.tolist() == [2, 0] * 3
    assert load(train, test=Subset(items(["emu", "cat"]), [1, 2])).test.labels.tolist() == [0, 2]
    with pytest.raises(DatadietError, match=r"test labels: class 'yak' \(row 1\) does not occur in training"):
        load(train, test=items(["emu", "yak"]))
    short = Items(lambda row: (X[row], row % 3), classes=["emu", "cat"])
    with pytest.raises(DatadietError, match="label 2 in row 2 has no name; 2 classes are named"):
        load(train, test=short)


def test_more_than_the_memory_limit_goes_to_a_file_that_vanishes(monkeypatch, cache):
    monkeypatch.setattr(buffers, "IN_MEMORY", 1000)
    data = load(Items(KINDS["arrays"]))
    assert isinstance(data.train.inputs, np.memmap)
    assert np.array_equal(data.train.inputs, X[data.rows])
    assert list((cache / "scratch").iterdir()) == []


def test_a_stream_without_a_length_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(DatadietError, match="a stream without a length; a map-style dataset is needed"):
        load(Stream())


def test_random_transforms_are_refused():
    with pytest.raises(DatadietError, match="differs from one reading to the next; take random transforms out"):
        load(Items(lambda row: (torch.rand(3, 6, 8), int(Y[row]))))


def test_labels_that_are_drawn_at_each_reading_are_refused():
    draw = np.random.default_rng(0)
    with pytest.raises(DatadietError, match=r"the label of example \d+ differs from one reading to the next: \d, then"):
        load(Items(lambda row: (X[row], int(draw.integers(3)))))


BAD = {
    "examples of several sizes: number 0 is .6, 8, 3., 5 is .9, 9, 3.": lambda row: (
        X[row] if row != 5 else np.zeros((9, 9, 3), np.uint8),
        0,
    ),
    "example 4 cannot be read: KeyError: 'gone'": lambda row: {}["gone"] if row == 4 else (X[row], 0),
    "example 0 is not a pair": lambda row: X[row],
    "the label of example 3 is nan": lambda row: (X[row], float("nan") if row == 3 else 1.0),
    "the label of example 0 is 'cat'": lambda row: (X[row], "cat"),
    "the input of example 0 is a str": lambda row: ("cat", 0),
    "all training examples are of one class": lambda row: (X[row], 0),
    "label -1 in row 0": lambda row: (X[row], -1 if row == 0 else Y[row]),
    "example 0 has 'b', example 5 has not; give every example the same keys": lambda row: (
        {"a": X[row], **({"b": X[row]} if row != 5 else {})},
        Y[row],
    ),
    "example 5 has 'b', example 0 has not": lambda row: (
        {"a": X[row], **({"b": X[row]} if row == 5 else {})},
        Y[row],
    ),
    "example 7 has no names, example 0 has not": lambda row: (X[row] if row == 7 else {"a": X[row]}, Y[row]),
    "examples of several types: number 0 is uint8, 3 is float32": lambda row: (
        X[row] / np.float32(255) if row == 3 else X[row],
        Y[row],
    ),
    "examples of several types: number 0 is uint8, 4 is int64": lambda row: (
        X[row].astype(np.int64) + 300 if row == 4 else X[row],
        Y[row],
    ),
    "examples of several types: number 0 is float32, 5 is uint8": lambda row: (
        X[row] if row == 5 else X[row] / np.float32(255),
        Y[row],
    ),
    "'age' is of several types: number 0 is int64, 1 is float64": lambda row: ({"age": 3.5 if row else 3}, Y[row]),
    "example 2: 144 missing .masked. values": lambda row: (
        np.ma.masked_all((6, 8, 3)) if row == 2 else np.ones((6, 8, 3)),
        Y[row],
    ),
    "NaN or infinite values, the first in row 2": lambda row: (
        np.full(3, np.nan if row == 2 else 1.0),
        Y[row],
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_examples_are_named(message):
    with pytest.raises(DatadietError, match=message):
        load(Items(BAD[message]))


def test_an_empty_dataset_is_refused():
    with pytest.raises(DatadietError, match="no examples"):
        load(Items(KINDS["arrays"], count=0))
