"""Entropy of the predicted distribution: how undecided a network is, whatever the label says."""

from __future__ import annotations

import torch

from datadiet.scores.base import score
from datadiet.scores.probability import columns


@score("entropy", needs="logits")
def entropy(logits: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Entropy: −Σ_k p_k log p_k of a network in eval mode (uncertainty sampling; Coleman et al. 2020 select by it).

    It does not look at the label: a wrong label that a network is sure to be wrong has a low entropy.

    Args:
        logits: (B, C); half precision is widened first.
        labels: not used; every score of logits has them.

    Returns:
        (B,) in [0, log C], in nats, float32 or better; higher is harder.
    """
    wide = columns(logits)
    others = torch.softmax(wide, 1)
    others.scatter_(1, wide.argmax(1, keepdim=True), 0.0)
    rest = others.sum(1)
    # The top class by its distance from 1: its own logarithm is 0 in float32 long before the entropy is.
    top = torch.special.xlog1py(1 - rest, -rest)
    return torch.special.entr(others).sum(1).sub_(top)
