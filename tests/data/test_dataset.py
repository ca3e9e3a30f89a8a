"""Dataset, its fingerprint and statistics, label noise and splits."""

from __future__ import annotations

import copy
import json
import os
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.data import DATASETS, Dataset, from_arrays, load
from datadiet.data.content import content_hash, moments
from datadiet.data.dataset import Examples, Fingerprint
from datadiet.data.noise import parse
from datadiet.data.splits import fixed_test_split, stratified
from datadiet.errors import DatadietError
from datadiet.seeds import stream


def images(n=60, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    return from_arrays("toy", (rng.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8), np.arange(n) % classes))


def test_digits_has_a_fixed_stratified_quarter_for_testing():
    data, again = load("digits"), load("digits")
    assert (len(data), len(data.test)) == (1346, 451)
    assert data.train.inputs.dtype == np.uint8
    assert data.train.inputs.max() == 16
    assert data.input_shape == (1, 8, 8)
    assert data.fingerprint == again.fingerprint
    assert data.train.ids is None
    from sklearn.datasets import load_digits

    bunch = load_digits()
    assert np.array_equal(data.train.inputs[..., 0], bunch.images[data.rows])
    assert np.array_equal(data.labels, bunch.target[data.rows])
    counts, held = np.bincount(bunch.target), np.bincount(data.test.labels)
    assert np.abs(held - counts / 4).max() <= 0.5
    assert data.source == {"source": "digits"}


def test_every_registered_dataset_is_described_in_a_line():
    assert {"digits", "cifar10", "cifar100", "cinic10", "mnist", "fashion-mnist"} <= set(DATASETS)
    for _, reader in DATASETS.items():
        assert reader.__doc__.splitlines()[0]


def test_unknown_names_get_the_nearest_and_paths_are_missing_files():
    with pytest.raises(DatadietError, match="unknown dataset 'cifar1'; did you mean cifar10"):
        load("cifar1")
    with pytest.raises(
        DatadietError, match=r"unknown dataset 'nosuch'; known: .*; and no file or folder has this name"
    ):
        load("nosuch")
    with pytest.raises(DatadietError, match="an empty name; known: cifar10"):
        load("")
    for path in ("./digitz", "some/where", "table.csv"):
        with pytest.raises(DatadietError, match="no such file or folder"):
            load(path)


def test_files_of_unknown_formats_and_pickles_are_refused(tmp_path):
    for name, message in (
        ("a.pkl", "pickles are not read"),
        ("a.doc", "unknown format"),
        ("a.npz", "an empty file"),
    ):
        (tmp_path / name).write_bytes(b"" if name == "a.npz" else b"x")
        with pytest.raises(DatadietError, match=message):
            load(tmp_path / name)


def test_options_a_source_does_not_have_are_named():
    with pytest.raises(DatadietError, match="digits: unknown option 'coarse'"):
        load("digits", coarse=True)
    with pytest.raises(DatadietError, match="unknown option 'corse'; did you mean coarse"):
        load("cifar100", corse=True)
    for option in ({"test": "x.csv"}, {"test_fraction": 0.5}, {"label": "y"}):
        with pytest.raises(DatadietError, match=f"{next(iter(option))} is given, but a source of"):
            load("digits", **option)
    with pytest.raises(DatadietError, match=r"a split of 1\.5"):
        load((np.ones((4, 2)), [0, 1, 0, 1]), test_fraction=1.5)
    with pytest.raises(DatadietError, match="a split of half"):
        load((np.ones((4, 2)), [0, 1, 0, 1]), test_fraction="half")


def test_a_dataset_is_returned_as_it_is_and_can_be_renamed():
    data = images()
    assert load(data) is data
    assert load(data, name="other").name == "other"
    named = load("digits", name="mine")
    assert named.name == "mine"
    assert load(**json.loads(json.dumps(named.source))).name == "mine"
    with pytest.raises(DatadietError, match="in memory only"):
        load(**load((np.ones((4, 2)), [0, 1, 0, 1]), test_fraction=0).source)


