"""Keep the examples with the highest difficulty."""

from __future__ import annotations

import numpy as np

from datadiet.selection.balance import classes_of, quotas, ranges
from datadiet.selection.order import Array, Ints, Order, Tie, checked
from datadiet.selection.policy import POLICIES


@POLICIES.register("hardest")
def hardest(
    difficulty: Array,
    count: int,
    *,
    tie: Tie,
    labels: Array | None = None,
    rng: np.random.Generator | None = None,
    balanced: bool = False,
) -> Ints:
    """(N,) -> (count,) rows: the last `count` ascending; with `balanced`, the hardest of each class."""
    scores = checked(difficulty)
    n = len(scores)
    if not balanced:
        return Order(n, tie, scores=scores).between(n - count, n)
    groups, sizes = classes_of(labels, n, "class balance")
    order = Order(n, tie, scores=scores, groups=groups, sizes=sizes)
    return order.between(*ranges(order, quotas(sizes, count, tie), "hardest"))
