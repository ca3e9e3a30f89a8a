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

from datadiet.gradients.gram_forms import Inputs, outer_gram
from datadiet.gradients.gram_matrix import Gram
from datadiet.gradients.rules import Rule, gather, pieces, register_rule, square_sum


def _gram_is_cheaper(positions: int, wide: int, high: int) -> bool:
    # Measured on AVX-512 cores: writing and reading an entry costs as much as ~24 multiplications of a large matrix
    # product, and those of the square Gram matrices are slower by about a third.
    weight = wide * high * (positions + 24)
    return positions * positions * 1.3 * (wide + high + 48) < weight


def outer_norms(x: Tensor, g: Tensor) -> Tensor:
    """‖Σ_t g_t x_tᵀ‖² of every example.

    Args:
        x: (B, T, I).
        g: (B, T, O).

    Returns:
        (B,).
    """
    if x.shape[1] == 1:
        return square_sum(x) * square_sum(g)
    if _gram_is_cheaper(x.shape[1], x.shape[2], g.shape[2]):
        return _by_gram(x, g)[0]
    each = x.element_size() * x.shape[2] * g.shape[2]
    parts = pieces(len(x), each, x.device)
    return gather(square_sum(torch.bmm(g[part].transpose(1, 2), x[part])) for part in parts)


def _by_gram(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms of Σ_t g_t x_tᵀ and, as the entries of G Gᵀ sum to it, of Σ_t g_t."""
    weights, biases = [], []
    for part in pieces(len(x), 2 * x.element_size() * x.shape[1] ** 2, x.device):
        a, b = x[part], g[part]
        right = torch.bmm(b, b.transpose(1, 2)).flatten(1)
        weights.append(torch.linalg.vecdot(torch.bmm(a, a.transpose(1, 2)).flatten(1), right))
        sums = right.sum(1)
        size = right[:, :: x.shape[1] + 1].sum(1) * x.shape[1]  # what the sum would be without cancellation
        lost = (sums < 1e-3 * size).any()
        biases.append(square_sum(b.sum(1)) if lost else sums)
    return gather(weights), gather(biases)


def _rows(t: Tensor) -> Tensor:
    return t.reshape(t.shape[0], -1, t.shape[-1])


def linear_norms(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    x, g = _rows(x), _rows(g)
    if "weight" in names and x.shape[1] > 1 and _gram_is_cheaper(x.shape[1], x.shape[2], g.shape[2]):
        weight, bias = _by_gram(x, g)
        return {"weight": weight.clamp_(min=0), "bias": bias}  # rounding may leave a zero a little below
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


def linear_gradients(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    return _gradients(x, g, names, transposed=False)


def _conv1d_gradients(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    return _gradients(x, g, names, transposed=True)


def linear_gram(module: Any, x: Tensor, g: Tensor, names: Sequence[str], total: Gram) -> None:
    x, g = _rows(x), g.reshape(*g.shape[:2], -1, g.shape[-1])
    if "weight" in names:
        outer_gram(total, Inputs(x.shape[1], x.shape[2], x.__getitem__), g.transpose(2, 3))
    if "bias" in names:
        total.add_rows(g.sum(2))


LINEAR = Rule(gradients=linear_gradients, norms=linear_norms, gram=linear_gram, positions=True)
register_rule(nn.Linear, LINEAR)
register_rule(
    "transformers.pytorch_utils.Conv1D",
    Rule(gradients=_conv1d_gradients, norms=linear_norms, gram=linear_gram, positions=True),
)
