"""CIFAR-10 and CIFAR-100: the official python folder or tar.gz, read without running the pickles in it."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.data.checks import as_array
from datadiet.data.dataset import Dataset, from_arrays
from datadiet.data.fetch import Progress, Published, check_md5, find, find_or_fetch, places
from datadiet.data.unpickle import unpickle
from datadiet.errors import DatadietError
from datadiet.machine import expanded

TRAIN10 = tuple(f"data_batch_{number}" for number in range(1, 6))
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
SITE = "https://www.cs.toronto.edu/~kriz/"
ARCHIVES = {
    "cifar10": Published(
        "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", (SITE + "cifar-10-python.tar.gz",)
    ),
    "cifar100": Published(
        "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", (SITE + "cifar-100-python.tar.gz",)
    ),
}
MD5: dict[str, dict[str, str]] = {
    "cifar10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    "cifar100": {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
}


def load_cifar10(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    verify: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """CIFAR-10: 50 000 + 10 000 colour images of 32×32, 10 classes."""
    return read(_locate("cifar10", data_dir, download, progress), "cifar10", verify=verify)


def load_cifar100(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    verify: bool = True,
    coarse: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """CIFAR-100: 50 000 + 10 000 colour images of 32×32, 100 classes (20 with coarse=True)."""
    return read(_locate("cifar100", data_dir, download, progress), "cifar100", verify=verify, coarse=coarse)


def recognise(path: Path) -> str | None:
    """Which of the two a folder or archive is, by the names of its files; None for neither."""
    if path.is_dir():
        for name, folder in FOLDERS.items():
            if (path / folder).is_dir() or all((path / file).is_file() for file in MD5[name]):
                return name
        if (path / TRAIN10[0]).is_file():
            return "cifar10"
        return None
    for name in FOLDERS:
        if path.name == ARCHIVES[name].name:
            return name
    try:
        with tarfile.open(path) as archive:
            names = {Path(member.name).name for member in archive}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatadietError("truncated, or not a tar archive", where=path, fix="get it again") from error
    return next((name for name in FOLDERS if set(MD5[name]) <= names), None)


def read(path: Path, name: str, *, verify: bool = False, coarse: bool = False) -> Dataset:
    """The Dataset in a CIFAR folder or tar.gz.

    Args:
        path: the folder with the batch files, its parent, or the archive.
        name: "cifar10" or "cifar100".
        verify: compare every file with its published MD5.
        coarse: CIFAR-100's 20 superclasses instead of its 100 classes.
    """
    files = _contents(path, name)
    if verify:
        wrong = []
        for file, expected in MD5[name].items():
            try:
                check_md5(files[file], expected, where=file)
            except DatadietError:
                wrong.append(file)
        if wrong:
            raise DatadietError(f"wrong checksum of {', '.join(wrong)}", where=path, fix="delete it and download again")
    small, label_key, names_key = (
        (True, "labels", "label_names")
        if name == "cifar10"
        else (
            False,
            *(("coarse_labels", "coarse_label_names") if coarse else ("fine_labels", "fine_label_names")),
        )
    )
    train_files, test_file, meta_file = (
        (TRAIN10, "test_batch", "batches.meta") if small else (("train",), "test", "meta")
    )
    meta = unpickle(files[meta_file], where=path / meta_file)
    if names_key not in meta or not isinstance(meta[names_key], list):
        raise DatadietError(f"has no {names_key}", where=path / meta_file)
    classes = [_text(label) for label in meta[names_key]]
    batches = [_batch(files.pop(file), label_key, path / file) for file in train_files]
    images = np.empty((sum(len(labels) for _, labels, _ in batches), 32, 32, 3), np.uint8)
    start = 0
    for data, labels, _ in batches:
        images[start : start + len(labels)] = data
        start += len(labels)
    ids = [one for _, _, names in batches for one in names]
    test_images, test_labels, _ = _batch(files[test_file], label_key, path / test_file)
    return from_arrays(
        name,
        (images, np.concatenate([labels for _, labels, _ in batches])),
        (np.ascontiguousarray(test_images), test_labels),
        classes=classes,
        ids=ids if len(ids) == len(images) else None,
    )


def _locate(name: str, data_dir: str | os.PathLike[str] | None, download: bool, progress: Progress | None) -> Path:
    folders = places(name, data_dir)
    for folder in folders:
        if (folder / next(iter(MD5[name]))).is_file() and recognise(folder) == name:
            return folder
    found = find(folders, (FOLDERS[name], ARCHIVES[name].name))
    if found is None and data_dir is not None:
        below = sorted(expanded(data_dir).glob(f"*/{FOLDERS[name]}"))
        found = below[0] if below else None
    return found or find_or_fetch(name, [ARCHIVES[name]], data_dir, download, progress=progress)[0]


def _contents(path: Path, name: str) -> dict[str, bytes]:
    """The bytes of every file of the dataset, by name."""
    wanted = set(MD5[name])
    found: dict[str, bytes] = {}
    if path.is_dir():
        folder = path / FOLDERS[name] if (path / FOLDERS[name]).is_dir() else path
        found = {file: (folder / file).read_bytes() for file in wanted if (folder / file).is_file()}
    else:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    base = Path(member.name).name
                    if base in wanted and member.isfile() and (stream := archive.extractfile(member)):
                        found[base] = stream.read()
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DatadietError(
                "truncated, or not a tar archive", where=path, fix="delete it and download again"
            ) from error
    if lacking := sorted(wanted - set(found)):
        raise DatadietError(f"{', '.join(lacking)} missing", where=path, fix="download it again")
    return found


def _batch(content: bytes, label_key: str, where: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images (N, 32, 32, 3) uint8 (a view, channels last), labels (N,), file names."""
    batch: Mapping[str, Any] = unpickle(content, where=where)
    data, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise DatadietError("holds no images of 32×32×3 bytes", where=where, fix="download it again")
    if not isinstance(labels, (list, np.ndarray)) or len(labels) != len(data):
        raise DatadietError(f"has no {label_key} for its {len(data)} images", where=where, fix="download it again")
    numbers = as_array(labels, f"{where}, {label_key}")
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        raise DatadietError(f"its {label_key} are not whole numbers", where=where, fix="download it again")
    names = batch.get("filenames", [])
    names = [_text(one) for one in names] if isinstance(names, list) and len(names) == len(data) else []
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), numbers, names


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
