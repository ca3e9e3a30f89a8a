"""Image folders, CINIC-10 and idx files."""

from __future__ import annotations

import errno
import gzip
import io
import logging
import os
import shutil
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from datadiet.data import buffers, cinic, load
from datadiet.errors import DatadietError


def test_a_folder_of_class_folders_is_read_in_sorted_order(tmp_path, write_images):
    data = load(write_images(tmp_path / "insects"), test_fraction=0)
    assert data.name == "insects"
    assert data.classes == ("ant", "bee", "cow")
    assert data.input_shape == (3, 6, 8)
    assert data.train.inputs[:, 0, 0, 0].tolist() == list(range(30))
    assert data.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert data.train.ids[11] == "bee/001.png"
    assert data.test is None


def test_the_test_split_of_a_folder_without_one_is_stratified_fixed_and_named_by_rows(tmp_path, write_images):
    root = write_images(tmp_path / "insects")
    data, again = load(root), load(root)
    assert data.fingerprint == again.fingerprint
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert data.train.inputs[:, 0, 0, 0].tolist() == data.rows.tolist()
    assert [int(one[-7:-4]) for one in data.train.ids] == [row % 10 for row in data.rows]
    assert load(**data.source).fingerprint == data.fingerprint


def test_train_and_test_folders_are_the_splits(tmp_path, write_images, caplog):
    for split in ("train", "val", "test"):
        write_images(tmp_path / split, each=4 if split == "test" else 6)
    with caplog.at_level(logging.WARNING):
        data = load(tmp_path)
    assert (len(data), len(data.test)) == (18, 12)
    assert "val is not used" in caplog.text
    assert data.train.ids[0] == "train/ant/000.png"


def test_another_folder_may_be_given_to_test_on(tmp_path, write_images):
    root, other = write_images(tmp_path / "insects"), write_images(tmp_path / "others", each=3)
    data = load(root, test=other)
    assert (len(data), len(data.test)) == (30, 9)
    assert data.train.ids[0] == "ant/000.png"
    assert load(**data.source).fingerprint == data.fingerprint
    with pytest.raises(DatadietError, match="others-not: no such folder"):
        load(root, test=tmp_path / "others-not")
    write_images(tmp_path / "both" / "train")
    write_images(tmp_path / "both" / "test")
    with pytest.raises(DatadietError, match="test examples are given twice"):
        load(tmp_path / "both", test=other)


def test_a_folder_that_may_not_be_read_is_an_error_and_no_smaller_dataset(tmp_path, write_images, monkeypatch):
    root = write_images(tmp_path / "insects")
    real = os.scandir

    def scandir(path="."):
        if os.fspath(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatadietError, match=r"bee: cannot be read \(Permission denied\)"):
        load(root)


def test_a_class_may_be_called_train(tmp_path, write_images):
    assert load(write_images(tmp_path / "traffic", classes=("car", "plane", "train"))).classes[2] == "train"


def test_validation_serves_as_test_where_there_is_no_test(tmp_path, write_images):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", each=2)
    assert len(load(tmp_path).test) == 6


def test_a_class_only_the_test_split_has_is_an_error(tmp_path, write_images):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", classes=("ant", "elk"))
    with pytest.raises(DatadietError, match="class 'elk' does not occur in training"):
        load(tmp_path)


def test_grey_files_give_one_channel_and_one_coloured_file_three(tmp_path, write_images, png):
    root = write_images(tmp_path / "insects", mode="L")
    assert load(root).input_shape == (1, 6, 8)
    (root / "cow" / "z.png").write_bytes(png(9))
    assert load(root).input_shape == (3, 6, 8)


