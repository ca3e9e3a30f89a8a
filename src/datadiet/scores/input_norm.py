"""A control: the norm of the input. A score that ranks as this one does says nothing about training."""

from __future__ import annotations

from typing import Any

import torch

from datadiet.errors import DatadietError
from datadiet.scores.base import score


@score("input_norm", needs="model")
def input_norm(model: Any, inputs: Any, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Input norm (a control): ‖x‖₂ of the normalised input as the network gets it.

    GraNd at initialisation can follow it closely (Kirsch 2023: a rank correlation of up to 0.96), as the gradient of a
    layer's weights grows with the layer's input.

    Args:
        model: not used; every score of this kind has it.
        inputs: (B, …) real numbers, unaugmented.
        labels: not used.

    Returns:
        (B,) float32 or better; called harder where higher, as gradient norms are.
    """
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        raise DatadietError("token inputs have no norm", where="--score", fix="leave input_norm out")
    wide = inputs.detach() if inputs.dtype == torch.float64 else inputs.detach().float()
    return torch.linalg.vector_norm(wide.flatten(1), dim=1)
