"""The probability that a network gives to all classes but the label: 1 − p_y, exact where p_y is nearly 1."""

from __future__ import annotations

from typing import Any

import torch

from datadiet.errors import DatadietError
from datadiet.task import Task, classification


def prepared(logits: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) in float32 or better and labels (B,) as class numbers, or an error in words: any caller's."""
    wide = columns(logits)
    found = as_tensor(labels, "labels").to(wide.device)
    whole = not (found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool)
    if found.ndim != 1 or len(found) != len(wide) or not whole:
        kind = str(found.dtype).removeprefix("torch.")
        raise DatadietError(
            f"labels of shape {tuple(found.shape)} and type {kind} for logits of shape {tuple(wide.shape)}",
            fix="give one class number an example, not one-hot",
        )
    found = found.long()
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < wide.shape[1]:
        raise DatadietError(
            f"labels from {int(found.min())} to {int(found.max())} for {wide.shape[1]} columns of logits",
            fix=f"they run from 0 to {wide.shape[1] - 1}",
        )
    return wide, found


def columns(logits: Any) -> torch.Tensor:
    """Logits (B, C) of two classes or more, in float32 or better."""
    found = as_tensor(logits, "logits")
    if found.ndim != 2 or found.shape[1] < 2:
        raise DatadietError(
            f"logits of shape {tuple(found.shape)}",
            fix="give a column for each class; of two classes, torch.stack([-z / 2, z / 2], 1) of the one logit z",
        )
    return widened(found)


def as_tensor(values: Any, what: str, where: str | None = None) -> torch.Tensor:
    """What a caller gave as numbers, or an error in words."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise DatadietError(
            f"{what} are {type(values).__name__}, not numbers", where=where, fix="give a tensor or an array"
        ) from None


def widened(logits: torch.Tensor) -> torch.Tensor:
    """Logits detached, in float32 or better."""
    return logits.detach() if logits.dtype == torch.float64 else logits.detach().float()


def missing(logits: torch.Tensor, labels: torch.Tensor, task: Task = classification) -> torch.Tensor:
    """(B,) Σ_{k≠y} p_k of (B, C) logits, in [0, 1], float32 or better.

    1 − p_y itself would be exactly 0 in float32 from a margin of about 17 on, and tie the easiest examples.
    """
    errors = task.error(widened(logits), labels)
    return -errors.gather(1, labels[:, None])[:, 0]
