"""The Gram matrix of a convolution's weight gradients: those of a linear layer on patches.

Where the half-Gram form is chosen, the inner products of patches S_{pq} = Σ_κ ⟨x_{p+κ}, x'_{q+κ}⟩ between two
examples are sums of shifted entries of one table of inner products of pixels, or products of patches written out,
whichever costs less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from datadiet.gradients.geometry import Geometry, crop, over_offsets, padded, patches
from datadiet.gradients.gram_forms import ENTRY, Inputs, outer_gram
from datadiet.gradients.gram_matrix import Gram

# An entry of the table of pixels is read and written in several passes.
_TABLE_ENTRY = 5 * ENTRY


def correlate_gram(total: Gram, x: Tensor, g: Tensor, geo: Geometry, form: str | None = None) -> None:
    """Add the share of a convolution's weight, one group.

    Args:
        x: (B, I, *Q), without the padding that `geo` names.
        g: (B, C, O, *P).
        form: "product", "weight", "half" (patches), "pixels" (half-Gram form on pixels); default: the cheapest.
    """
    out = tuple(g.shape[3:])
    x = crop(padded(x, geo), out, geo)
    places, taps = math.prod(out), math.prod(geo.kernel)
    width = x.shape[1] * taps

    def rows(part: slice) -> Tensor:
        # (b, I·K, P) seen as (b, P, I·K): with the last spatial dimension innermost the copy runs along memory.
        view = patches(x[part], out, geo)
        dims = len(out)
        columns = view.permute(0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
        return columns.reshape(view.shape[0], width, places).transpose(1, 2)

    size = x.shape[2:]
    by_pixels = math.prod(size) ** 2 * (x.shape[1] + _TABLE_ENTRY)
    by_patches = places * places * (width + ENTRY)
    if form == "pixels" or (form != "half" and taps > 1 and by_pixels < by_patches):
        pixels = x.flatten(2).transpose(1, 2).contiguous()  # (B, Q, I)
        inputs = Inputs(places, width, rows, lambda a, b: _table(pixels[a], pixels[b], size, out, geo), by_pixels)
    else:
        written: list[Tensor] = []

        def inner(left: slice, right: slice) -> Tensor:
            if not written:  # only where this form is chosen, and there maps are small
                written.append(rows(slice(0, total.count)).contiguous())
            return written[0][left].flatten(0, 1) @ written[0][right].flatten(0, 1).T

        inputs = Inputs(places, width, rows, inner, by_patches)
    outer_gram(total, inputs, g.flatten(3), "half" if form == "pixels" else form)


def _table(a: Tensor, b: Tensor, size: Sequence[int], out: Sequence[int], geo: Geometry) -> Tensor:
    """Inner products of patches, (b·P, b'·P), of pixels (b, Q, I) and (b', Q, I)."""
    table = (a.flatten(0, 1) @ b.flatten(0, 1).T).view(len(a), *size, len(b), *size)
    table = over_offsets(table, 1, 2 + len(size), out, geo)
    return table.reshape(len(a) * math.prod(out), -1)
