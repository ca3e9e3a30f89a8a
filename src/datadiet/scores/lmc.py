"""LMC score: an example's loss barrier between networks that part at step t (Lottery Tickets, D.1)."""

from __future__ import annotations

import torch

from datadiet.scores.base import score


@score("lmc", needs="children")
def lmc(ends: torch.Tensor, middles: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """LMC: the loss barrier of an example, averaged over all pairs of children spawned at t.

    The barrier of a pair is the loss at the midpoint of the two networks minus the mean of their two losses.

    Args:
        ends: (n, N) losses of the n children.
        middles: (P, N) losses at the midpoints, in the order of `pairs`.
        pairs: P pairs of rows of `ends`.

    Returns:
        (N,).
    """
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    ends = ends.double()
    return (middles.double() - (ends[first] + ends[second]) / 2).mean(0).float()
