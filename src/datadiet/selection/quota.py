"""Keep the hardest, but no class below a floor, so that none disappears."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from datadiet.errors import DatadietError
from datadiet.selection.balance import classes_of
from datadiet.selection.counts import fraction
from datadiet.selection.order import Array, Ints, Order, Tie, checked
from datadiet.selection.policy import POLICIES


@POLICIES.register("quota")
def quota(
    difficulty: Array,
    count: int,
    *,
    tie: Tie,
    labels: Array | None = None,
    rng: np.random.Generator | None = None,
    floor_share: float | Fraction | str = 0.5,
) -> Ints:
    """(N,) -> (count,) rows: first each class's hardest up to its floor, then the hardest of all the rest.

    The floor of a class is `floor_share` of the examples it would have at its former share,
    floor(floor_share · count · N_c / N), and at least one. floor_share 1 keeps the shares, 0 the classes.
    """
    scores = checked(difficulty)
    n = len(scores)
    groups, sizes = classes_of(labels, n, "the policy 'quota'")
    floors = class_floors(sizes, count, fraction(floor_share, "floor_share"), tie)
    first = Order(n, tie, scores=scores, groups=groups, sizes=sizes).between(sizes - floors, sizes)
    taken = np.zeros(n, np.uint8)
    taken[first] = 1
    free, more = n - len(first), count - len(first)
    rest = Order(n, tie, scores=scores, groups=taken, sizes=np.array([free, len(first)], np.int64))
    taken[rest.between(np.array([free - more, 0]), np.array([free, 0]))] = 1
    return np.flatnonzero(taken)


def class_floors(sizes: Ints, count: int, share: Fraction, tie: Tie) -> Ints:
    """(C,) class sizes -> (C,) floors: at least one for each class with examples, at most count in all."""
    if not 0 <= share <= 1:
        raise DatadietError(f"floor_share is {float(share):g}, it must lie in [0, 1]")
    present = int(np.count_nonzero(sizes))
    if count < present:
        raise DatadietError(f"{count} examples are kept of {present} classes", fix="keep at least one example a class")
    n = int(sizes.sum())
    floors = np.array([0 if s == 0 else max(1, int(share * count * int(s) / n)) for s in sizes], np.int64)
    # The ones that were rounded up to a single example are paid for by the largest floors.
    ranks = tie.rank(np.arange(len(sizes)))
    while floors.sum() > count:
        floors[np.lexsort((ranks, -floors))[0]] -= 1
    return floors
