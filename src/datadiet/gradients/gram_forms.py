"""Gram matrices of gradients that are sums of outer products: dW_{(i,c)} = Σ_t g_{i,c,t} x_{i,t}ᵀ.

That is every linear layer on T positions, every convolution on its patches and every embedding on one-hot rows.
With m examples, C logits, x of I and g of O numbers a position, three exact forms of ⟨dW_{(i,c)}, dW_{(j,d)}⟩:

    product      T = 1: ⟨x_i, x_j⟩ · ⟨g_{i,c}, g_{j,d}⟩                        m²·(I + C²·O) multiplications
    weight form  the gradients themselves, for some output channels at a time  m·C·T·I·O + m²·C²·I·O
    half-Gram    A = ⟨x_{i,t}, x_{j,s}⟩, then Σ_{t,o} g_{i,c,t,o} (A g_{j,d})_{t,o}   m²·(T²·I + T²·C·O + C²·T·O)

of which the terms with m² are halved by symmetry. The half-Gram form is cheap where T is small and W large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datadiet.gradients.gram_matrix import Gram
from datadiet.gradients.rules import pieces

# Measured on AVX-512 cores: writing and reading an entry again costs as much as ~30 multiplications inside a large
# matrix product.
ENTRY = 30


@dataclass(frozen=True)
class Inputs:
    """The inputs of a layer as rows at positions.

    Args:
        positions: T.
        width: I, the size of a row.
        rows: examples -> (b, T, I).
        inner: (examples, others) -> (b·T, b'·T), all inner products of their rows; default: from `rows`.
        cost: multiplications of `inner` for a pair of examples.
    """

    positions: int
    width: int
    rows: Callable[[slice], Tensor]
    inner: Callable[[slice, slice], Tensor] | None = None
    cost: float | None = None

    def products(self, left: slice, right: slice) -> Tensor:
        if self.inner is not None:
            return self.inner(left, right)
        return self.rows(left).flatten(0, 1) @ self.rows(right).flatten(0, 1).T


def outer_gram(total: Gram, inputs: Inputs, g: Tensor, form: str | None = None) -> None:
    """Add the share of a weight whose gradient is Σ_t g_t x_tᵀ.

    Args:
        g: (B, C, O, T), in any memory order.
        form: "product", "weight" or "half"; default: the cheapest.
    """
    chosen = form or cheapest(total, inputs, g.shape[2])
    if chosen == "product":
        product_gram(total, inputs.rows(slice(0, total.count)).flatten(1), g.flatten(2))
    elif chosen == "weight":
        weight_gram(total, inputs, g)
    else:
        half_gram(total, inputs, g)


def cheapest(total: Gram, inputs: Inputs, high: int) -> str:
    m, c, t, wide = total.count, total.logits, inputs.positions, inputs.width
    if t == 1:
        return "product"
    weight = m * c * wide * high * (t + 2 * ENTRY) + 0.6 * (m * c) ** 2 * wide * high
    inner = inputs.cost if inputs.cost is not None else t * t * (wide + ENTRY)
    half = 0.5 * m * m * (inner + (t + ENTRY) * t * c * high + c * c * t * high)
    return "half" if half < weight else "weight"


def product_gram(total: Gram, x: Tensor, g: Tensor) -> None:
    """One position: x (B, I), g (B, C, O)."""
    c = total.logits
    flat = g.flatten(0, 1)
    for left, right in total.parts():
        both = flat[left.start * c : left.stop * c] @ flat[right.start * c :].T
        split = both.view(left.stop - left.start, c, right.stop - right.start, c)
        split *= (x[left] @ x[right].T)[:, None, :, None]
        total.block(left, right).add_(both)


def weight_gram(total: Gram, inputs: Inputs, g: Tensor) -> None:
    """The gradients are formed for as many output channels at a time as memory allows."""
    count, logits, high, positions = g.shape
    wide = inputs.width
    step = max(1, min(high, total.memory // (2 * total.size * count * logits * wide)))
    step = -(-high // -(-high // step))  # of even size
    buffer = g.new_empty(count * logits * step * wide)
    for start in range(0, high, step):
        stop = min(start + step, high)
        rows = buffer[: count * logits * (stop - start) * wide].view(count, logits * (stop - start), wide)
        each = total.size * positions * (wide + logits * (stop - start))
        for part in pieces(count, each, g.device):
            left = g[part, :, start:stop].reshape(-1, logits * (stop - start), positions)
            torch.bmm(left, inputs.rows(part), out=rows[part])
        total.add_rows(rows)


def half_gram(total: Gram, inputs: Inputs, g: Tensor) -> None:
    """A g of one example at a time, against the g of those that come no later."""
    count, logits, high, positions = g.shape
    g = g.transpose(2, 3).contiguous()  # (B, C, T, O)
    matrix = total.total.view(count, logits, count, logits)
    # A g of a block of examples should stay in the cache until it is used.
    step = len(range(count)[next(pieces(count, total.size * logits * positions * high / 2, g.device))])
    work = g.new_empty(logits * step * positions * high)
    for start in range(0, count, step):
        right = slice(start, min(start + step, count))
        for at in range(0, right.stop, step):
            left = slice(at, min(at + step, count))
            size = left.stop - at
            inner = inputs.products(left, right)
            ours = g[left].flatten(2)
            passed = work[: logits * size * positions * high].view(logits, size * positions, high)
            for j in range(right.start, right.stop):
                a = inner[:, (j - start) * positions : (j - start + 1) * positions]
                torch.bmm(a.expand(logits, -1, -1), g[j], out=passed)
                theirs = passed.view(logits, size, positions * high).permute(1, 2, 0)
                matrix[left, :, j] += torch.bmm(ours, theirs)
