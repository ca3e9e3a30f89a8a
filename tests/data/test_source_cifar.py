"""CIFAR-10 and CIFAR-100: their layout, their checksums, and pickles that ask for more than arrays."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.data import cifar, load
from datadiet.data.unpickle import unpickle
from datadiet.errors import DatadietError


def test_pixels_come_out_channels_last_and_in_file_order(tmp_path, write_cifar10):
    folder, content = write_cifar10(tmp_path)
    data = load(folder)
    assert data.train.inputs.shape == (100, 32, 32, 3)
    assert data.train.inputs.dtype == np.uint8
    assert data.train.inputs.flags.c_contiguous
    row = 3 * 20 + 7
    pixels, labels = content["data_batch_4"]
    for channel in range(3):
        plane = pixels[7, channel * 1024 : (channel + 1) * 1024].reshape(32, 32)
        assert np.array_equal(data.train.inputs[row, :, :, channel], plane)
    assert data.labels[row] == labels[7]
    assert data.train.ids[row] == "data_batch_4_7.png"
    assert data.classes[0] == "airplane"
    assert len(data.test) == 20


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_pickle_protocol_gives_the_same_dataset(tmp_path, write_cifar10, protocol):
    first, _ = write_cifar10(tmp_path / "a")
    second, _ = write_cifar10(tmp_path / "b", protocol=protocol)
    assert load(first).fingerprint == load(second).fingerprint


def test_folder_parent_and_archive_give_the_same_dataset(tmp_path, write_cifar10, pack):
    folder, _ = write_cifar10(tmp_path / "here")
    archive = pack(folder, tmp_path / "cifar-10-python.tar.gz")
    other = pack(folder, tmp_path / "mine.tgz")
    prints = {load(path).fingerprint for path in (folder, tmp_path / "here", archive, other)}
    assert len(prints) == 1


def test_the_named_dataset_is_found_in_below_and_at_data_dir(tmp_path, write_cifar10, monkeypatch):
    folder, _ = write_cifar10(tmp_path / "downloads" / "vision")
    table = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in cifar.MD5["cifar10"]}
    monkeypatch.setitem(cifar.MD5, "cifar10", table)
    for place in (folder, folder.parent, folder.parent.parent):
        data = load("cifar10", data_dir=place, download=False)
        assert len(data) == 100
        assert load(**data.source).fingerprint == data.fingerprint


def test_a_wrong_checksum_names_the_file(tmp_path, write_cifar10, monkeypatch):
    folder, _ = write_cifar10(tmp_path)
    table = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in cifar.MD5["cifar10"]}
    monkeypatch.setitem(cifar.MD5, "cifar10", {**table, "data_batch_3": "0" * 32})
    with pytest.raises(DatadietError, match="wrong checksum of data_batch_3; delete it and download again"):
        load("cifar10", data_dir=tmp_path)
    assert len(load("cifar10", data_dir=tmp_path, verify=False)) == 100


def test_the_real_checksums_refuse_a_made_up_folder(tmp_path, write_cifar10):
    write_cifar10(tmp_path)
    with pytest.raises(DatadietError, match="wrong checksum of data_batch_1, data_batch_2"):
        load("cifar10", data_dir=tmp_path)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, write_cifar10):
    folder, _ = write_cifar10(tmp_path)
    (folder / "test_batch").unlink()
    (folder / "test_batch").symlink_to(folder / "test_batch")
    with pytest.raises(DatadietError, match="test_batch"):
        load(folder)


def test_cifar100_has_fine_and_coarse_labels(tmp_path, write_cifar100, pack):
    folder = write_cifar100(tmp_path)
    archive = pack(folder, tmp_path / "cifar-100-python.tar.gz")
    assert load(archive).fingerprint == load(folder).fingerprint
    fine, coarse = load(folder), load(folder, coarse=True)
    assert len(fine.classes) == 100
    assert fine.classes[7] == "fine7"
    assert len(coarse.classes) == 20
    assert coarse.source["coarse"] is True
    assert np.array_equal(coarse.labels, fine.labels % 20)
    assert load(**coarse.source).fingerprint == coarse.fingerprint


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_missing_truncated_or_empty_batch_is_named(tmp_path, write_cifar10, name):
    folder, _ = write_cifar10(tmp_path)
    content = (folder / name).read_bytes()
    for broken in (content[: len(content) // 2], b"", b"not a pickle"):
        (folder / name).write_bytes(broken)
        with pytest.raises(DatadietError, match=f"{name}.*(truncated|bytes)"):
            load(folder)
    (folder / name).unlink()
    with pytest.raises(DatadietError, match=f"{name} missing"):
        load(folder)


def test_a_truncated_archive_is_detected(tmp_path, write_cifar10, pack):
    folder, _ = write_cifar10(tmp_path)
    for name in ("cifar-10-python.tar.gz", "other.tar.gz"):
        archive = pack(folder, tmp_path / name)
        archive.write_bytes(archive.read_bytes()[:-20000])
        with pytest.raises(DatadietError, match="truncated"):
            load(archive)


def test_labels_out_of_range_and_of_another_length_are_refused(tmp_path, write_cifar10):
    folder, content = write_cifar10(tmp_path)
    data, labels = content["data_batch_1"]
    batch = {b"data": data, b"labels": [*labels[:-1], 10]}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(DatadietError, match="label 10 in row 19 is out of range"):
        load(folder)
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": data, b"labels": labels[:-1]}, 2))
    with pytest.raises(DatadietError, match="no labels for its 20 images"):
        load(folder)
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": data[:, :100], b"labels": labels}, 2))
    with pytest.raises(DatadietError, match="no images of 32×32×3 bytes"):
        load(folder)


@pytest.mark.parametrize(
    "labels",
    [[[1], [1, 2], *[0] * 18], [[1, 2]] * 20, [2**70] * 20, [None] * 20, ["a"] * 20, [{}] * 20],
    ids=["several lengths", "pairs", "huge", "none", "text", "dictionaries"],
)
def test_labels_that_are_no_list_of_numbers_are_one_line(tmp_path, write_cifar10, labels):
    folder, content = write_cifar10(tmp_path)
    batch = {b"data": content["data_batch_1"][0], b"labels": labels}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(DatadietError, match=r"data_batch_1(, labels: rows of several|: its labels are not whole numb)"):
        load(folder)


def test_images_are_held_in_memory_once(tmp_path, write_cifar10):
    folder, _ = write_cifar10(tmp_path, each=400)
    load(folder)  # what is imported on the way is none of the images
    tracemalloc.start()
    data = load(folder)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    size = data.train.inputs.nbytes + data.test.inputs.nbytes
    assert size < held < 1.2 * size


class Call:
    """Pickles as a call of `function` with `arguments`, with `state` set on what it returns."""

    def __init__(self, function, arguments, *state):
        self.call = (function, arguments, *state)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_asks_for_a_function_is_refused_and_never_run(tmp_path, write_cifar10, protocol):
    folder, _ = write_cifar10(tmp_path)
    trace = tmp_path / "ran"
    for function, arguments in (
        (os.mkdir, (str(trace),)),
        (eval, (f"open({str(trace)!r}, 'w')",)),
        (codecs.decode, (b"x",)),
    ):
        (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Call(function, arguments)}, protocol))
        with pytest.raises(DatadietError, match=r"data_batch_1: this pickle asks for '[\w.]+', which is not an array"):
            load(folder)
        assert not trace.exists()


def test_a_pickle_that_reaches_through_a_dotted_name_is_refused():
    hostile = b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93."
    with pytest.raises(DatadietError, match=r"asks for 'numpy.dtype.__class__'"):
        unpickle(hostile, where="x")


reconstruct = np.zeros(1).__reduce__()[0]
HOSTILE = {
    "objects": np.array([1, "a"], dtype=object),
    "records": np.zeros(2, dtype=[("a", "i4")]),
    "text": np.array(["a"]),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "a type by a wild name": Call(np.dtype, ("O", False, True)),
    "a type by a comma list": Call(np.dtype, ("i4,i4", False, True)),
    "a type without a name": Call(np.dtype, ([("a", "O")], False, True)),
    "another class": Call(reconstruct, (np.dtype, (0,), b"b")),
    "ndarray called itself": Call(np.ndarray, ((1 << 40,),)),
    "an array never filled": Call(reconstruct, (np.ndarray, (0,), b"b")),
    "too few bytes": Call(reconstruct, (np.ndarray, (0,), b"b"), (1, (1000, 1000), np.dtype("u1"), False, b"x")),
    "a negative shape": Call(reconstruct, (np.ndarray, (0,), b"b"), (1, (-1, -1), np.dtype("u1"), False, b"x")),
    "a list for its bytes": Call(reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("u1"), False, [1])),
    "an unknown encoding": Call(codecs.encode, ("x", "rot13")),
    "a type itself": np.dtype("u1"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_allowed_names_used_in_hostile_ways_are_refused(kind, protocol):
    content = pickle.dumps({b"data": HOSTILE[kind]}, protocol)
    with pytest.raises(DatadietError, match=r"this pickle|bytes|truncated"):
        unpickle(content, where="batch")


def test_the_state_of_an_admitted_name_cannot_be_set():
    hostile = b"\x80\x02cnumpy\ndtype\n}X\x08\x00\x00\x00__call__K\x01sb."
    with pytest.raises(DatadietError, match="sets the state of a name"):
        unpickle(hostile, where="x")


def test_plain_arrays_survive_exactly_and_without_warnings():
    arrays = {
        "u1": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(12, dtype=np.int32).reshape(3, 4)),
        "big endian": np.arange(5, dtype=">f8"),
        "empty": np.zeros((0, 3), np.float32),
        "many": [np.ones(2), np.zeros(3, bool)],
        "rest": [1, "two", b"three", None, 4.5],
    }
    for protocol in range(6):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            back = unpickle(pickle.dumps(arrays, protocol), where="x")
        for key in ("u1", "fortran", "big endian", "empty"):
            assert np.array_equal(back[key], arrays[key])
            assert back[key].dtype == arrays[key].dtype
        assert all(np.array_equal(a, b) for a, b in zip(back["many"], arrays["many"], strict=True))
        assert back["rest"][:2] == [1, "two"]


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_pickle_is_an_error_or_a_dictionary_and_nothing_else(data):
    content = bytearray(pickle.dumps({b"data": np.arange(64, dtype=np.uint8), b"labels": [1, 2, 3]}, 2))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DatadietError):
        assert isinstance(unpickle(bytes(content), where="x"), dict)


def test_a_hostile_memo_number_takes_no_memory():
    with pytest.raises(DatadietError, match="truncated"):
        unpickle(b"\x80\x02}r\xff\xff\xff\x7f.", where="x")
