"""How the output positions of a convolution look at its padded input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """How output positions look at the padded input; one number a spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: tuple[int, ...]  # zeros, the same on both sides; not yet in x

    def span(self, axis: int, count: int) -> int:
        """Input positions from the first to the last that `count` outputs at one kernel offset touch."""
        return (count - 1) * self.stride[axis] + 1


def crop(x: Tensor, out: Sequence[int], geo: Geometry) -> Tensor:
    # A stride may leave pixels at the far edge that no output sees.
    for axis, count in enumerate(out):
        need = geo.span(axis, count) + (geo.kernel[axis] - 1) * geo.dilation[axis]
        if x.shape[2 + axis] > need:
            x = x.narrow(2 + axis, 0, need)
    return x


def patches(x: Tensor, out: Sequence[int], geo: Geometry) -> Tensor:
    """(B, C, *Q) -> (B, C, *P, *kernel), a view."""
    spatial = x.stride()[2:]
    moves = [s * step for s, step in zip(spatial, geo.stride, strict=True)]
    looks = [s * step for s, step in zip(spatial, geo.dilation, strict=True)]
    shape = (*x.shape[:2], *out, *geo.kernel)
    return x.as_strided(shape, (*x.stride()[:2], *moves, *looks), x.storage_offset())


def padded(x: Tensor, geo: Geometry) -> Tensor:
    if not any(geo.padding):
        return x
    return F.pad(x, [p for p in reversed(geo.padding) for _ in (0, 1)])


def over_offsets(table: Tensor, first: int, second: int, out: Sequence[int], geo: Geometry) -> Tensor:
    """Inner products of patches from those of pixels: Σ_κ table[…, p + κ, …, q + κ, …].

    Args:
        table: input positions along as many dimensions from `first` on, and again from `second` on.
        out: output positions along each spatial dimension.
    """
    # Σ over the offsets of one axis after another: K1 + K2 + … passes in place of K1·K2·…
    for axis, places in enumerate(out):
        total: Tensor | None = None
        for at in range(geo.kernel[axis]):
            start = at * geo.dilation[axis]
            index = [slice(None)] * table.dim()
            index[first + axis] = index[second + axis] = slice(start, start + geo.span(axis, places), geo.stride[axis])
            part = table[tuple(index)]
            # Not in place on the first: it would write into the table that later offsets still read.
            total = part if total is None else (total + part if at == 1 else total.add_(part))
        assert total is not None
        table = total
    return table
