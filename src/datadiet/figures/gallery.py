"""The lowest and highest scoring images of each class (DD Figures 5-8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.errors import DatadietError
from datadiet.figures.style import INK, SMALL, broken, fitted, new_figure, styled, wrapped
from datadiet.selection.order import ascending

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches: a picture and its column, a line of text, between the blocks, the names of the rows.
PICTURE, CELL, LINE, GAP, SIDE = 0.74, 0.86, 0.155, 0.45, 1.2
FRAME, RED = "#d0021b", "#b00016"


@styled
def gallery(
    images: Any,
    labels: Any,
    scores: Any,
    classes: Sequence[str],
    per_class: int = 4,
    corrupted: Any = None,
    *,
    original: Any = None,
    first: int = 10,
    name: str = "score",
    title: str | None = None,
    fingerprint: str | None = None,
) -> Figure:
    """A row for each class: its lowest scoring images on the left, its highest on the right, ascending.

    Args:
        images: (N, H, W, C) or (N, H, W), or a function from indices (n,), ascending, to such an array of n
            images, so that only the ones shown are loaded. Of 2 channels the first is shown, of 4 or more the
            first three.
        labels: (N,) class numbers, as training sees them.
        scores: (N,); examples without a finite score are left out.
        classes: names of the classes; the `first` of them are shown.
        per_class: images in each block; a class with fewer than twice as many shows each of them once.
        corrupted: (N,) bool; such images are framed in red, with their given label beneath.
        original: (N,) class numbers before the corruption; then that label is written beneath too.
        fingerprint: of the dataset; keys the order among equal scores, as in a selection.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    _check(labels, scores, classes, per_class, corrupted, original)
    mask = np.zeros(len(labels), dtype=bool) if corrupted is None else np.asarray(corrupted, dtype=bool)
    numbers = range(min(first, len(classes)))
    rows = [_extremes(np.flatnonzero(labels == number), scores, per_class, fingerprint) for number in numbers]
    indices = np.array(sorted({int(i) for row in rows for block in row for i in block}), dtype=np.int64)
    pictures = dict(zip(indices.tolist(), _pictures(images, indices), strict=True))
    values = dict(zip(indices.tolist(), _written(scores[indices]), strict=True))
    given = {
        index: _given(classes, labels[index], None if original is None else original[index])
        for index in indices[mask[indices]].tolist()
    }

    # In inches from the upper left corner: the text needs the same room whatever the number of rows.
    tall, wide = next(iter(pictures.values())).shape[:2] if pictures else (1, 1)
    high = PICTURE * min(1.0, tall / wide)
    under = LINE * (1 + max((text.count("\n") + 1 for text in given.values()), default=0))
    pitch = high + under + 0.24
    width = SIDE + 2 * per_class * CELL + GAP + 0.1
    of = f" (first {len(numbers)} of {len(classes)} classes)" if len(numbers) < len(classes) else ""
    words = (title or f"Images of each class with the lowest and highest {name}") + of
    words = broken(words, 0.95 * (width - 0.24), 12, "bold")  # as drawn, letters are a little wider
    top = 0.5 + 0.2 * (words.count("\n") + 1)
    key = "framed: the label is corrupted; beneath it the label given"
    key = wrapped(key + (" (and the one before)" if original is not None else ""), int(12 * (width - SIDE)))
    height = top + pitch * len(numbers) + (0.1 + LINE * (key.count("\n") + 1) if given else 0.02)

    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(0.12, 0.1, words, fontsize=12, fontweight="bold", va="top", gid="title")
    for block, end in enumerate(("lowest", "highest")):
        left, wide = SIDE + block * (per_class * CELL + GAP), per_class * CELL
        text = f"{end} {name}" if 0.1 * len(f"{end} {name}") < wide else end
        axes.text(left + 0.06, top - 0.06, text, fontsize=10, va="bottom", gid="block")
        axes.plot([left + 0.06, left + wide - 0.06], [top - 0.02] * 2, color=INK, linewidth=0.9)
    for number, blocks in zip(numbers, rows, strict=True):
        y = top + number * pitch + 0.08
        label = fitted(str(classes[number]), SIDE - 0.14, 10, lines=3)
        axes.text(SIDE - 0.08, y + high / 2, label, ha="right", va="center", fontsize=10, gid="class")
        if not any(len(block) for block in blocks):
            axes.text(SIDE + 0.06, y + high / 2, "no example with a score", fontsize=SMALL, va="center")
        for block, members in enumerate(blocks):
            # The highest block ends at the right, so that a row ascends throughout.
            skip = per_class - len(members) if block else 0
            for place, index in enumerate(members.tolist(), start=skip):
                x = SIDE + block * (per_class * CELL + GAP) + (place + 0.5) * CELL
                _picture(axes, pictures[index], x, y, framed=bool(mask[index]))
                axes.text(x, y + high + 0.05, values[index], fontsize=SMALL, ha="center", va="top", gid="value")
                if index in given:
                    axes.text(
                        x,
                        y + high + 0.05 + LINE,
                        given[index],
                        fontsize=SMALL,
                        ha="center",
                        va="top",
                        color=RED,
                        linespacing=1.05,
                        gid="given",
                    )
    if given:
        axes.text(SIDE + 0.06, height - 0.08, key, fontsize=SMALL, color=RED, va="bottom", gid="key")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("auto")
    return figure


