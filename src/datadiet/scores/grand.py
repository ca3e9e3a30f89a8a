"""GraNd: the norm of an example's loss gradient over all weights (Data Diet, definition 2.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from datadiet import gradients
from datadiet.scores.base import score


@score("grand", needs="model")
def grand(model: nn.Module, inputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """GraNd: ‖∇ loss‖₂ over all weights, exact, of a network in eval mode.

    Args:
        model: any network; `datadiet.grand` says more.
        inputs: (B, …), unaugmented.
        labels: (B,) class indices.

    Returns:
        (B,) float32 or better.
    """
    norms: torch.Tensor = gradients.grand(model, inputs, labels)
    return norms
