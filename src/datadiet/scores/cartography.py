"""Dataset cartography: mean and spread of the label's probability over training (Swayamdipta et al. 2020)."""

from __future__ import annotations

import torch

from datadiet.numerics import widest
from datadiet.scores.base import score
from datadiet.scores.following import Following
from datadiet.scores.probability import missing
from datadiet.task import Task, classification


class Cartography(Following):
    """Follows the label's probability p_y of every example over its visits.

    `confidence` is its mean, `variability` its standard deviation (over all visits, divided by their number, as
    published), `correctness` the share of visits at which the example was classified correctly. The paper's regions:
    easy to learn is high confidence, hard to learn is low confidence, ambiguous is high variability.

    Args:
        n: number of examples.
        device: where the sums are kept.
        task: gives the probability and says what is correct.
    """

    kept = ("visits", "right", "mean", "squares")

    def __init__(self, n: int, device: torch.device | str = "cpu", task: Task = classification) -> None:
        self.task = task
        wide = widest(device)
        self.visits = torch.zeros(n, dtype=torch.int32, device=device)
        self.right = torch.zeros(n, dtype=torch.int32, device=device)
        # Of 1 − p_y, whose digits near 0 p_y has not near 1; and by Welford's recurrence, since the difference of
        # a mean of squares and a squared mean has no digits left where the spread is small.
        self.mean = torch.zeros(n, dtype=wide, device=device)
        self.squares = torch.zeros(n, dtype=wide, device=device)

    def update(self, indices: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        value = missing(logits, labels, self.task).to(self.mean.dtype)
        self.visits.index_add_(0, indices, torch.ones_like(indices, dtype=torch.int32))
        self.right.index_add_(0, indices, self.task.correct(logits, labels).int())
        before = self.mean.index_select(0, indices)
        after = before + (value - before) / self.visits.index_select(0, indices)
        self.mean.index_copy_(0, indices, after)
        self.squares.index_add_(0, indices, (value - before) * (value - after))

    def result(self) -> dict[str, torch.Tensor]:
        """`confidence`, `variability` and `correctness`, (n,) float32; NaN for examples not visited yet."""
        unseen = torch.where(self.visits > 0, 0.0, torch.nan)
        return {
            "confidence": (1 - self.mean + unseen).float(),
            "variability": (self.squares.clamp_min(0) / self.visits).sqrt().float(),
            "correctness": self.right.float() / self.visits,
        }


@score("confidence", needs="trajectory", harder="lower", columns=("variability", "correctness"))
def confidence(n: int, device: torch.device | str = "cpu", task: Task = classification) -> Cartography:
    """Confidence: the mean over visits of the label's probability (train mode, augmented)."""
    return Cartography(n, device, task)
