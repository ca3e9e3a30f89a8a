"""A `.npz` file: x_train, y_train, x_test, y_test, or one pair of inputs and labels. Objects are not read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from datadiet.data import arrays
from datadiet.data.buffers import freeze
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.machine import expanded

INPUTS = ("x", "X", "images", "data", "inputs")
LABELS = ("y", "labels", "targets", "label", "target")


def load(path: Path, *, test: str | Path | None = None, test_fraction: float | None = 0.2, name: str = "") -> Dataset:
    """The arrays of a `.npz`; without x_test, a stratified `test_fraction` is cut off for testing.

    Args:
        path: the file. Optional further arrays: `classes` (names in label order), `ids` (of training rows).
        test: another such file to test on, with x and y or x_test and y_test, where `path` has no x_test.
    """
    names = _names(path)
    if "x_train" in names or "y_train" in names:
        pairs = [("x_train", "y_train"), ("x_test", "y_test")]
        if "x_test" not in names and "y_test" not in names:
            pairs.pop()
    else:
        pairs = [_pair(names, path, "x_train, y_train, x_test, y_test, or x and y")]
    needed = [key for pair in pairs for key in pair]
    for key in needed:
        if key not in names:
            raise DatadietError(f"has no array {key!r}", where=path)
    found = _read(path, [*needed, *(key for key in ("classes", "ids") if key in names)])
    train, *tested = [(found[x], found[y]) for x, y in pairs]
    if test is not None:
        if tested:
            raise DatadietError("test examples are given twice", where=path, fix="leave out test=")
        file = expanded(test)
        if not file.is_file():
            raise DatadietError("no such file", where=file, fix="give another .npz to test on")
        names = _names(file)
        x, y = ("x_test", "y_test") if {"x_test", "y_test"} <= set(names) else _pair(names, test, "x and y")
        held = _read(file, (x, y))
        tested = [(held[x], held[y])]
    return arrays.load(
        train,
        test=tested[0] if tested else None,
        test_fraction=test_fraction,
        name=name or path.stem,
        classes=_texts(found, "classes", path),
        ids=_texts(found, "ids", path),
    )


def _texts(found: dict[str, np.ndarray], key: str, path: Path) -> list[str] | None:
    if key not in found:
        return None
    array = np.asarray(found[key])
    if array.ndim != 1:
        raise DatadietError(f"the array {key!r} is of shape {array.shape}", where=path, fix="a list is needed")
    return [str(one) for one in array.tolist()]


def _pair(found: Collection[str], path: str | Path, names: str) -> tuple[str, str]:
    x, y = next((k for k in INPUTS if k in found), None), next((k for k in LABELS if k in found), None)
    if x is None or y is None:
        raise DatadietError(
            f"no pair of inputs and labels among its arrays ({', '.join(found) or 'none'})",
            where=path,
            fix=f"call them {names}",
        )
    return x, y


def _names(path: Path) -> list[str]:
    with _opened(path) as archive:
        return list(archive.files)


def _read(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    with _opened(path) as archive:
        out = {}
        for key in keys:
            try:
                out[key] = freeze(archive[key])  # nobody else's: it need not be copied
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                raise DatadietError(
                    f"the array {key!r} holds Python objects, which are not read",
                    where=path,
                    fix="save it as numbers or fixed-width text",
                ) from error
        return out


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The archive; whatever is wrong with it, in one line."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DatadietError("one .npy array, not an .npz", where=path, fix="save x and y with numpy.savez")
        with archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise DatadietError("empty, truncated, or not an .npz file", where=path, fix="save it again") from error
