"""Keep a random subset, the baseline of every comparison."""

from __future__ import annotations

import numpy as np

from datadiet.selection.balance import classes_of, enough
from datadiet.selection.order import Array, Ints, Order, Tie, checked
from datadiet.selection.policy import POLICIES, generator


@POLICIES.register("random")
def random(
    difficulty: Array,
    count: int,
    *,
    tie: Tie,
    labels: Array | None = None,
    rng: np.random.Generator | None = None,
    balanced: bool = False,
) -> Ints:
    """(N,) -> (count,) rows drawn without replacement; of the scores only their number matters.

    With `balanced`, count // C are drawn from each class, and the remainder from the pool of the rest (LT).
    """
    n = len(checked(difficulty))
    order = Tie.drawn(generator(rng, "random"))
    if not balanced:
        return Order(n, order).between(0, count)
    groups, sizes = classes_of(labels, n, "class balance")
    quota = np.where(sizes > 0, count // np.count_nonzero(sizes), 0)
    enough(sizes, quota)
    rows = Order(n, order, groups=groups, sizes=sizes).between(0, quota)
    remainder = count - len(rows)
    if remainder == 0:
        return rows
    taken = np.zeros(n, np.uint8)
    taken[rows] = 1
    # A draw of its own: in `order` the class that was cut earliest would come first.
    fresh = Tie.drawn(generator(rng, "random"))
    pool = Order(n, fresh, groups=taken, sizes=np.array([n - len(rows), len(rows)], np.int64))
    taken[pool.between(0, np.array([remainder, 0]))] = 1
    return np.flatnonzero(taken)
