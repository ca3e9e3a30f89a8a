"""AUM: the area under the margin (Pleiss et al. 2020), a mean over training's own batches."""

from __future__ import annotations

import torch

from datadiet.numerics import widest
from datadiet.scores.base import score
from datadiet.scores.following import Following
from datadiet.scores.probability import widened
from datadiet.task import Task, classification


class AreaUnderMargin(Following):
    """The mean margin of an example over its visits so far: its label's logit less the largest other logit.

    Args:
        n: number of examples.
        device: where the sums are kept.
        task: not used; margins are of class logits.
    """

    def __init__(self, n: int, device: torch.device | str = "cpu", task: Task = classification) -> None:
        self.visits = torch.zeros(n, dtype=torch.int32, device=device)
        self.total = torch.zeros(n, dtype=widest(device), device=device)

    def update(self, indices: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        margins = margin(logits, labels)
        self.visits.index_add_(0, indices, torch.ones_like(indices, dtype=torch.int32))
        self.total.index_add_(0, indices, margins.to(self.total.dtype))

    def result(self) -> dict[str, torch.Tensor]:
        """`aum`, (n,) float32; NaN for examples not visited yet."""
        return {"aum": (self.total / self.visits).float()}


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) logit of the label less the largest other logit; positive where the example is classified correctly."""
    wide = widened(logits)
    own = wide.gather(1, labels[:, None])[:, 0]
    return own - wide.scatter(1, labels[:, None], -torch.inf).amax(1)


@score("aum", needs="trajectory", harder="lower")
def aum(n: int, device: torch.device | str = "cpu", task: Task = classification) -> AreaUnderMargin:
    """AUM: the mean over visits of the label's logit less the largest other (train mode, augmented)."""
    return AreaUnderMargin(n, device, task)
