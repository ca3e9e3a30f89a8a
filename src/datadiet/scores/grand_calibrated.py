"""GraNd of a network whose batch norm knows its statistics: the control of GraNd at initialisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from datadiet.scores.base import score
from datadiet.scores.grand import grand


@score("grand_calibrated", needs="calibrated")
def grand_calibrated(model: nn.Module, inputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """GraNd with batch norm's statistics estimated anew from training batches (a control at initialisation).

    At initialisation running statistics are 0 and 1, so that batch norm in eval mode does nothing, and the scale of the
    weights decides what GraNd ranks by. Whoever provides this score estimates the statistics on a copy.

    Args:
        model: the network with these statistics.
        inputs: (B, …), unaugmented.
        labels: (B,) class indices.

    Returns:
        (B,) float32 or better.
    """
    return grand(model, inputs, labels)