@pytest.mark.parametrize("option", [{"nonsense": 3}, {"test_fraction": 0.5}, {"label": "y"}, {"test": ((), ())}])
def test_options_for_a_dataset_that_is_loaded_already_are_refused(option):
    with pytest.raises(DatadietError, match=f"toy: {next(iter(option))} is given, but this dataset is loaded already"):
        load(images(), **option)


def test_relative_paths_are_found_below_data_dir_and_noted_whole(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((8, 2)), y=np.arange(8) % 2)
    data = load("a.npz", data_dir=tmp_path)
    assert data.source["source"] == str(tmp_path / "a.npz")


@settings(max_examples=30)
@given(st.integers(0, 59), st.integers(0, 3), st.integers(0, 4), st.integers(0, 2))
def test_any_changed_pixel_or_label_changes_the_fingerprint(row, y, x, channel):
    data = images()
    changed = data.train.inputs.copy()
    changed[row, y, x, channel] ^= 1
    other = from_arrays("toy", (changed, data.labels))
    assert other.train.fingerprint.inputs != data.train.fingerprint.inputs
    assert other.train.fingerprint.labels == data.train.fingerprint.labels
    labels = data.labels.copy()
    labels[row] = (labels[row] + 1) % 6
    relabelled = data.with_labels(labels)
    assert relabelled.fingerprint != data.fingerprint
    assert relabelled.train.fingerprint.inputs == data.train.fingerprint.inputs
    assert relabelled.corrupted.sum() == 1
    assert Fingerprint.parse(data.fingerprint) == data.train.fingerprint


def test_shape_and_type_are_part_of_the_fingerprint_and_memory_order_is_not():
    array = np.arange(24, dtype=np.uint8)
    assert content_hash(array.reshape(4, 6)) != content_hash(array.reshape(6, 4))
    assert content_hash(array) != content_hash(array.view(np.int8))
    assert content_hash(np.asfortranarray(array.reshape(4, 6))) == content_hash(array.reshape(4, 6))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mean_and_std_equal_numpys_in_float64(dtype):
    array = np.random.default_rng(0).integers(0, 256, (50, 4, 5, 3)).astype(dtype)
    array[..., 1] = 7
    mean, std = moments(array)
    assert np.allclose(mean, array.astype(np.float64).mean((0, 1, 2)), rtol=1e-12)
    want = array.astype(np.float64).std((0, 1, 2))
    assert np.allclose(std, [want[0], 1, want[2]], rtol=1e-12)


def test_images_come_channels_first_last_or_without():
    last = np.random.default_rng(0).integers(0, 256, (12, 6, 7, 3), dtype=np.uint8)
    y = np.arange(12) % 2
    assert from_arrays("a", (last, y)).input_shape == (3, 6, 7)
    first = from_arrays("a", (last.transpose(0, 3, 1, 2), y))
    assert np.array_equal(first.train.inputs, last)
    assert from_arrays("a", (last[..., 0], y)).input_shape == (1, 6, 7)


def test_five_channels_or_more_are_refused_unless_they_are_said_to_be_last():
    y = np.arange(12) % 2
    for shape in ((12, 5, 8, 9), (12, 8, 9, 13)):
        with pytest.raises(DatadietError, match="no axis is one of 1 to 4 channels; give"):
            from_arrays("a", (np.zeros(shape, np.uint8), y))
    for shape in ((12, 8, 9, 13), (12, 3, 9, 13)):
        data = from_arrays("a", (np.zeros(shape, np.uint8), y), channels_last=True)
        assert data.input_shape == (13, shape[1], shape[2])


def test_the_shape_of_a_dict_does_not_depend_on_the_order_of_its_keys():
    ids, age, y = np.zeros((6, 7), int), np.zeros(6), np.arange(6) % 2
    for inputs in ({"ids": ids, "age": age}, {"age": age, "ids": ids}):
        assert from_arrays("a", (inputs, y)).input_shape == (7,)
    assert from_arrays("a", ({"age": age}, y)).input_shape == (1,)


