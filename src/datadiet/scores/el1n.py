"""EL1N: the L1 norm of the error vector; the score "l1_error" of the Data Diet authors' code."""

from __future__ import annotations

import torch

from datadiet.scores.base import score
from datadiet.scores.probability import missing, prepared
from datadiet.task import Task, classification


@score("el1n", needs="logits")
def el1n(logits: torch.Tensor, labels: torch.Tensor, task: Task = classification) -> torch.Tensor:
    """EL1N: ‖softmax(logits) − one-hot(label)‖₁ of a network in eval mode.

    It is (1 − p_y) + Σ_{k≠y} p_k = 2 Σ_{k≠y} p_k, so one run's EL1N ranks examples as its loss does; means over runs
    do not. The sum is taken over k ≠ y, which keeps the order of the easiest examples.

    Args:
        logits: (B, C); half precision is widened first.
        labels: (B,) class indices, as training sees them.

    Returns:
        (B,) in [0, 2], float32 or better; higher is harder.
    """
    return missing(*prepared(logits, labels), task).mul_(2)
