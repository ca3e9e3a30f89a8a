"""A folder of images by class: root/CLASS/*.png, or root/train/CLASS/* with root/test/CLASS/* beside it."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from datadiet.data.arrays import assemble
from datadiet.data.buffers import buffer
from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError
from datadiet.machine import expanded

log = logging.getLogger(__name__)

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
GREY = {"1", "L", "LA", "La"}
TRANSPARENT = {"LA", "PA", "RGBA", "RGBa"}
DEEP = ("I", "F")  # modes of more than 8 bits a channel begin so
LARGEST = 10_000  # pixels a side that `size` may ask for
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def load(
    root: Path,
    *,
    size: int | tuple[int, int] | None = None,
    test: str | Path | None = None,
    test_fraction: float | None = 0.2,
    name: str = "",
) -> Dataset:
    """The images of a folder, in the order of their sorted relative paths.

    Args:
        root: the folder. `test` (or val, valid, validation) beside `train` is the test split; without one, a
            stratified `test_fraction` is cut off.
        size: resize the shorter side to this and crop the centre; an int, or (height, width). Needed where
            images are of several sizes.
        test: another folder of images by class to test on, where `root` has none.

    Returns:
        uint8 images, one channel where all files are grey, else three, transparent parts on white; `ids` are
        relative paths.
    """
    shape = _shape(size)
    train_root = next(iter(_splits(root, TRAIN)), root)
    test_root = None
    if train_root != root:
        test_root = next(iter(_splits(root, TEST)), None)
        for unused in sorted(_folders(root) - {train_root.name, test_root.name if test_root else ""}):
            told = test_root or "a part of it"
            log.warning("%s is not used: training is %s, testing %s", root / unused, train_root, told)
    if test is not None:
        if test_root is not None:
            raise DatadietError("test examples are given twice", where=test_root, fix="leave out test=")
        test_root = expanded(test)
        if not test_root.is_dir():
            raise DatadietError("no such folder", where=test_root)
    classes = class_names(train_root)
    _warn_of_splits(train_root, classes)
    files = [listing(train_root, classes)]
    if test_root is not None:
        tested = class_names(test_root)
        if strange := sorted(set(tested) - set(classes)):
            raise DatadietError(f"class {strange[0]!r} does not occur in training", where=test_root)
        files.append(listing(test_root, tested))
    paths = [[path for path, _ in part] for part in files]
    grey, common = _survey([path for part in paths for path in part], shape)
    arrays = []
    for part in paths:
        images = buffer((len(part), *common, 1 if grey else 3), np.uint8)
        for row, path in enumerate(part):
            images[row] = read_image(path, path, common if shape else None, grey)
        arrays.append(images)
    labels = [np.array([classes.index(label) for _, label in part], np.int64) for part in files]
    return assemble(
        name or root.resolve().name,
        (arrays[0], labels[0]),
        (arrays[1], labels[1]) if test_root is not None else None,
        test_fraction=test_fraction,
        classes=classes,
        ids=[path.relative_to(root).as_posix() for path in paths[0]],
    )


def _splits(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders of folders that are called so, in the order of `names`.

    In capitals only where no other folder holds folders, which would be classes then: one of trains, say.
    """
    held = [path for path in sorted(root.iterdir()) if _folders(path)]
    found = [path for path in held if path.name in names]
    if not found and all(path.name.lower() in (*TRAIN, *TEST) for path in held):
        found = [path for path in held if path.name.lower() in names]
    return sorted(found, key=lambda path: names.index(path.name.lower()))


def _folders(path: Path) -> set[str]:
    if not path.is_dir():
        return set()
    return {entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(".")}