@pytest.mark.parametrize("kind", [">i4", "<i4", ">f8", "<f8"])
def test_a_dict_of_another_byte_order_is_the_same_data(kind):
    ids, y = np.arange(12).reshape(6, 2), np.arange(6) % 2
    native = from_arrays("a", ({"ids": ids.astype(np.dtype(kind).newbyteorder("="))}, y))
    other = from_arrays("a", ({"ids": ids.astype(kind)}, y))
    assert other.train.inputs["ids"].dtype.isnative
    assert other.fingerprint == native.fingerprint


def test_ids_are_text(tmp_path):
    ids = [tmp_path / "a", 1, "b", os.fsdecode(b"\xff"), "\ud800", "ü"]
    data = from_arrays("a", (np.zeros((6, 2)), np.arange(6) % 2), ids=ids)
    assert data.train.ids == [str(tmp_path / "a"), "1", "b", "\\xff", "\\ud800", "ü"]


def test_train_and_test_must_agree():
    x, y = np.zeros((6, 3), np.float32), np.arange(6) % 2
    with pytest.raises(DatadietError, match="test examples"):
        from_arrays("a", (x, y), (np.zeros((2, 4), np.float32), y[:2]))
    with pytest.raises(DatadietError, match="test labels: label 7 in row 0 is out of range"):
        from_arrays("a", (x, y), (x[:1], [7]), classes=["p", "q"])
    assert from_arrays("a", (x, y), (x[:1], [2]), classes=["p", "q", "r"]).classes == ("p", "q", "r")
    with pytest.raises(DatadietError, match="test labels: the label '2' in row 0 does not occur in training; classes"):
        from_arrays("a", (x, y), (x[:1], [2]))
    with pytest.raises(DatadietError, match="5 ids for 6 examples"):
        from_arrays("a", (x, y), ids=list("abcde"))
    with pytest.raises(DatadietError, match=r"'ids'.*NaN or infinite"):
        from_arrays("a", ({"ids": np.full((6, 2), np.nan)}, y))


def _derived(data, how):
    return {
        "noise": lambda: data.with_noise("permute", 0.5),
        "validation": lambda: data.with_validation(0.5),
        "a copy": lambda: copy.deepcopy(data),
        "another process": lambda: pickle.loads(pickle.dumps(data)),
        "itself": lambda: data,
    }[how]()


@pytest.mark.parametrize("how", ["itself", "noise", "validation", "a copy", "another process"])
def test_what_the_fingerprint_stands_for_cannot_be_written_to(how):
    for data in (images(), from_arrays("a", ({"ids": np.ones((12, 2)), "age": np.ones(12)}, np.arange(12) % 2))):
        assert data.fingerprint
        data = _derived(data, how)
        for part in (data.train, data.validation):
            for array in () if part is None else part.arrays().values():
                with pytest.raises(ValueError, match="read-only"):
                    array[0] = 0
        if data.mean is not None:
            with pytest.raises(ValueError, match="read-only"):
                data.mean[0] = 0


def test_arrays_that_are_made_into_examples_stay_writeable():
    inputs, labels = np.zeros((4, 2), np.float32), np.arange(4)
    examples = Examples(inputs, labels)
    assert np.shares_memory(examples.inputs, inputs)
    inputs[0], labels[0] = 1, 1


def test_arrays_by_name_lead_back_to_the_examples():
    for inputs in (np.ones((4, 2), np.float32), {"a": np.ones((4, 2)), "b": np.zeros((4, 3))}):
        examples = Examples(inputs, np.arange(4))
        assert Examples.from_arrays(examples.arrays()).fingerprint == examples.fingerprint


