"""Dyn-Unc: how much the label's probability moves within a window of epochs (He et al. 2024)."""

from __future__ import annotations

import torch

from datadiet.numerics import widest
from datadiet.scores.base import score
from datadiet.scores.following import Following
from datadiet.scores.probability import missing
from datadiet.task import Task, classification

WINDOW = 10  # visits; J of the paper, for all its experiments


class DynamicUncertainty(Following):
    """The standard deviation of the label's probability in a window of J visits, averaged over all windows so far.

    Windows slide by one visit: V visits have V − J + 1 of them (the authors' code leaves the last out). The standard
    deviation is the sample's, of J − 1. Below J visits the one window is what there is; one visit has no spread, so
    below two there is no score (NaN).

    Args:
        n: number of examples.
        device: where the windows are kept: 4·J bytes an example.
        task: gives the probability.
        window: J.
    """

    kept = ("visits", "ring", "total")

    def __init__(
        self, n: int, device: torch.device | str = "cpu", task: Task = classification, window: int = WINDOW
    ) -> None:
        self.task = task
        self.visits = torch.zeros(n, dtype=torch.int32, device=device)
        # A ring of the last J values of 1 − p_y, whose spread is that of p_y; in float32 it keeps more of its digits.
        self.ring = torch.zeros(window, n, dtype=torch.float32, device=device)
        self.total = torch.zeros(n, dtype=widest(device), device=device)

    def update(self, indices: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        size, n = self.ring.shape
        seen = self.visits.index_select(0, indices)
        place = seen.long().remainder(size) * n + indices
        self.ring.view(-1).index_copy_(0, place, missing(logits, labels, self.task).float())
        self.visits.index_copy_(0, indices, seen + 1)
        full = indices[seen + 1 >= size]
        if len(full):
            self.total.index_add_(0, full, self._deviation(full, size))

    def result(self) -> dict[str, torch.Tensor]:
        """`dyn_unc`, (n,) float32; NaN for examples visited less than twice."""
        size = len(self.ring)
        value = self.total / (self.visits - size + 1)
        value[self.visits < 2] = torch.nan
        for visits in range(2, size):
            rows = (self.visits == visits).nonzero()[:, 0]
            if len(rows):
                value.index_copy_(0, rows, self._deviation(rows, visits))
        return {"dyn_unc": value.float()}

    def _deviation(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """(B,) sample standard deviation of the first `count` values in the rings of `rows`."""
        # Entry by entry rather than by a reduction, so that no example's value depends on those beside it.
        values = [held.index_select(0, rows) for held in self.ring[:count]]
        mean, squares = (torch.zeros_like(rows, dtype=self.total.dtype) for _ in range(2))
        for value in values:
            mean += value
        mean /= count
        for value in values:
            distance = value - mean
            squares.addcmul_(distance, distance)
        return squares.div_(count - 1).sqrt_()


@score("dyn_unc", needs="trajectory", visits=2)
def dyn_unc(n: int, device: torch.device | str = "cpu", task: Task = classification) -> DynamicUncertainty:
    """Dyn-Unc: the spread of the label's probability within 10 visits, averaged (train mode, augmented)."""
    return DynamicUncertainty(n, device, task)
