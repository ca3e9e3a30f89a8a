"""Sum margin: the label's probability against every other, added up; "sum_margin" of the authors' code."""

from __future__ import annotations

import torch

from datadiet.scores.base import score
from datadiet.scores.probability import missing, prepared
from datadiet.task import Task, classification


@score("margin_sum", needs="logits")
def margin_sum(logits: torch.Tensor, labels: torch.Tensor, task: Task = classification) -> torch.Tensor:
    """Sum margin: Σ_{k≠y} (1 − (p_y − p_k)) = C·(1 − p_y), of the probabilities of a network in eval mode.

    The authors' value, Σ_{k≠y} (p_k − p_y) = 1 − C·p_y, plus C − 1, for the precision of the easiest. As the
    probabilities add up to 1 it is C/2 times EL1N, and ranks examples as EL1N does, also in means over runs: it is here
    for comparison with their tables.

    Args:
        logits: (B, C); half precision is widened first.
        labels: (B,) class indices, as training sees them.

    Returns:
        (B,) in [0, C], float32 or better; higher is harder.
    """
    wide, labels = prepared(logits, labels)
    return missing(wide, labels, task).mul_(wide.shape[1])
