"""Linear layers: y = x Wᵀ + b at every position t of an example.

    dL/dW = Σ_t g_t x_tᵀ          dL/db = Σ_t g_t

One position: ‖dW‖² = ‖g‖² ‖x‖². Several, whichever costs less:

    weight form   ‖Gᵀ X‖²                     T·I·O multiplications, I·O numbers an example
    Gram form     Σ_{s,t} (X Xᵀ)_{st} (G Gᵀ)_{st}   T²·(I+O) multiplications, T² numbers an example

Hugging Face's `Conv1D` is the same with W transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datadiet.gradients.rules import Rule, gather, pieces, register_rule, square_sum


def outer_norms(x: Tensor, g: Tensor) -> Tensor:
    """‖Σ_t g_t x_tᵀ‖² of every example.

    Args:
        x: (B, T, I).
        g: (B, T, O).

    Returns:
        (B,).
    """
    count, positions, wide = x.shape
    high = g.shape[2]
    if positions == 1:
        return square_sum(x) * square_sum(g)
    # Writing and squaring an entry costs about as much as this many multiplications of a matrix product.
    touch = 24
    weight = wide * high * (positions + touch)
    gram = positions * positions * (wide + high + 2 * touch)
    parts = []
    if weight <= gram:
        for part in pieces(count, 4 * wide * high, x.device):
            parts.append(square_sum(torch.bmm(g[part].transpose(1, 2), x[part])))
    else:
        for part in pieces(count, 8 * positions * positions, x.device):
            a, b = x[part], g[part]
            left = torch.bmm(a, a.transpose(1, 2)).flatten(1)
            parts.append(torch.linalg.vecdot(left, torch.bmm(b, b.transpose(1, 2)).flatten(1)))
    return gather(parts)


def _rows(t: Tensor) -> Tensor:
    return t.reshape(t.shape[0], -1, t.shape[-1])


def linear_norms(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    x, g = _rows(x), _rows(g)
    found = {}
    if "weight" in names:
        found["weight"] = outer_norms(x, g)
    if "bias" in names:
        found["bias"] = square_sum(g.sum(1))
    return found


def _gradients(x: Tensor, g: Tensor, names: Sequence[str], transposed: bool) -> dict[str, Tensor]:
    x, g = _rows(x), _rows(g)
    found = {}
    if "weight" in names:
        left, right = (x, g) if transposed else (g, x)
        found["weight"] = torch.bmm(left.transpose(1, 2), right)
    if "bias" in names:
        found["bias"] = g.sum(1)
    return found


def linear_gradients(
    module: Any, x: Tensor, g: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    return _gradients(x, g, names, transposed=False)


def _conv1d_gradients(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    return _gradients(x, g, names, transposed=True)


LINEAR = Rule(gradients=linear_gradients, norms=linear_norms, positions=True)
register_rule(nn.Linear, LINEAR)
register_rule(
    "transformers.pytorch_utils.Conv1D",
    Rule(gradients=_conv1d_gradients, norms=linear_norms, positions=True),
)