def test_mixed_sizes_name_two_files_and_are_mended_by_size(tmp_path, write_images, png):
    root = write_images(tmp_path / "insects")
    (root / "bee" / "big.png").write_bytes(png(200, size=(20, 10)))
    with pytest.raises(DatadietError, match=r"ant/000.png is 8×6, .*bee/big.png is 20×10; give size="):
        load(root)
    assert load(root, size=4).input_shape == (3, 4, 4)
    data = load(root, size=[5, 7])
    assert data.input_shape == (3, 5, 7)
    assert load(**data.source).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    "size", [0, -3, (4,), "big", 1.5, 1e9, 10**8, True, [8, 0], [8, 8.5], [8, True], [8, 8, 8], {"a": 1}, [8, 10**30]]
)
def test_a_size_that_is_none_is_refused(tmp_path, write_images, size):
    with pytest.raises(DatadietError, match=r"size: size is .*; give whole pixels, 1 to 10000, or a pair"):
        load(write_images(tmp_path / "insects"), size=size)


def test_images_that_fit_nowhere_are_refused_before_a_disk_is_filled(tmp_path, write_images, monkeypatch):
    monkeypatch.setattr(buffers, "reserve", lambda *_: pytest.fail("blocks are claimed"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    with pytest.raises(DatadietError, match=r"scratch: 8\.4 GiB are needed, 1\.0 GiB are free; free some space"):
        load(write_images(tmp_path / "insects"), size=10_000)
    with pytest.raises(DatadietError, match=r"GiB are needed"):
        buffers.buffer((10**9, 10**9, 10**9), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_is_named(tmp_path, write_images, kind):
    root = write_images(tmp_path / "insects")
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(out, kind)
    bad = root / "bee" / ("bad.png" if kind == "PNG" else "bad.jpg")
    for content in (out.getvalue()[:-40], b"", b"no image at all"):
        bad.write_bytes(content)
        with pytest.raises(DatadietError, match=r"bee/bad\.\w+: unreadable or truncated image"):
            load(root)


def test_hidden_folders_and_files_are_no_data(tmp_path, write_images, png):
    root = write_images(tmp_path / "insects", classes=("ant", "bee", "train"))
    want = load(root).fingerprint
    for place in (root / "ant" / ".ipynb_checkpoints", root / "train" / ".cache", root / ".thumbnails"):
        place.mkdir()
        (place / "copy.png").write_bytes(png(99))
    (root / "bee" / ".hidden.png").write_bytes(png(99))
    assert load(root).fingerprint == want


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have file names in UTF-8 alone")
def test_names_that_are_no_utf8_are_made_printable(tmp_path, write_images):
    odd, file = os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff.png")
    root = write_images(tmp_path / "insects")
    (root / "ant").rename(root / odd)
    (root / odd / "000.png").rename(root / odd / file)
    root = root.rename(tmp_path / odd)
    data = load(root, test_fraction=0)
    assert (data.name, data.classes) == ("caf\\xe9", ("bee", "caf\\xe9", "cow"))
    assert "caf\\xe9/\\xff.png" in data.train.ids
    assert load(**data.source).fingerprint == data.fingerprint


def test_an_empty_class_folder_is_named(tmp_path, write_images):
    root = write_images(tmp_path / "insects")
    (root / "dog").mkdir()
    with pytest.raises(DatadietError, match="dog: no images in this class folder"):
        load(root)


def test_a_folder_without_classes_or_with_one_is_refused(tmp_path, write_images, png):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatadietError, match="an empty folder"):
        load(tmp_path / "empty")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(png())
    with pytest.raises(DatadietError, match="no class folders"):
        load(tmp_path / "flat")
    with pytest.raises(DatadietError, match="all training examples are of one class"):
        load(write_images(tmp_path / "one", classes=("ant",)))


def test_a_class_too_small_for_the_split_is_named(tmp_path, write_images, png):
    root = write_images(tmp_path / "insects")
    (root / "yak").mkdir()
    (root / "yak" / "only.png").write_bytes(png())
    with pytest.raises(DatadietError, match="class 'yak' has 1 example, too few to split"):
        load(root)


def test_an_image_of_16_bits_is_refused_not_clipped(tmp_path, write_images):
    root = write_images(tmp_path / "insects", mode="L")
    Image.fromarray(np.full((6, 8), 40_000, np.uint16)).save(root / "ant" / "deep.png")
    with pytest.raises(DatadietError, match="more than 8 bits"):
        load(root)


def test_a_photograph_stored_sideways_stands_upright(tmp_path, write_images):
    root = write_images(tmp_path / "insects")
    image = Image.fromarray(np.zeros((8, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(root / "ant" / "phone.jpg", exif=exif)
    assert load(root).input_shape == (3, 6, 8)


@pytest.fixture
def cinic_folder(tmp_path, write_images):
    for split, each in (("train", 3), ("valid", 2), ("test", 1)):
        write_images(tmp_path / "CINIC-10" / split, classes=cinic.CLASSES, each=each, size=(32, 32))
    return tmp_path / "CINIC-10"


def test_cinic_merges_train_and_validation(cinic_folder):
    data = load(cinic_folder)
    assert (len(data), len(data.test)) == (50, 10)
    assert data.classes == cinic.CLASSES
    assert np.bincount(data.labels).tolist() == [5] * 10
    assert data.train.ids[0] == "train/airplane/000.png"
    assert data.train.ids[-1] == "valid/truck/001.png"
    assert data.train.inputs[3, 0, 0, 0] == 3
    assert isinstance(data.train.inputs, np.memmap)


def test_cinic_is_decoded_once_and_again_when_a_file_changes(cinic_folder, monkeypatch, png):
    first = load(cinic_folder)
    decoded = []
    real = cinic._decode
    monkeypatch.setattr(cinic, "_decode", lambda *a: (decoded.append(1), real(*a)))
    assert load(cinic_folder).fingerprint == first.fingerprint
    assert not decoded
    noisy = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noisy).save(cinic_folder / "train" / "cat" / "001.png")
    assert load(cinic_folder).fingerprint != first.fingerprint
    assert decoded


def test_what_a_killed_decoding_of_cinic_left_goes_with_the_next(cinic_folder, cache):
    code = "import os, sys; from datadiet.data import cinic, load; cinic._pixels = lambda *_: os._exit(9)"
    done = subprocess.run([sys.executable, "-c", f"{code}; load(sys.argv[1])", str(cinic_folder)], timeout=120)
    assert done.returncode == 9
    folder = cache / "decoded"
    left = list(folder.iterdir())
    assert len(left) == 2
    load(cinic_folder)
    assert not set(left) & set(folder.iterdir())
    assert len(list(folder.iterdir())) == 2


def test_a_limit_on_file_sizes_is_said_of_the_cache_not_of_cinic(cinic_folder, cache, monkeypatch):
    def too_large(*_: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(cinic, "reserve", too_large)
    with pytest.raises(DatadietError, match=r"decoded: cannot be written: the file is larger than allowed here"):
        load(cinic_folder)
    assert list((cache / "decoded").iterdir()) == []


def test_a_truncated_cache_of_cinic_is_decoded_again(cinic_folder, cache):
    first = load(cinic_folder).fingerprint
    for file in (cache / "decoded").iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    assert load(cinic_folder).fingerprint == first


def test_cinic_reads_its_archive_as_it_reads_its_folder(cinic_folder, tmp_path, cache):
    archive = tmp_path / "CINIC-10.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for entry in sorted(cinic_folder.iterdir(), reverse=True):
            tar.add(entry, arcname=f"./{entry.name}")
    folder = load(cinic_folder)
    for file in (cache / "decoded").iterdir():
        file.unlink()
    packed = load(archive)
    assert packed.fingerprint == folder.fingerprint
    assert packed.train.ids == folder.train.ids
    archive.write_bytes(archive.read_bytes()[:-500])
    with pytest.raises(DatadietError, match="truncated"):
        load(archive)


def test_the_named_cinic_insists_on_the_published_number_of_images(cinic_folder, monkeypatch):
    with pytest.raises(DatadietError, match="50 images for training, CINIC-10 has 180000"):
        load("cinic10", data_dir=cinic_folder.parent)
    monkeypatch.setattr(cinic, "COUNTS", {"train": 50, "test": 10})
    for place in (cinic_folder, cinic_folder.parent):
        data = load("cinic10", data_dir=place)
        assert load(**data.source).fingerprint == data.fingerprint


def test_a_broken_or_oddly_sized_cinic_image_is_named(cinic_folder, png):
    (cinic_folder / "valid" / "dog" / "000.png").write_bytes(png(size=(16, 16)))
    with pytest.raises(DatadietError, match=r"valid/dog/000.png: an image of 16×16"):
        load(cinic_folder)
    (cinic_folder / "valid" / "dog" / "000.png").write_bytes(b"junk")
    with pytest.raises(DatadietError, match=r"valid/dog/000.png: unreadable"):
        load(cinic_folder)


@pytest.mark.parametrize("pattern", ["{part}-ubyte", "{part}-ubyte.gz", "-ubyte", "-ubyte.gz"])
def test_idx_files_are_read_under_their_usual_names(tmp_path, write_idx, pattern):
    images = write_idx(tmp_path / "letters", pattern)
    data = load(tmp_path / "letters")
    assert np.array_equal(data.train.inputs[..., 0], images)
    assert data.input_shape == (1, 28, 28)
    assert len(data.test) == 20
    one = next(path for path in (tmp_path / "letters").iterdir() if "train-images" in path.name)
    assert load(one).fingerprint == data.fingerprint
    assert load(**data.source).fingerprint == data.fingerprint


def test_the_named_mnist_verifies_what_it_finds(tmp_path, write_idx):
    write_idx(tmp_path / "MNIST" / "raw", "{part}-ubyte.gz")
    with pytest.raises(DatadietError, match=r"train-images-idx3-ubyte.gz: wrong checksum"):
        load("mnist", data_dir=tmp_path)
    data = load("mnist", data_dir=tmp_path, verify=False)
    assert data.source["verify"] is False
    assert len(data) == 40


def test_mnist_and_fashion_mnist_beside_each_other_are_not_confused(tmp_path, write_idx):
    write_idx(tmp_path / "mnist", count=30)
    write_idx(tmp_path / "fashion-mnist", count=50)
    assert len(load("mnist", data_dir=tmp_path, verify=False)) == 30
    fashion = load("fashion-mnist", data_dir=tmp_path, verify=False)
    assert len(fashion) == 50
    assert fashion.classes[1] == "Trouser"


def test_broken_idx_files_are_named(tmp_path, write_idx, idx_bytes):
    write_idx(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    whole = path.read_bytes()
    cases = {
        "truncated: 47 bytes, its header promises 48": whole[:-1],
        "too long": whole + b"x",
        "truncated in its header": whole[:6],
        "not an idx file": b"\x89PNG....",
        "not an idx file .*begins with nothing": b"",
        "an idx file of type 0x0d": whole[:2] + b"\x0d" + whole[3:],
        "has 3 dimensions, 1 are needed": idx_bytes(np.zeros((2, 2, 2))),
        "damaged gzip": gzip.compress(whole)[:-9],
        "39 labels for 40 inputs": idx_bytes(np.arange(39) % 10),
        "test labels: the label '9' in row 9 does not occur in training": idx_bytes(np.arange(40) % 9),
    }
    for message, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(DatadietError, match=message):
            load(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((40, 0, 8))))
    with pytest.raises(DatadietError, match=r"training inputs: inputs of shape \(40, 0, 8\)"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(DatadietError, match=r"train-labels-idx1-ubyte.* missing"):
        load(tmp_path)