@settings(max_examples=50)
@given(st.sampled_from(["permute", "redraw"]), st.floats(0.01, 1), st.integers(0, 1000))
def test_noise_draws_the_stated_part_and_keeps_both_masks(kind, fraction, seed):
    data = images(97)
    noisy = data.with_noise(kind, fraction, seed)
    assert noisy.chosen.sum() == int(np.floor(fraction * 97 + 0.5))
    assert not (noisy.corrupted & ~noisy.chosen).any()
    assert np.array_equal(noisy.original_labels, data.labels)
    assert np.array_equal(noisy.corrupted, noisy.labels != data.labels)
    assert np.array_equal(noisy.labels, data.with_noise(kind, fraction, seed).labels)
    if kind == "permute":
        assert np.array_equal(np.bincount(noisy.labels, minlength=6), np.bincount(data.labels, minlength=6))
    assert noisy.test is data.test


def test_noise_changes_as_many_labels_as_its_definition_says():
    data = from_arrays("big", (np.zeros((20_000, 2), np.float32), np.arange(20_000) % 10))
    for kind in ("permute", "redraw"):
        share = data.with_noise(kind, 0.5, seed=3).corrupted.mean()
        assert abs(share - 0.45) < 0.01
    seeds = [data.with_noise("permute", 0.1, seed=seed).chosen for seed in (0, 1)]
    assert 0 < (seeds[0] & seeds[1]).mean() < 0.02


@pytest.mark.parametrize("change", ["with_noise", "with_validation"])
def test_fractions_and_seeds_of_any_kind_of_number_are_the_same_and_fit_into_a_manifest(change):
    def changed(fraction, seed):
        kind = ("permute",) if change == "with_noise" else ()
        return getattr(images(), change)(*kind, fraction, seed)

    def noted(data):
        return json.dumps(data.cut if data.noise is None else data.noise.describe())

    want = changed(0.1, 1)
    for fraction, seed in ((np.float32(0.1), np.int64(1)), (Fraction(1, 10), np.uint8(1)), (np.float16(0.1), 1)):
        data = changed(fraction, seed)
        assert noted(data) == noted(want)
        assert data.fingerprint == want.fingerprint
    for wrong in ("0.1", "x", None, True, [0.1], np.ones(3)):
        with pytest.raises(DatadietError, match=f"the fraction is of type {type(wrong).__name__}; a number is needed"):
            changed(wrong, 0)
    for wrong in (-1, 1.5, "a", True):
        with pytest.raises(DatadietError, match=r"the seed .*; a whole number"):
            changed(0.5, wrong)


def test_noise_is_refused_where_it_makes_no_sense():
    data = images()
    with pytest.raises(DatadietError, match="unknown kind of label noise 'permut'; did you mean permute"):
        data.with_noise("permut", 0.1)
    for fraction in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(DatadietError, match="must lie in"):
            data.with_noise("permute", fraction)
    with pytest.raises(DatadietError, match="noisy already"):
        data.with_noise("permute", 0.1).with_noise("redraw", 0.1)
    with pytest.raises(DatadietError, match="validation split was cut before the noise"):
        data.with_validation(0.2).with_noise("permute", 0.1)
    assert parse("permute:0.1") == ("permute", 0.1)
    for text in ("permute", "permute:", "permute:x", ":0.1:"):
        with pytest.raises(DatadietError, match="is not label noise"):
            parse(text)


