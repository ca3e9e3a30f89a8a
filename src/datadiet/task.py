"""What depends on the kind of label: the loss, the error vector, and what counts as correct.

Everything else in the library asks a task. Classes with integer labels come first; another kind of label is another
object with these four methods.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

NARROW = 15  # classes up to which PyTorch's softmax, row by row, is slower than four operations on whole columns


class Task(Protocol):
    """Four functions of (logits, labels); logits are float32 or better whenever scores are taken."""

    name: str

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B,) the loss of each example; training minimises the mean."""
        ...

    def exact(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B,) the same loss with all its digits, and its gradient's, however small it is; scores are taken of it."""
        ...

    def error(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, C) the gradient of an example's loss at its logits."""
        ...

    def correct(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B,) bool."""
        ...


class Classification:
    """Integer class labels, cross-entropy."""

    name = "classification"

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    def exact(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """log(1 + Σ_{k≠y} exp(z_k − z_y)), of logits (…, C) and labels (…).

        As −log p_y it would lose a digit with each 2.3 of the margin, and its gradient p_y − 1 too: in float32 both
        are 0 from a margin of about 17 on.
        """
        label = labels[..., None]
        own = logits.gather(-1, label)[..., 0]
        # Not by -inf: a sum of nothing else (classes that are masked) has no gradient.
        others = logits.scatter(-1, label, torch.finfo(logits.dtype).min).logsumexp(-1)
        # From the threshold on softplus is taken to be linear; by default that is at 20, or 2e-9 off.
        values = F.softplus(others - own, threshold=50)
        return values * torch.ones_like(own).masked_fill(own.detach() == torch.inf, torch.nan)  # of an overflow: none

    def error(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """softmax(logits) − one-hot(label), the label's entry as −Σ_{k≠y} p_k.

        1 − p_y would be exactly 0 in float32 from a margin of about 17 on, and tie the easiest examples.
        """
        if logits.shape[1] <= NARROW:
            errors = (logits - logits.amax(1, keepdim=True)).exp_()
            errors /= errors.sum(1, keepdim=True)
        else:
            errors = torch.softmax(logits, dim=1)
        errors.scatter_(1, labels[:, None], 0.0)
        return errors.scatter_(1, labels[:, None], -errors.sum(1, keepdim=True))

    def correct(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.argmax(1) == labels


classification = Classification()