def _warn_of_splits(root: Path, classes: Sequence[str]) -> None:
    """Say so where the folders taken for classes all hold the same folders: they may be splits of one set."""
    held = [_folders(root / name) for name in classes]
    if len(held) > 1 and len(held[0]) > 1 and all(one == held[0] for one in held):
        log.warning(
            "%s: %s are taken for the classes, and each holds the same folders (%s); if those are the classes, "
            "call the outer ones train and test",
            root,
            _listed(classes),
            _listed(sorted(held[0])),
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def class_names(root: Path) -> list[str]:
    """The sorted names of the class folders."""
    names = sorted(_folders(root))
    if not names:
        raise DatadietError("no class folders", where=root, fix="put images into one folder a class: CLASS/*.png")
    return names


def _refuse(error: OSError) -> None:
    raise error


def listing(root: Path, classes: Sequence[str]) -> list[tuple[Path, str]]:
    """Every image below each class folder, sorted by relative path, with its class; hidden files are left out."""
    out = []
    for name in classes:
        found = []
        for folder, inside, files in os.walk(root / name, onerror=_refuse):
            inside[:] = [one for one in inside if not one.startswith(".")]
            found += [
                Path(folder) / file
                for file in files
                if Path(file).suffix.lower() in ENDINGS and not file.startswith(".")
            ]
        found.sort()
        if not found:
            raise DatadietError("no images in this class folder", where=root / name, fix="fill or remove it")
        out += [(path, name) for path in found]
    return out


def read_image(file: Path | IO[bytes], where: object, size: tuple[int, int] | None, grey: bool) -> np.ndarray:
    """One image as (H, W, 1 or 3) uint8, upright; resized and centre-cropped where a size is given."""
    try:
        with Image.open(file) as opened:
            _check_mode(opened.mode, where)
            upright = ImageOps.exif_transpose(opened) or opened
            image = _opaque(upright).convert("L" if grey else "RGB")
            if size is not None and (image.height, image.width) != size:
                image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
            array = np.asarray(image)
    except UNREADABLE as error:
        raise unreadable(where, error) from error
    return array[..., None] if grey else array


def _opaque(image: Image.Image) -> Image.Image:
    """What is seen of an image with transparent parts on a white page; under them it may hold any colours.

    Of what is white itself nothing would be seen: that is put on black.
    """
    if image.mode not in TRANSPARENT and "transparency" not in image.info:
        return image
    shown = image.convert("RGBA")
    lowest, highest = shown.getchannel("A").getextrema()
    if lowest == 255:
        return image
    seen = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    if highest and seen.getcolors(1) == [(shown.width * shown.height, (255, 255, 255, 255))]:
        return Image.alpha_composite(Image.new("RGBA", shown.size, "black"), shown)
    return seen


def unreadable(where: object, error: Exception) -> DatadietError:
    return DatadietError(f"unreadable or truncated image ({error})", where=where, fix="replace or remove it")


def _survey(paths: list[Path], size: tuple[int, int] | None) -> tuple[bool, tuple[int, int]]:
    """Whether all images are grey, and the (height, width) they have or get; from their headers alone."""
    grey = True
    first: tuple[Path, tuple[int, int]] | None = None
    for path in paths:
        try:
            with Image.open(path) as image:
                _check_mode(image.mode, path)
                grey &= image.mode in GREY
                width, height = image.size
                if image.getexif().get(ORIENTATION) in TURNED:
                    width, height = height, width
        except UNREADABLE as error:
            raise unreadable(path, error) from error
        if size is None:
            if first is None:
                first = (path, (height, width))
            elif first[1] != (height, width):
                raise DatadietError(
                    f"images of several sizes: {first[0]} is {first[1][1]}×{first[1][0]}, {path} is {width}×{height}",
                    fix="give size= (resize and centre crop)",
                )
    if size is not None:
        return grey, size
    assert first is not None
    return grey, first[1]


def _check_mode(mode: str, where: object) -> None:
    if mode.startswith(DEEP):
        raise DatadietError(
            f"an image of more than 8 bits a channel (mode {mode})",
            where=where,
            fix="convert it to 8 bits first",
        )


def _shape(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = size if isinstance(size, (list, tuple)) else (size, size)
    whole = [int(side) for side in pair if isinstance(side, Integral) and not isinstance(side, bool)]
    if not len(pair) == len(whole) == 2 or not all(1 <= side <= LARGEST for side in whole):
        raise DatadietError(
            f"size is {size!r}", where="size", fix=f"give whole pixels, 1 to {LARGEST}, or a pair (height, width)"
        )
    return whole[0], whole[1]
