"""The probability that a network gives to all classes but the label: 1 − p_y, exact where p_y is nearly 1."""

from __future__ import annotations

import torch

from datadiet.task import Task, classification


def widened(logits: torch.Tensor) -> torch.Tensor:
    """Logits detached, in float32 or better."""
    return logits.detach() if logits.dtype == torch.float64 else logits.detach().float()


def missing(logits: torch.Tensor, labels: torch.Tensor, task: Task = classification) -> torch.Tensor:
    """(B,) Σ_{k≠y} p_k of (B, C) logits, in [0, 1], float32 or better.

    1 − p_y itself would be exactly 0 in float32 from a margin of about 17 on, and tie the easiest examples.
    """
    errors = task.error(widened(logits), labels)
    return -errors.gather(1, labels[:, None])[:, 0]


def sum_type(device: torch.device | str) -> torch.dtype:
    """The type that sums over visits are kept in: float64, which only Apple's devices do not have."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64
