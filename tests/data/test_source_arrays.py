"""Arrays in memory, and .npz files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datadiet.data import Examples, buffers, load
from datadiet.errors import DatadietError

X = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
Y = np.arange(40) % 4


def test_npz_with_named_splits_and_with_one_pair(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:8], y_test=Y[:8], classes=list("abcd"))
    data = load(tmp_path / "a.npz")
    assert (len(data), len(data.test), data.classes) == (40, 8, ("a", "b", "c", "d"))
    for x, y in (("x", "y"), ("images", "labels"), ("data", "targets")):
        np.savez_compressed(tmp_path / "b.npz", **{x: X, y: Y})
        data = load(tmp_path / "b.npz", test_fraction=0.25)
        assert (len(data), len(data.test)) == (28, 12)
        assert np.array_equal(data.train.inputs, X[data.rows])
        assert load(**data.source).fingerprint == data.fingerprint


def test_another_npz_may_be_given_to_test_on(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(12.0).reshape(6, 2), y=[0, 1] * 3)
    np.savez(tmp_path / "b.npz", x_test=np.arange(4.0).reshape(2, 2), y_test=[1, 0])
    np.savez(tmp_path / "c.npz", x_train=np.ones((4, 2)), y_train=[0, 1] * 2, x_test=np.ones((2, 2)), y_test=[0, 1])
    data = load(tmp_path / "a.npz", test=tmp_path / "b.npz")
    assert (len(data), data.test.labels.tolist()) == (6, [1, 0])
    assert load(**data.source).fingerprint == data.fingerprint
    with pytest.raises(DatadietError, match="test examples are given twice"):
        load(tmp_path / "c.npz", test=tmp_path / "b.npz")
    with pytest.raises(DatadietError, match=r"d\.npz"):
        load(tmp_path / "a.npz", test=tmp_path / "d.npz")


def test_npz_ids_follow_their_rows(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, ids=[f"i{row}" for row in range(40)])
    data = load(tmp_path / "a.npz")
    assert list(data.train.ids) == [f"i{row}" for row in data.rows]


def test_broken_npz_files_are_one_line(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=X, y=Y)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-10], b"no zip", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(DatadietError, match=r"empty, truncated, or not an .npz file"):
            load(path)
    damaged = bytearray(whole)
    damaged[2000] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(DatadietError, match="truncated"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(DatadietError, match="an empty file"):
        load(path)


def test_npz_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], dtype=object), y=Y)
    with pytest.raises(DatadietError, match="'x' holds Python objects, which are not read"):
        load(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def test_npz_arrays_that_are_not_needed_are_not_read(tmp_path):
    odd = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "a.npz", x=X, y=Y, data=odd, info=odd)
    assert len(load(tmp_path / "a.npz", test_fraction=0)) == 40
    assert len(load(tmp_path / "a.npz", test=tmp_path / "a.npz").test) == 40
    np.savez(tmp_path / "b.npz", x=X, y=Y, ids=odd)
    with pytest.raises(DatadietError, match="'ids' holds Python objects"):
        load(tmp_path / "b.npz")


def test_an_npz_of_another_content_is_one_line(tmp_path):
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(DatadietError, match=r"a\.npz: one \.npy array, not an \.npz; save x and y with numpy\.savez"):
        load(path)
    for key, odd in (("classes", 3), ("ids", "abc"), ("ids", [["a", "b"]] * 40), ("classes", np.float64(4))):
        np.savez(path, x=X, y=Y, **{key: odd})
        with pytest.raises(DatadietError, match=rf"the array '{key}' is of shape \(.*\); a list is needed") as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_npz_without_a_pair_lists_its_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", foo=X, bar=Y)
    with pytest.raises(DatadietError, match=r"no pair of inputs and labels among its arrays \(foo, bar\)"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X)
    with pytest.raises(DatadietError, match="has no array 'y_test'"):
        load(tmp_path / "a.npz")


def test_arrays_and_tensors_are_taken_in_pairs():
    data = load((X, Y), name="mine")
    assert (data.name, len(data), len(data.test)) == ("mine", 32, 8)
    assert data.source == {"source": "memory"}
    whole = load((X, Y), test_fraction=0)
    assert whole.test is None
    assert whole.rows is None
    for pair in (((X, Y), (X[:8], Y[:8])), (X, Y)):
        data = load(pair) if isinstance(pair[0], tuple) else load(pair, test=(X[:8], Y[:8]))
        assert (len(data), len(data.test)) == (40, 8)
    tensors = load((torch.from_numpy(X.transpose(0, 3, 1, 2).copy()), torch.from_numpy(Y)), test_fraction=0)
    assert tensors.fingerprint == whole.fingerprint


def test_classes_that_no_example_has_are_named(caplog):
    data = load((X, Y + 1))
    assert data.classes == tuple(map(str, range(int(Y.max()) + 2)))
    assert f"no example is of class 0; classes are counted from 0, and each of the {Y.max() + 2} becomes" in caplog.text
    caplog.clear()
    load((X, Y))
    assert caplog.text == ""


GIVEN = {
    "bytes": lambda: X.copy(),
    "floats": lambda: X.astype(np.float32),
    "a table": lambda: np.random.default_rng(0).random((40, 3), np.float32),
    "grey images": lambda: X[..., 0].copy(),
    "a read-only view": lambda: _read_only(X.copy()),
    "a tensor": lambda: torch.rand(40, 1, 5, 5),
    "a dictionary": lambda: {"a": np.arange(80).reshape(40, 2), "b": torch.ones(40)},
}


def _read_only(array):
    view = array[:]
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("cut", [False, True])
def test_what_happens_to_an_array_after_it_was_handed_over_changes_nothing(kind, cut):
    x, y = GIVEN[kind](), Y.copy()
    data = load((x, y)) if cut else load(((x, y), (x, y)))
    before = (data.train.fingerprint, data.test.fingerprint)
    for array in (*(x.values() if isinstance(x, dict) else [x]), y):
        (array.base if kind == "a read-only view" and array is x else array)[:] = 7
    assert (Examples(data.train.inputs, data.labels).fingerprint, data.test.fingerprint) == before
    assert Examples(data.test.inputs, data.test.labels).fingerprint == before[1]


def test_what_nobody_can_write_to_is_not_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("copied")

    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    np.savez(tmp_path / "b.npz", x_train=np.asfortranarray(X), y_train=Y, x_test=X, y_test=Y)
    own = X.copy()
    own.flags.writeable = False
    monkeypatch.setattr(buffers, "buffer", refuse)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(load(((mapped, Y), (mapped, Y))).train.inputs, np.memmap)
    assert np.shares_memory(load(((own, Y), (own, Y))).train.inputs, own)
    for name in ("a.npz", "b.npz"):
        assert len(load(tmp_path / name)) == 40
    with pytest.raises(AssertionError, match="copied"):
        load(((X, Y), (X, Y)))


def test_labels_may_be_names():
    names = np.array(["cat", "dog"])[Y % 2]
    data = load((X, names), test=(X[:2], ["dog", "cat"]))
    assert data.classes == ("cat", "dog")
    assert data.test.labels.tolist() == [1, 0]
    with pytest.raises(DatadietError, match="'cow' in row 1 does not occur in training"):
        load((X, names), test=(X[:2], ["dog", "cow"]))


class NotAvailable:
    """As pandas.NA: every comparison gives itself, which is neither true nor false."""

    def __eq__(self, other):
        return self

    def __ne__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = object.__hash__


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_matrix_and_a_masked_array_without_a_mask_are_plain_arrays():
    x = np.random.default_rng(0).random((40, 3))
    want = load((x, Y))
    for same in (np.matrix(x), np.ma.array(x), np.ma.array(x, mask=np.zeros(x.shape, bool))):
        data = load((same, np.ma.array(Y)))
        assert type(data.train.inputs) is np.ndarray
        assert data.fingerprint == want.fingerprint


BAD = {
    "training inputs: 2 missing .masked. values, the first in row 5": (
        np.ma.array(np.ones((40, 3)), mask=np.isin(np.arange(120), [16, 20]).reshape(40, 3)),
        Y,
    ),
    "training labels: 1 missing .masked. values, the first in row 4": (X, np.ma.array(Y, mask=np.arange(40) == 4)),
    "labels are missing, the first in row 3 .counted from 0.; fill": (
        X,
        np.array([NotAvailable() if row == 3 else row % 2 for row in range(40)], object),
    ),
    "38 labels for 40 inputs": (X, Y[:38]),
    "label -1 in row 2 is out of range; classes are counted from 0; drop unlabelled rows, or write": (
        X,
        np.where(np.arange(40) == 2, -1, Y),
    ),
    "label -7 in row 2 is out of range; classes are counted from 0$": (X, np.where(np.arange(40) == 2, -7, Y)),
    "test labels: the label '5' in row 1 does not occur in training; classes are 0, 1, 2, 3$": (
        (X, Y),
        (X[:2], [0, 5]),
    ),
    "test labels: the label '1' in row 0 does not occur in training; classes are 0, 2$": ((X, Y % 2 * 2), (X[:1], [1])),
    "inputs of shape .40, 0.; .*, none of them 0": (X.reshape(40, -1)[:, :0], Y),
    "inputs of shape .40, 0, 8, 3.": (X[:, :0], Y),
    "test inputs: inputs of shape .40, 8, 0, 3.": ((X, Y), (X[:, :, :0], Y)),
    "'a' is of shape .40, 0.": ({"a": np.ones((40, 0))}, Y),
    "'a' is of shape ..;": ({"a": 3.0}, Y),
    "labels of shape ..; one label a row": (X, 3),
    "1 labels are missing .NaN., the first in row 3": (X, np.where(np.arange(40) == 3, np.nan, Y)),
    "1 labels are missing, the first in row 1": (X, [None if row == 1 else "a" for row in range(40)]),
    "1 labels are missing, the first in row 2": (
        X,
        [float("nan") if row == 2 else "ab"[row % 2] for row in range(40)],
    ),
    "labels are not whole numbers": (X, Y + 0.5),
    "one label a row is needed": (X, np.eye(4)[Y]),
    "all training examples are of one class": (X, np.zeros(40, int)),
    "NaN or infinite values, the first in row 5": (
        np.where(np.arange(40)[:, None] == 5, np.nan, np.ones((40, 3))),
        Y,
    ),
    "NaN or infinite values, the first in row 6": (
        np.where(np.arange(40)[:, None] == 6, np.inf, np.ones((40, 3))),
        Y,
    ),
    "finite values too large for float32, the first .1e.300. in row 7 .counted from 0.; scale them": (
        np.where(np.arange(40)[:, None] == 7, 1e300, np.ones((40, 3))),
        Y,
    ),
    "no examples": (X[:0], Y[:0]),
    "rows of several sizes": ([[1.0, 2.0]] * 39 + [[1.0]], Y),
    "class '3' has 1 example, too few to split": (X, np.where(np.arange(40) == 0, 3, Y % 3)),
    "is out of range: more classes than examples": (X, Y * 10**9),
    "numbers are needed": (np.array([["a", "b"]] * 40), Y),
    "inputs of shape .40,.": (np.zeros(40), Y),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arrays_are_one_line(message):
    with pytest.raises(DatadietError, match=message) as caught:
        load(BAD[message])
    assert "\n" not in str(caught.value)


def test_what_is_no_dataset_is_said():
    for thing in (3, None, [X, Y], {"x": X}, X):
        with pytest.raises(DatadietError, match="is no dataset; give a name, a path"):
            load(thing)
    with pytest.raises(DatadietError, match="a pair"):
        load((X,))
