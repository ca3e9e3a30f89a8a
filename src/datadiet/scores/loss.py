"""The loss of each example, the plainest score."""

from __future__ import annotations

import torch

from datadiet.scores.base import score
from datadiet.scores.probability import prepared
from datadiet.task import Task, classification


@score("loss", needs="logits")
def loss(logits: torch.Tensor, labels: torch.Tensor, task: Task = classification) -> torch.Tensor:
    """Loss: the cross-entropy of a network in eval mode, with all its digits where it is small.

    Args:
        logits: (B, C); labels: (B,).

    Returns:
        (B,) float32 or better.
    """
    return task.exact(*prepared(logits, labels))
