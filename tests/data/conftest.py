"""Small files in the layouts that the sources read; nothing here needs a network or a real dataset."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datadiet.data import cifar

CIFAR10_CLASSES = [
    b"airplane",
    b"automobile",
    b"bird",
    b"cat",
    b"deer",
    b"dog",
    b"frog",
    b"horse",
    b"ship",
    b"truck",
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Every test has its own cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DATADIET_CACHE", str(folder))
    return folder


@pytest.fixture
def write_cifar10():
    """Write a CIFAR-10 folder of `each` images a batch; returns (folder, {file: (pixels N×3072, labels)})."""

    def write(root: Path, each: int = 20, protocol: int = 2):
        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        content = {}
        for number, name in enumerate((*cifar.TRAIN10, "test_batch")):
            data = rng.integers(0, 256, (each, 3072), dtype=np.uint8)
            labels = [(row + number) % 10 for row in range(each)]
            names = [f"{name}_{row}.png".encode() for row in range(each)]
            batch = {b"batch_label": name.encode(), b"labels": labels, b"data": data, b"filenames": names}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
            content[name] = (data, labels)
        meta = {b"label_names": CIFAR10_CLASSES, b"num_vis": 3072}
        (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=protocol))
        return folder, content

    return write


@pytest.fixture
def write_cifar100():
    def write(root: Path, each: int = 200):
        folder = root / "cifar-100-python"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(1)
        for name in ("train", "test"):
            batch = {
                b"data": rng.integers(0, 256, (each, 3072), dtype=np.uint8),
                b"fine_labels": [row % 100 for row in range(each)],
                b"coarse_labels": [row % 20 for row in range(each)],
            }
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        meta = {
            b"fine_label_names": [b"fine%d" % n for n in range(100)],
            b"coarse_label_names": [b"coarse%d" % n for n in range(20)],
        }
        (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
        return folder

    return write


@pytest.fixture
def pack():
    """Pack a folder into a tar.gz."""

    def write(folder: Path, archive: Path) -> Path:
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, arcname=folder.name)
        return archive

    return write


@pytest.fixture
def idx_bytes():
    """An array as an idx file."""

    def encode(array: np.ndarray) -> bytes:
        return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()

    return encode


@pytest.fixture
def write_idx(idx_bytes):
    """Write the four idx files, named by `pattern` (".gz" packs them); returns the images."""

    def write(folder: Path, pattern: str = "{part}-ubyte", count: int = 40) -> np.ndarray:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(2)
        train = rng.integers(0, 256, (count, 28, 28))
        arrays = {
            "train-images-idx3": train,
            "train-labels-idx1": np.arange(count) % 10,
            "t10k-images-idx3": rng.integers(0, 256, (20, 28, 28)),
            "t10k-labels-idx1": np.arange(20) % 10,
        }
        for part, array in arrays.items():
            name = pattern.format(part=part) if "{part}" in pattern else part.replace("-idx", ".idx") + pattern
            content = idx_bytes(array)
            (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return train.astype(np.uint8)

    return write


@pytest.fixture
def png():
    """An image file's bytes; the first pixel is `value`."""

    def encode(value: int = 0, size: tuple[int, int] = (8, 6), mode: str = "RGB", kind: str = "PNG") -> bytes:
        """`size` is (width, height)."""
        array = np.zeros((size[1], size[0], 3) if mode == "RGB" else (size[1], size[0]), np.uint8)
        array[0, 0] = value
        out = io.BytesIO()
        Image.fromarray(array).save(out, kind)
        return out.getvalue()

    return encode


@pytest.fixture
def write_images(png):
    """Write CLASS/name.png for every class; the first pixel counts up."""

    def write(root: Path, classes=("ant", "bee", "cow"), each: int = 10, **options) -> Path:
        for place, name in enumerate(classes):
            (root / name).mkdir(parents=True)
            for number in range(each):
                (root / name / f"{number:03}.png").write_bytes(png(place * each + number, **options))
        return root

    return write
