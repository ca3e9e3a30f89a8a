"""Max margin: how little the label's probability exceeds the largest other; "max_margin" of the authors' code."""

from __future__ import annotations

import torch

from datadiet.scores.base import score
from datadiet.scores.probability import prepared
from datadiet.task import Task, classification


@score("margin_max", needs="logits")
def margin_max(logits: torch.Tensor, labels: torch.Tensor, task: Task = classification) -> torch.Tensor:
    """Max margin: 1 − (p_y − max_{k≠y} p_k), of the probabilities of a network in eval mode.

    The authors' value, max_{k≠y} p_k − p_y, plus 1: as Σ_{k≠y} p_k + max_{k≠y} p_k it needs no difference of numbers
    near 1, so that the easiest examples keep their order. Below 1 the example is classified correctly.

    Args:
        logits: (B, C); half precision is widened first.
        labels: (B,) class indices, as training sees them.

    Returns:
        (B,) in [0, 2], float32 or better; higher is harder (a margin itself would be higher for easier examples).
    """
    wide, labels = prepared(logits, labels)
    errors = task.error(wide, labels)
    sums = -errors.gather(1, labels[:, None])[:, 0]
    return sums.add_(errors.amax(1))  # the label's own error is never above 0
