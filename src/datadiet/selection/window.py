"""Keep a window of the difficulty order: above the easiest, below the hardest (DD Figure 2)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from datadiet.selection.balance import classes_of, quotas, ranges
from datadiet.selection.counts import dropped
from datadiet.selection.order import Array, Ints, Order, Tie, checked
from datadiet.selection.policy import POLICIES


@POLICIES.register("window")
def window(
    difficulty: Array,
    count: int,
    *,
    tie: Tie,
    labels: Array | None = None,
    rng: np.random.Generator | None = None,
    offset: float | Fraction | str,
    balanced: bool = False,
) -> Ints:
    """(N,) -> (count,) rows: sort ascending, drop floor(offset·N + ½) of the lowest, keep the next `count`.

    With `balanced` the same is done in each class, with that class's own size and its even part of count.
    """
    scores = checked(difficulty)
    n = len(scores)
    low = dropped(offset, "offset", n, count)
    if not balanced:
        return Order(n, tie, scores=scores).between(low, low + count)
    groups, sizes = classes_of(labels, n, "class balance")
    order = Order(n, tie, scores=scores, groups=groups, sizes=sizes)
    return order.between(*ranges(order, quotas(sizes, count, tie), "window", offset))