@settings(max_examples=50)
@given(st.lists(st.integers(2, 40), min_size=2, max_size=6), st.floats(0.05, 0.95), st.integers(0, 99))
def test_a_stratified_split_takes_its_share_of_every_class(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    kept, held = stratified(labels, fraction, stream(seed, "t", 0), where="x")
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    for label, count in enumerate(counts):
        taken = int((labels[held] == label).sum())
        assert 1 <= taken <= count - 1
        assert taken == min(max(int(np.floor(fraction * count + 0.5)), 1), count - 1)


def test_the_fixed_test_split_depends_on_labels_alone():
    labels = np.arange(100) % 4
    assert np.array_equal(
        fixed_test_split(labels, 0.2, where="x")[1], fixed_test_split(labels.copy(), 0.2, where="y")[1]
    )
    with pytest.raises(DatadietError, match="class 'b' has 1 example, too few to split"):
        fixed_test_split(np.array([0, 0, 1]), 0.2, where="x", names=("a", "b"))
    for fraction in (0, 1, -1, 2):
        with pytest.raises(DatadietError, match="must lie between 0 and 1"):
            fixed_test_split(labels, fraction, where="x")


def test_validation_is_cut_from_training_with_its_noise_and_its_rows():
    data = images(120).with_noise("permute", 0.3, seed=1)
    cut = data.with_validation(0.25, seed=5)
    assert isinstance(cut, Dataset)
    assert (len(cut), len(cut.validation)) == (90, 30)
    assert np.array_equal(cut.labels, data.labels[cut.rows])
    assert np.array_equal(cut.chosen, data.chosen[cut.rows])
    assert np.array_equal(cut.train.inputs, data.train.inputs[cut.rows])
    held = np.setdiff1d(np.arange(120), cut.rows)
    assert np.array_equal(cut.validation.labels, data.labels[held])
    assert all(np.array_equal(a, b) for a, b in zip((cut.mean, cut.std), moments(cut.train.inputs), strict=True))
    assert not np.array_equal(cut.rows, data.with_validation(0.25, seed=6).rows)
    with pytest.raises(DatadietError, match="cut already"):
        cut.with_validation(0.1)


def test_what_to_test_on_is_of_the_kind_that_is_trained_on(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((40, 3)), y=np.arange(40) % 2)
    for test in (1, (np.zeros((4, 3)), np.arange(4) % 2)):
        with pytest.raises(DatadietError, match=rf"a {type(test).__name__} to test on; give a path"):
            load(tmp_path / "a.npz", test=test)
    with pytest.raises(DatadietError, match="brings its own test split; leave out test"):
        load("digits", test=1)
    for part in (np.float32(0.3), Fraction(3, 10), Decimal("0.3")):
        data = load(tmp_path / "a.npz", test_fraction=part)
        assert len(data.test) == 12
        assert load(**data.source).fingerprint == data.fingerprint
        assert data.source["test_fraction"] == 0.3
    for none in (0, 0.0, False, np.float32(0), np.int64(0), Fraction(0), Decimal(0)):
        data = load(tmp_path / "a.npz", test_fraction=none)
        assert data.test is None
        assert load(**json.loads(json.dumps(data.source))).fingerprint == data.fingerprint
    for wrong in (np.array([0.1, 0.3]), float("nan"), True, -0.1):
        with pytest.raises(DatadietError, match="a split of"):
            load(tmp_path / "a.npz", test_fraction=wrong)
    with pytest.raises(DatadietError, match=r"gone\.npz: no such file; give another \.npz to test on"):
        load(tmp_path / "a.npz", test=tmp_path / "gone.npz")


def test_a_reader_of_ones_own_says_what_it_takes_to_test_on(monkeypatch):
    def folds(*, test=None):
        rows = np.arange(40) % 4 == test
        x, y = np.arange(120.0).reshape(40, 3), np.arange(40) // 4 % 2
        return load((x[~rows], y[~rows]), test=(x[rows], y[rows]))

    monkeypatch.setitem(DATASETS._entries, "folds", folds)
    data = load("folds", test=3)
    assert (len(data), len(data.test)) == (30, 10)
    assert load(**data.source).fingerprint == data.fingerprint


def test_a_tilde_is_the_own_folder_and_nobodys_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((40, 3)), y=np.arange(40) % 2)
    assert len(load("~/a.npz", test="~/b.npz").test) == 40
    assert len(load("a.npz", data_dir="~")) == 32
    for where in ({"test": "~nobody-of-that-name/b.npz"}, {"data_dir": "~nobody-of-that-name"}):
        with pytest.raises(DatadietError, match="home directory"):
            load("~/a.npz", **where)
