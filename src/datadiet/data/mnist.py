"""MNIST and Fashion-MNIST: the four idx files, gzipped or not."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datadiet.data.dataset import Dataset, from_arrays
from datadiet.data.fetch import Progress, Published, check_md5, find, find_or_fetch, places
from datadiet.errors import DatadietError

PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
SITES = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
}
# Of each part, the .gz as published and what is in it: a file at hand may be packed anew, or not at all.
MD5: dict[str, tuple[tuple[str, str], ...]] = {
    "mnist": (
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
        ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
        ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
        ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "fashion-mnist": (
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
        ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
        ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
}
SUBFOLDERS = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion-mnist": ("fashion_mnist", "fashion", "FashionMNIST", "FashionMNIST/raw"),
}
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


def load_mnist(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    verify: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """MNIST: 60 000 + 10 000 grey images of 28×28, 10 digits."""
    return _named("mnist", data_dir, download, verify, progress)


def load_fashion_mnist(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    verify: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """Fashion-MNIST: 60 000 + 10 000 grey images of 28×28, 10 kinds of clothing."""
    return _named("fashion-mnist", data_dir, download, verify, progress)


def spellings(part: str) -> tuple[str, ...]:
    """The file names under which a part is found, the published one first."""
    plain = (f"{part}-ubyte", part.replace("-idx", ".idx") + "-ubyte", part, part.replace("-idx", ".idx"))
    return (f"{part}-ubyte.gz", *plain, *(f"{name}.gz" for name in plain[1:]))


def recognise(folder: Path) -> bool:
    """Whether a folder holds idx files."""
    return find([folder], spellings(PARTS[0])) is not None


def read_folder(folder: Path, *, name: str, classes: Sequence[str] | None = None) -> Dataset:
    """The Dataset of four idx files in `folder`."""
    paths = []
    for part in PARTS:
        path = find([folder], spellings(part))
        if path is None:
            raise DatadietError(f"{part}-ubyte[.gz] missing", where=folder)
        paths.append(path)
    return _assemble(paths, [_content(path) for path in paths], name, classes)


def read_idx(content: bytes, *, where: object) -> np.ndarray:
    """The uint8 array in an idx file: two zeros, a type, the number of dimensions, their big-endian sizes."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] not in (1, 3):
        raise DatadietError(
            f"not an idx file (it begins with {content[:4].hex() or 'nothing'})",
            where=where,
            fix="get it again",
        )
    if content[2] != 8:
        raise DatadietError(f"an idx file of type 0x{content[2]:02x}", where=where, fix="bytes (0x08) are needed")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DatadietError("truncated in its header", where=where, fix="get it again")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    needed = header
    size = 1
    for side in shape:
        size *= side
    needed += size
    if len(content) != needed:
        kind = "truncated" if len(content) < needed else "too long"
        raise DatadietError(
            f"{kind}: {len(content)} bytes, its header promises {needed}", where=where, fix="get it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _named(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    verify: bool,
    progress: Progress | None,
) -> Dataset:
    files = [
        Published(
            spellings(part)[0],
            packed,
            tuple(f"{site}{part}-ubyte.gz" for site in SITES[name]),
            spellings(part)[1:],
        )
        for part, (packed, _) in zip(PARTS, MD5[name], strict=True)
    ]
    # All four from one folder, or one of MNIST's could meet three of Fashion-MNIST's: the names are the same.
    whole = [
        folder
        for folder in places(name, data_dir, SUBFOLDERS[name])
        if all(find([folder], spellings(part)) for part in PARTS)
    ]
    if whole:
        paths = [path for part in PARTS if (path := find(whole[:1], spellings(part)))]
    else:
        paths = find_or_fetch(name, files, data_dir, download, subfolders=SUBFOLDERS[name], progress=progress)
    contents = [_content(path) for path in paths]
    if verify:
        for path, content, (_, expected) in zip(paths, contents, MD5[name], strict=True):
            check_md5(content, expected, where=path)
    return _assemble(paths, contents, name, CLASSES[name])


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DatadietError("truncated or damaged gzip file", where=path, fix="get it again") from error


def _assemble(paths: list[Path], contents: list[bytes], name: str, classes: Sequence[str] | None) -> Dataset:
    arrays = [read_idx(content, where=path) for path, content in zip(paths, contents, strict=True)]
    for path, array, dimensions in zip(paths, arrays, (3, 1, 3, 1), strict=True):
        if array.ndim != dimensions:
            raise DatadietError(f"has {array.ndim} dimensions, {dimensions} are needed", where=path)
    return from_arrays(name, (arrays[0], arrays[1]), (arrays[2], arrays[3]), classes=classes)
