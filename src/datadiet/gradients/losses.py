"""The loss of each example, and how model outputs and labels are checked before anything is computed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datadiet.errors import DatadietError
from datadiet.task import classification

Loss = Callable[[Any, Any], Tensor]
IGNORED = -100


def logits_of(output: Any) -> Tensor:
    """The logits in whatever a model returns: a tensor, an object with `.logits`, a mapping with "logits"."""
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if isinstance(found, Tensor):
        return found
    raise DatadietError(
        f"the model returns a {type(output).__name__}, which has no logits", where="model",
        fix="pass forward=lambda model, inputs: …, returning what the loss takes",
    )  # fmt: skip


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each example, (B,).

    Args:
        outputs: logits, (B, C); for tokens (B, T, C), summed over positions.
        labels: class numbers, (B,) or (B, T) with -100 for positions that do not count; or probabilities, of the
            shape of `outputs`.
    """
    if outputs.dim() > 3:
        raise DatadietError(
            f"outputs of shape {tuple(outputs.shape)}: the default loss takes (B, C), or (B, T, C) for tokens",
            where="loss", fix="pass loss=nn.CrossEntropyLoss() for outputs (B, C, H, W)",
        )  # fmt: skip
    if outputs.shape[-1] < 2:
        raise DatadietError(
            f"outputs of shape {tuple(outputs.shape)}: cross-entropy takes a column for each class", where="loss",
            fix="pass loss=nn.BCEWithLogitsLoss(), or what the network is trained by",
        )  # fmt: skip
    if labels.is_floating_point():
        if labels.shape != outputs.shape:
            raise _mismatch(outputs, labels)
        top = outputs.argmax(-1, keepdim=True)  # whose logarithm has few digits where it is near 0
        exact = -classification.exact(outputs, top[..., 0])[..., None]
        losses = -(labels * F.log_softmax(outputs, -1).scatter(-1, top, exact)).sum(-1)
    else:
        if labels.shape != outputs.shape[:-1]:
            raise _mismatch(outputs, labels)
        losses = classification.exact(outputs, labels.long().clamp_min(0))
        if labels.dim() > 1:
            losses = torch.where(labels == IGNORED, 0.0, losses)
    return losses if losses.dim() == 1 else losses.flatten(1).sum(1)


def check_labels(outputs: Tensor, labels: Any) -> None:
    """Refuse labels on another device, and class numbers that the logits do not have.

    `outputs` may be a few examples', labels all.
    """
    if not isinstance(labels, Tensor):
        return
    if labels.device != outputs.device:
        raise DatadietError(
            f"labels on {labels.device}, outputs on {outputs.device}", where="labels", fix="move them to one device"
        )
    if labels.is_floating_point():
        return
    classes = outputs.shape[-1]
    if classes < 2:  # cross_entropy says why
        return
    known = labels[labels != IGNORED] if labels.dim() > 1 else labels
    if known.numel() == 0:
        return
    low, high = int(known.min()), int(known.max())
    if low < 0 or high >= classes:
        bad = low if low < 0 else high
        row = int((labels == bad).flatten(1).any(1).nonzero()[0]) if labels.dim() > 1 else int(
            (labels == bad).nonzero()[0]
        )  # fmt: skip
        raise DatadietError(
            f"label {bad} of example {row} is out of range, the model has {classes} outputs", where="labels",
            fix=f"labels lie in 0 … {classes - 1}",
        )  # fmt: skip


def _mismatch(outputs: Tensor, labels: Tensor) -> DatadietError:
    return DatadietError(
        f"labels of shape {tuple(labels.shape)} do not fit outputs of shape {tuple(outputs.shape)}",
        where="labels", fix="give class numbers (B,), probabilities (B, C), or pass loss= for another task",
    )  # fmt: skip


def _refuse_pairs(loss: Loss, outputs: Any, labels: Any, slicer: Callable[[Any, slice], Any]) -> None:
    """Refuse a loss of each example with each other's label, which outputs (B, 1) and labels (B,) broadcast to."""
    if not (isinstance(outputs, Tensor) and isinstance(labels, Tensor)) or outputs.shape == labels.shape:
        return
    with torch.no_grad():
        alone = loss(slicer(outputs, slice(0, 1)), slicer(labels, slice(0, 1)))
    if alone.shape == (1, 1):
        count = len(outputs)
        raise DatadietError(
            f"the loss returns shape {(count, count)} for {count} examples and (1, 1) for one", where="loss",
            fix=f"outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)} broadcast; give them one shape",
        )  # fmt: skip


def total_loss(loss: Loss, outputs: Any, labels: Any, count: int, slicer: Callable[[Any, slice], Any]) -> Tensor:
    """The sum over examples of each one's loss.

    A loss may return one number an example (first dimension B; further ones are summed). One that returns a single
    number is taken of each example by itself, so that a mean over the batch means the example's own loss.
    """
    if isinstance(loss, nn.Module) and getattr(loss, "reduction", "none") != "none":
        single = copy.copy(loss)
        single.__dict__["reduction"] = "none"
        losses = single(outputs, labels)
        if losses.shape == (count,):
            return losses.sum()
    else:
        losses = loss(outputs, labels)
        if not isinstance(losses, Tensor):
            raise DatadietError(f"the loss returns a {type(losses).__name__}, not a tensor", where="loss")
        if losses.dim() > 0:
            if losses.shape[0] != count:
                raise DatadietError(
                    f"the loss returns shape {tuple(losses.shape)} for {count} examples", where="loss",
                    fix="return one number an example",
                )  # fmt: skip
            if losses.shape == (count, count) and count > 1:
                _refuse_pairs(loss, outputs, labels, slicer)
            return losses.sum()
        if count == 1:
            return losses
    rows = (slice(i, i + 1) for i in range(count))
    return torch.stack([loss(slicer(outputs, row), slicer(labels, row)) for row in rows]).sum()
