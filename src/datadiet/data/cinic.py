"""CINIC-10: its folder (or tar.gz) of train, valid and test images; train and valid merged, decoded once.

Decoding 270 000 PNG files takes minutes, so the pixels are kept in the cache as memory-mapped .npy files,
named by a digest of the listing (relative names and sizes): other files have another name.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from datadiet.data.buffers import cache_dir, reserve, writing
from datadiet.data.dataset import Dataset, from_arrays
from datadiet.data.fetch import Progress, Published, find, find_or_fetch, md5, places
from datadiet.data.folder import read_image
from datadiet.errors import DatadietError
from datadiet.store.files import atomic

log = logging.getLogger(__name__)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = {"train": ("train", "valid"), "test": ("test",)}
ARCHIVE = Published(
    "CINIC-10.tar.gz",
    "6ee4d0c996905fe93221de577967a372",
    ("https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz",),
)
COUNTS = {"train": 180_000, "test": 90_000}
SIZE = (32, 32)


def load(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    verify: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """CINIC-10: 180 000 (train and validation merged) + 90 000 colour images of 32×32, 10 classes."""
    folders = places("cinic10", data_dir, ("CINIC-10", "cinic-10"))
    path = next((folder for folder in folders if recognise(folder)), None) or find(folders, (ARCHIVE.name,))
    if path is None:
        path = find_or_fetch("cinic10", [ARCHIVE], data_dir, download, progress=progress)[0]
    return read(path, verify=verify)


def recognise(folder: Path) -> bool:
    """Whether a folder has CINIC-10's layout."""
    return all((folder / split / CLASSES[0]).is_dir() for split in ("train", "valid", "test"))


def read(path: Path, *, verify: bool = False, name: str = "cinic10") -> Dataset:
    """The Dataset in a CINIC-10 folder or archive; `ids` are the files' relative names.

    Args:
        path: the folder that holds train, valid and test, or the tar.gz.
        verify: insist on the published archive (its MD5, known only when it is decoded), or on the published
            number of images in a folder, for which no checksum is published.
    """
    names, digest = _listing(path)
    if verify and path.is_dir():
        for split, count in COUNTS.items():
            if len(names[split]) != count:
                raise DatadietError(
                    f"{len(names[split])} images for {split}ing, CINIC-10 has {count}",
                    where=path,
                    fix="unpack it again",
                )
    folder = cache_dir() / "decoded"
    files = {split: folder / f"cinic10-{digest}-{split}.npy" for split in SPLITS}
    if not all(_whole(files[split], len(names[split])) for split in SPLITS):
        if verify and path.is_file() and md5(path) != ARCHIVE.md5:
            raise DatadietError(
                f"wrong checksum: this is not the published file (MD5 {ARCHIVE.md5})",
                where=path,
                fix="delete it and download again",
            )
        _decode(path, names, files)
    labels = {
        split: np.array([CLASSES.index(file.split("/")[1]) for file in names[split]], np.int64) for split in SPLITS
    }
    arrays = {split: np.load(files[split], mmap_mode="r") for split in SPLITS}
    return from_arrays(
        name,
        (arrays["train"], labels["train"]),
        (arrays["test"], labels["test"]),
        classes=CLASSES,
        ids=names["train"],
    )


def _listing(path: Path) -> tuple[dict[str, list[str]], str]:
    """Sorted relative names ("valid/cat/x.png") of each split, and the digest of names and sizes."""
    sizes: dict[str, int] = {}
    if path.is_dir():
        for part in ("train", "valid", "test"):
            for label in CLASSES:
                if not (path / part / label).is_dir():
                    raise DatadietError(f"no folder {part}/{label}", where=path, fix="unpack CINIC-10 again")
                for entry in os.scandir(path / part / label):
                    if entry.name.endswith(".png"):
                        sizes[f"{part}/{label}/{entry.name}"] = entry.stat().st_size
    else:
        sizes = {name: member.size for name, member, _ in _members(path)}
    names = {split: sorted(name for name in sizes if name.split("/")[0] in parts) for split, parts in SPLITS.items()}
    for split in SPLITS:
        if not names[split]:
            raise DatadietError(f"no images for {split}ing", where=path, fix="unpack CINIC-10 again")
    listing = json.dumps(sorted(sizes.items())).encode()
    return names, hashlib.blake2b(listing, digest_size=8).hexdigest()


def _members(path: Path) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """The images of an archive: relative name, entry, archive."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                parts = member.name.split("/")[-3:]
                if member.isfile() and len(parts) == 3 and parts[1] in CLASSES and parts[2].endswith(".png"):
                    yield "/".join(parts), member, archive
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatadietError(
            "truncated, or not a tar archive", where=path, fix="delete it and download again"
        ) from error


def _decode(path: Path, names: dict[str, list[str]], files: dict[str, Path]) -> None:
    """Write the pixels of every split; a file appears whole or not at all."""
    folder = next(iter(files.values())).parent
    log.info("decoding %d images of %s, once", sum(map(len, names.values())), path)
    rows = {name: (split, row) for split in SPLITS for row, name in enumerate(names[split])}
    with ExitStack() as stack, writing(folder):
        unfinished = {split: stack.enter_context(atomic(files[split])) for split in SPLITS}
        arrays = {
            split: np.lib.format.open_memmap(
                unfinished[split], mode="w+", dtype=np.uint8, shape=(len(names[split]), *SIZE, 3)
            )
            for split in SPLITS
        }
        for split in SPLITS:
            with unfinished[split].open("r+b") as file:
                reserve(file.fileno(), arrays[split].nbytes)
        if path.is_dir():
            for name, (split, row) in rows.items():
                arrays[split][row] = _pixels(path / name, path / name)
        else:
            for name, member, archive in _members(path):
                split, row = rows[name]
                stream = archive.extractfile(member)
                assert stream is not None
                arrays[split][row] = _pixels(io.BytesIO(stream.read()), f"{path}, {name}")
        for array in arrays.values():
            array.flush()


def _pixels(file: Path | io.BytesIO, where: object) -> np.ndarray:
    pixels = read_image(file, where, None, grey=False)
    if pixels.shape != (*SIZE, 3):
        raise DatadietError(f"an image of {pixels.shape[1]}×{pixels.shape[0]}, CINIC-10 has 32×32", where=where)
    return pixels


def _whole(file: Path, count: int) -> bool:
    try:
        return np.load(file, mmap_mode="r").shape == (count, *SIZE, 3)
    except (OSError, ValueError, EOFError):
        return False