def _picture(axes: Any, picture: np.ndarray, x: float, y: float, *, framed: bool) -> None:
    """One picture, centred at x below y."""
    from matplotlib.patches import Rectangle

    tall, wide = picture.shape[:2]
    w, h = PICTURE * min(1.0, wide / tall), PICTURE * min(1.0, tall / wide)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
    # The y axis points down here, as the rows of a picture do.
    axes.imshow(picture, extent=(x - w / 2, x + w / 2, y + h, y), interpolation="nearest", aspect="auto", **grey)
    colour, thick, gid = (FRAME, 2.6, "frame") if framed else ("#888888", 0.5, None)
    axes.add_patch(Rectangle((x - w / 2, y), w, h, fill=False, edgecolor=colour, linewidth=thick, gid=gid))


def _extremes(
    members: np.ndarray, scores: np.ndarray, count: int, fingerprint: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a class -> its lowest and its highest, each ascending, none in both."""
    members = members[np.isfinite(scores[members])]
    members = ascending(scores, fingerprint, members)
    low = min(count, (len(members) + 1) // 2)
    return members[:low], members[max(low, len(members) - count) :]


def _pictures(images: Any, indices: np.ndarray) -> list[np.ndarray]:
    """The images at indices as (H, W) or (H, W, 3) floats in [0, 1], by one range, so that they compare."""
    if not len(indices):
        return []
    array = np.asarray(images(indices) if callable(images) else images[indices])
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or len(array) != len(indices) or 0 in array.shape:
        raise DatadietError(
            f"images of shape {array.shape} for {len(indices)} examples",
            where="images",
            fix="give them as (N, H, W, C)",
        )
    array = array[..., :3] if array.shape[-1] >= 3 else array[..., 0]
    low, high = pixel_range(array)
    return list(np.clip((np.nan_to_num(array.astype(np.float64), nan=low) - low) / (high - low), 0, 1))


def pixel_range(array: np.ndarray) -> tuple[float, float]:
    """What is black and what is white: 0 to 1, 0 to 255, or what the pixels span (the digits end at 16)."""
    finite = array[np.isfinite(array)]
    low, high = (min(0.0, float(finite.min())), float(finite.max())) if finite.size else (0.0, 1.0)
    for usual in (1.0, 255.0):
        if usual / 2 < high <= usual and low == 0:
            high = usual
    return (low, high) if high > low else (low, low + 1.0)


def _written(values: np.ndarray) -> list[str]:
    """Scores in three digits, whole numbers as such."""
    if np.all(values == np.rint(values)) and np.all(np.abs(values) < 1e6):
        return [f"{value:.0f}" for value in values]
    return [f"{value:#.3g}".rstrip(".") for value in values]


def _given(classes: Sequence[str], given: int, before: int | None) -> str:
    names = [str(classes[given])] + ([] if before is None else [f"({classes[before]})"])
    return "\n".join(fitted(name, CELL - 0.03, SMALL) for name in names)


def _check(
    labels: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    per_class: int,
    corrupted: Any,
    original: Any,
) -> None:
    if per_class < 1:
        raise DatadietError(f"per_class is {per_class}", where="gallery", fix="show at least one image")
    if labels.ndim != 1:
        raise DatadietError(f"labels of shape {labels.shape}", where="gallery", fix="give one an example, (N,)")
    for what, array in (("scores", scores), ("corrupted", corrupted), ("original", original)):
        if array is not None and np.shape(array) != labels.shape:
            raise DatadietError(
                f"{what} of shape {np.shape(array)} for {len(labels):,} labels",
                where="gallery",
                fix="give one an example, in dataset order",
            )
    for array in (labels, original):
        if array is not None and len(array) and not 0 <= np.min(array) <= np.max(array) < len(classes):
            raise DatadietError(
                f"labels from {np.min(array)} to {np.max(array)} for {len(classes)} classes",
                where="gallery",
                fix="name every class",
            )
