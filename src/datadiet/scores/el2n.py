"""EL2N: the L2 norm of the error vector (Data Diet, definition 2.3)."""

from __future__ import annotations

import torch

from datadiet.scores.base import score
from datadiet.scores.probability import prepared
from datadiet.task import Task, classification


@score("el2n", needs="logits")
def el2n(logits: torch.Tensor, labels: torch.Tensor, task: Task = classification) -> torch.Tensor:
    """EL2N: ‖softmax(logits) − one-hot(label)‖₂ of a network in eval mode.

    Args:
        logits: (B, C); half precision is widened first.
        labels: (B,) class indices, as training sees them.

    Returns:
        (B,) in [0, √2], float32 or better.
    """
    return error_norm(*prepared(logits, labels), task)


def error_norm(logits: torch.Tensor, labels: torch.Tensor, task: Task = classification) -> torch.Tensor:
    """(B,) ‖error vector‖₂ of (B, C) logits, float32 or better, detached.

    The largest entry is taken out of the sum: squares of errors below 1e-23 are 0 in float32, and would tie all
    examples from a margin of about 52 on.
    """
    wide = logits.detach() if logits.dtype == torch.float64 else logits.detach().float()
    errors = task.error(wide, labels)
    largest = errors.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(errors.dtype).tiny)
    return errors.div_(largest).norm(dim=1).mul_(largest[:, 0])
