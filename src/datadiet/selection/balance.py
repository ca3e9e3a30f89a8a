"""Classes in a selection: checked labels, the number each class gives, and the balance before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from datadiet.errors import DatadietError
from datadiet.selection.counts import count as counted
from datadiet.selection.counts import fraction, rounded
from datadiet.selection.order import Array, Ints, Order, Tie, group_sizes, parts

MOST_CLASSES = 1_000_000


class TooSmall(DatadietError):
    """A class has not what the balance wants of it."""

    def __init__(self, number: int, words: str, fix: str, name: str = "") -> None:
        super().__init__(f"class {name or number} {words}", fix=fix)
        self._given = number, words, fix, name

    def __reduce__(self) -> tuple[object, ...]:
        return (TooSmall, self._given)

    def or_else(self, way: str) -> TooSmall:
        """The same with one more way out."""
        number, words, fix, name = self._given
        return TooSmall(number, words, f"{fix}; {way}", name)

    def named(self, names: Sequence[str]) -> TooSmall:
        """The same with the class's name, where there is one."""
        number = self._given[0]
        return TooSmall(*self._given[:3], names[number]) if number < len(names) else self


def checked_labels(labels: npt.ArrayLike | None, n: int, *, needed_by: str | None = None) -> Array:
    """Class numbers as an array (N,) of non-negative integers; a memory-mapped one stays as it is."""
    if labels is None:
        raise DatadietError(
            f"{needed_by or 'a class balance'} needs the labels",
            fix="pass labels=, one class number an example",
        )
    given: Any = labels
    array = np.asanyarray(given.detach().cpu() if hasattr(given, "detach") else given)  # a tensor of whatever device
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise DatadietError(
            f"the labels have shape {array.shape} and type {array.dtype}",
            fix=f"one class number for each of the {n} examples is needed",
        )
    for part in parts(n):
        chunk = array[part]
        bad = np.flatnonzero((chunk < 0) | (chunk >= MOST_CLASSES))
        if len(bad):
            raise DatadietError(
                f"the label {int(chunk[bad[0]])} in row {part.start + int(bad[0])} is not a class number",
                fix=f"labels count from 0 and stay below {MOST_CLASSES}",
            )
    return array


def quotas(sizes: Ints, count: int, tie: Tie) -> Ints:
    """The same number from each class, and the remainder one a class.

    The remainder goes to the largest classes, classes of the same size in tie order.

    Args:
        sizes: (C,) examples of each class; a class without any takes no part.
    Returns:
        (C,) numbers that add up to count.
    """
    present = np.flatnonzero(sizes)
    each, remainder = divmod(count, len(present))
    quota = np.zeros(len(sizes), np.int64)
    quota[present] = each
    quota[present[np.lexsort((tie.rank(present), -sizes[present]))][:remainder]] += 1
    enough(sizes, quota)
    return quota


def can_balance(sizes: Ints, count: int, tie: Tie) -> bool:
    """Whether every class has enough for the same number of each."""
    try:
        quotas(sizes, count, tie)
    except TooSmall:
        return False
    return True


def enough(sizes: Ints, quota: Ints) -> None:
    """Raise for the first class that has fewer examples than it should give."""
    short = np.flatnonzero(sizes < quota)
    if len(short):
        c = int(short[0])
        raise TooSmall(
            c,
            f"has {int(sizes[c])} examples, and balanced classes need {int(quota[c])} of it",
            fix="keep less, or leave the balance out",
        )


def ranges(order: Order, quota: Ints, policy: str, offset: object = 0) -> tuple[Ints, Ints]:
    """Where in each class's ascending order the chosen places begin and end: two (C,)."""
    if policy == "easiest":
        return np.zeros_like(quota), quota
    if policy == "hardest":
        return order.sizes - quota, order.sizes
    part = fraction(offset, "offset")  # type: ignore[arg-type]
    low = np.array([rounded(part, int(size)) for size in order.sizes], np.int64)
    over = low + quota - order.sizes
    # The share of a class and its offset may both round up; more than that is a window out of the class.
    worst = int(over.argmax())
    if over[worst] > 1:
        raise TooSmall(
            worst,
            f"has {int(order.sizes[worst])} examples; a window from offset {offset} that keeps "
            f"{int(quota[worst])} of them leaves the class",
            fix="keep less, lower the offset, or leave the balance out",
        )
    low -= np.maximum(over, 0)
    return low, low + quota


def largest_offset(labels: npt.ArrayLike, keep: float | Fraction | str, fingerprint: str | None) -> float:
    """Of a balanced window that keeps `keep`: from a higher one the smallest class has too few."""
    array = checked_labels(labels, np.size(labels))
    sizes = group_sizes(array)
    quota = quotas(sizes, counted(keep, len(array)), Tie.of(fingerprint))
    there = sizes > 0
    return math.floor(1e9 * float(np.min(1 - quota[there] / sizes[there]))) / 1e9


def classes_of(labels: Array | None, n: int, needed_by: str) -> tuple[Array, Ints]:
    """Checked labels (N,) and the class sizes (C,)."""
    array = checked_labels(labels, n, needed_by=needed_by)
    return array, group_sizes(array)


def fallen(before: Ints, after: Ints, below: float, names: Sequence[str] = ()) -> list[str]:
    """Sentences about classes that vanish, or whose share falls below `below` times what it was."""

    def named(classes: list[int]) -> str:
        said = ", ".join(names[c] if c < len(names) else str(c) for c in classes[:10])
        return f"class {said}" if len(classes) == 1 else f"{len(classes)} classes ({said}{', …' * (len(classes) > 10)})"

    lines = []
    total, kept = int(before.sum()), int(after.sum())
    gone = [int(c) for c in np.flatnonzero((before > 0) & (after == 0))]
    if gone:
        lines.append(f"{named(gone)} {'vanishes' if len(gone) == 1 else 'vanish'}")
    share = np.divide(after * total, before * kept, out=np.ones(len(before)), where=before > 0)
    low = [int(c) for c in np.flatnonzero((share < below) & (after > 0))]
    if low:
        worst = min(low, key=lambda c: float(share[c]))
        which = "" if len(low) == 1 else f"{named([worst])}: "
        lines.append(
            f"{named(low)} {'falls' if len(low) == 1 else 'fall'} below {below:g} of the former share "
            f"({which}{before[worst] / total:.3%} before, {after[worst] / kept:.3%} after)"
        )
    return lines
