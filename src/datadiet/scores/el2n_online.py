"""EL2N from training's own batches: train mode, augmented, averaged over the visits. Not `el2n`, and free."""

from __future__ import annotations

import torch

from datadiet.numerics import widest
from datadiet.scores.base import score
from datadiet.scores.el2n import error_norm
from datadiet.scores.following import Following
from datadiet.task import Task, classification


class OnlineEL2N(Following):
    """The mean EL2N of an example over its visits so far.

    Args:
        n: number of examples.
        device: where the sums are kept.
        task: gives the error vector.
    """

    def __init__(self, n: int, device: torch.device | str = "cpu", task: Task = classification) -> None:
        self.task = task
        self.visits = torch.zeros(n, dtype=torch.int32, device=device)
        self.total = torch.zeros(n, dtype=widest(device), device=device)

    def update(self, indices: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        norms = error_norm(logits, labels, self.task)
        self.visits.index_add_(0, indices, torch.ones_like(indices, dtype=torch.int32))
        self.total.index_add_(0, indices, norms.to(self.total.dtype))

    def result(self) -> dict[str, torch.Tensor]:
        """`el2n_online`, (n,) float32; NaN for examples not visited yet."""
        return {"el2n_online": (self.total / self.visits).float()}


@score("el2n_online", needs="trajectory")
def el2n_online(n: int, device: torch.device | str = "cpu", task: Task = classification) -> OnlineEL2N:
    """Online EL2N: the mean over visits of the error norm as training saw it (train mode, augmented)."""
    return OnlineEL2N(n, device, task)
