"""The Gram matrix K = ΨΨᵀ while it is gathered: one triangle of blocks, to which each layer adds its share.

Rows of Ψ are the gradients of single logits, ordered (example, logit). Only blocks on and above the diagonal are
computed; `finished` mirrors them, so the matrix is symmetric to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Rows of one block: enough for a fast matrix product, few enough that the half not needed stays uncomputed.
_LEAST = 128
_BLOCKS = 4


class Gram:
    """K of `count` examples with `logits` logits each.

    Args:
        count: examples, B.
        logits: logits of an example, C.
        dtype: float32 or float64, of the products and of the sum.
        memory: bytes that gradients may take at a time.
    """

    def __init__(self, count: int, logits: int, *, device: torch.device, dtype: torch.dtype, memory: int) -> None:
        self.count, self.logits, self.memory = count, logits, memory
        self.size = dtype.itemsize
        self.total = torch.zeros(count * logits, count * logits, device=device, dtype=dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self.total.dtype

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """Blocks of examples, each with all that come no earlier: together the upper triangle."""
        step = max(1, -(-self.count // _BLOCKS), _LEAST // self.logits)
        for start in range(0, self.count, step):
            yield slice(start, min(start + step, self.count)), slice(start, self.count)

    def block(self, left: slice, right: slice) -> Tensor:
        """(|left|·C, |right|·C): the part of K of these examples, to be added to."""
        c = self.logits
        return self.total[left.start * c : left.stop * c, right.start * c : right.stop * c]

    def add_rows(self, rows: Tensor) -> None:
        """Add J Jᵀ for gradients (B, C, ...) of some of the weights."""
        flat = rows.reshape(self.count * self.logits, -1)
        c = self.logits
        for left, right in self.parts():
            a, b = flat[left.start * c : left.stop * c], flat[right.start * c :]
            self.block(left, right).addmm_(a, b.T)

    def add_formed(self, form: Callable[[int, slice], Tensor], extra: int = 0) -> None:
        """Add J Jᵀ where the gradients are formed for one logit and a few examples at a time.

        All are formed again for each range of weights that fits the memory.

        Args:
            form: (logit, examples) -> (b, entries of one gradient).
            extra: bytes that forming one example's gradient takes besides the gradient.
        """
        width = form(0, slice(0, 1)).shape[1]
        step = max(1, min(width, self.memory // (2 * self.count * self.logits * self.size)))
        few = max(1, min(self.count, self.memory // (4 * (width * self.size + extra))))
        for start in range(0, width, step):
            columns = slice(start, min(start + step, width))
            rows = self.total.new_empty(self.count, self.logits, columns.stop - start)
            for logit in range(self.logits):
                for at in range(0, self.count, few):
                    part = slice(at, min(at + few, self.count))
                    rows[part, logit] = form(logit, part)[:, columns].to(self.dtype)
            self.add_rows(rows)

    def finished(self) -> Tensor:
        """K, (B·C, B·C), its lower triangle the mirror image of the upper."""
        n, step = len(self.total), 1024
        for start in range(0, n, step):
            stop = min(start + step, n)
            corner = self.total[start:stop, start:stop]
            corner.copy_(corner.triu() + corner.triu(1).T)
            self.total[stop:, start:stop] = self.total[start:stop, stop:].T
        return self.total
