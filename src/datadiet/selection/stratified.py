"""Coverage-centric selection: drop the very hardest, spread the budget over strata of the score (CCS).

Zheng et al. 2023, Algorithm 1: the fraction β of hardest examples is dropped, the score range of the rest is
cut into strata of equal width, and the budget goes evenly to the strata that are not empty, the smallest
first: each gets min(its size, budget left // strata left), so that what a small stratum cannot use goes to
the larger ones. Within a stratum the draw is random.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from datadiet.errors import DatadietError
from datadiet.selection.counts import dropped
from datadiet.selection.order import Array, Ints, Order, Tie, checked, group_sizes, parts
from datadiet.selection.policy import POLICIES, generator

MOST_STRATA = 65_534


@POLICIES.register("stratified")
def stratified(
    difficulty: Array,
    count: int,
    *,
    tie: Tie,
    labels: Array | None = None,
    rng: np.random.Generator | None = None,
    beta: float | Fraction | str = 0,
    strata: int = 50,
) -> Ints:
    """(N,) -> (count,) rows: floor(beta·N + ½) of the hardest dropped, the rest drawn evenly over strata.

    Strata of the same size are served from the lowest scores up.
    """
    scores = checked(difficulty)
    n = len(scores)
    rng = generator(rng, "stratified")
    if isinstance(strata, bool) or not isinstance(strata, int) or not 1 <= strata <= MOST_STRATA:
        raise DatadietError(f"strata is {strata!r}", fix=f"write a whole number from 1 to {MOST_STRATA}")
    drop = dropped(beta, "beta", n, count)
    group = strata_of(scores, Order(n, tie, scores=scores), n - drop, strata)
    sizes = group_sizes(group)
    sizes = np.concatenate([sizes, np.zeros(strata + 1 - len(sizes), np.int64)])
    budget = np.append(shares(sizes[:strata], count), 0)
    return Order(n, Tie.drawn(rng), groups=group, sizes=sizes).between(0, budget)


def strata_of(scores: Array, order: Order, kept: int, strata: int) -> Array:
    """(N,) small integers: the stratum of each of the `kept` lowest rows; `strata` for the dropped ones.

    A score s lies in stratum floor((s - low) / (high - low) · strata), in float64; the highest in the last.
    """
    cut = order.cut(np.array([kept], np.int64))
    low, high = np.inf, -np.inf
    for part in parts(order.n):
        chunk = scores[part] if kept == order.n else scores[part][order.below(cut, part)]
        if len(chunk):
            low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
    if not (np.isfinite(low) and np.isfinite(high - low)):
        raise DatadietError(f"the scores reach from {low} to {high}", fix="strata of equal width need finite scores")
    group = np.empty(order.n, np.uint8 if strata < 256 else np.uint16)
    for part in parts(order.n):
        # Subtract before scaling: a tiny width must not overflow its own reciprocal.
        place = scores[part].astype(np.float64)
        place -= low
        if high > low:
            place /= high - low
        place *= strata
        np.clip(place, 0, strata - 1, out=place)
        group[part] = place
        if kept < order.n:
            group[part][~order.below(cut, part)] = strata
    return group


def shares(sizes: Ints, count: int) -> Ints:
    """(S,) stratum sizes -> (S,) how many each gives; adds up to count, which the sizes must allow."""
    share = np.zeros(len(sizes), np.int64)
    filled = np.flatnonzero(sizes)
    for done, stratum in enumerate(filled[np.argsort(sizes[filled], kind="stable")]):
        share[stratum] = min(int(sizes[stratum]), count // (len(filled) - done))
        count -= int(share[stratum])
    return share
