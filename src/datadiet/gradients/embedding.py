"""Embeddings: y_t = W[i_t], so dL/dW has the row Σ_{t: i_t = v} g_t for every index v that occurs, and zeros.

‖dW‖² is the sum of squares of those rows. They are collected by (example, index) into a buffer no larger than g, so
neither the table nor T × T products appear. Rows of `padding_idx` count as zero; `scale_grad_by_freq` divides a row
by how often its index occurs in the example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datadiet.gradients.gram_forms import ENTRY, Inputs, outer_gram
from datadiet.gradients.gram_matrix import Gram
from datadiet.gradients.rules import Rule, register_rule


def _rows(module: Any, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The (example, index) pairs that occur as one number each, (U,), and their gradient rows, (U, D)."""
    count, entries = len(x), module.num_embeddings
    index = x.reshape(count, -1)
    rows = g.reshape(-1, g.shape[-1])
    keys = (torch.arange(count, device=x.device).unsqueeze(1) * entries + index).reshape(-1)
    if module.padding_idx is not None:
        keep = (index != module.padding_idx).reshape(-1)
        keys, rows = keys[keep], rows[keep]
    pairs, place, often = torch.unique(keys, return_inverse=True, return_counts=True)
    sums = rows.new_zeros(len(pairs), rows.shape[1]).index_add_(0, place, rows)
    if module.scale_grad_by_freq:
        sums /= often.unsqueeze(1)
    return pairs, sums


def _norms(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    pairs, sums = _rows(module, x, g)
    squares = torch.linalg.vecdot(sums, sums)
    owner = torch.div(pairs, module.num_embeddings, rounding_mode="floor")
    return {"weight": squares.new_zeros(len(x)).index_add_(0, owner, squares)}


def _gradients(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    pairs, sums = _rows(module, x, g)
    table = sums.new_zeros(len(x) * module.num_embeddings, sums.shape[1])
    table[pairs] = sums
    return {"weight": table.view(len(x), module.num_embeddings, -1)}


def _gram(module: Any, x: Tensor, g: Tensor, names: Sequence[str], total: Gram) -> None:
    """A linear layer on one-hot rows; of the table, only the rows that occur."""
    index = x.reshape(len(x), -1)
    g = g.reshape(*g.shape[:2], -1, g.shape[-1])
    weights = torch.ones_like(index, dtype=g.dtype)
    if module.padding_idx is not None:
        weights[index == module.padding_idx] = 0
    if module.scale_grad_by_freq:
        weights /= (index.unsqueeze(1) == index.unsqueeze(2)).sum(2)
    found, place = torch.unique(index, return_inverse=True)

    def one_hot(part: slice) -> Tensor:
        rows = weights.new_zeros(*place[part].shape, len(found))
        return rows.scatter_(2, place[part].unsqueeze(2), weights[part].unsqueeze(2))

    def alike(left: slice, right: slice) -> Tensor:
        a, b = place[left].flatten(), place[right].flatten()
        both = (a.unsqueeze(1) == b).to(g.dtype)
        return both.mul_(weights[left].flatten().unsqueeze(1)).mul_(weights[right].flatten())

    positions = index.shape[1]
    inputs = Inputs(positions, len(found), one_hot, alike, 4 * ENTRY * positions**2)
    outer_gram(total, inputs, g.transpose(2, 3))


register_rule(nn.Embedding, Rule(gradients=_gradients, norms=_norms, gram=_gram, names=("weight",), positions=True))
