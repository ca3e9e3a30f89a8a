"""Convolutions: y_{o,p} = Σ_{c,κ} W_{o,c,κ} x_{c, p·stride + κ·dilation} + b_o, x already padded.

    dW_{o,c,κ} = Σ_p g_{o,p} x_{c, p·stride + κ·dilation}          db_o = Σ_p g_{o,p}

With P output positions, Q padded input positions, K kernel offsets, three exact forms of ‖dW‖²:

    weight form    one matrix product an example, g (O × P) by the patches (P × K·C): P·K·C·O multiplications.
                   On the CPU with few channels, the library's own weight gradient with an example a group.
    Gram form      Σ_{p,q} (G Gᵀ)_{pq} S_{pq}, where S_{pq} = Σ_κ ⟨x_{p+κ}, x_{q+κ}⟩ are sums of shifted entries
                   of one Gram matrix of pixels: Q²·C + P²·O multiplications; cheap where the map is small.
    outer product  P = 1, or 1×1 kernels: a linear layer on positions.

A transposed convolution's weight gradient is that of a convolution from its output to its input: x and g swap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datadiet.gradients.geometry import Geometry, crop, over_offsets, padded, patches
from datadiet.gradients.gram_conv import correlate_gram
from datadiet.gradients.gram_matrix import Gram
from datadiet.gradients.linear import outer_norms
from datadiet.gradients.rules import Rule, gather, pieces, register_rule, square_sum


def correlate(x: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    """The weight gradients themselves.

    Args:
        x: (B, C, *Q), without the padding that `geo` names.
        g: (B, O, *P).

    Returns:
        (B, O, C / groups, *kernel).
    """
    count, channels, high = x.shape[0], x.shape[1], g.shape[1]
    out = g.shape[2:]
    taps = math.prod(geo.kernel)
    view = patches(crop(padded(x, geo), out, geo), out, geo)
    rows = view.reshape(count * geo.groups, channels // geo.groups, math.prod(out), taps)
    rows = rows.permute(0, 2, 1, 3).reshape(count * geo.groups, math.prod(out), -1)
    left = g.reshape(count * geo.groups, high // geo.groups, -1)
    weight = torch.bmm(left, rows)
    return weight.reshape(count, high, channels // geo.groups, *geo.kernel)


def correlate_norms(x: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    """‖dW‖² of every example, (B,), by the cheapest exact form; shapes as in `correlate`."""
    out = g.shape[2:]
    count, channels, high = x.shape[0], x.shape[1] // geo.groups, g.shape[1] // geo.groups
    size = [geo.span(i, n) + (geo.kernel[i] - 1) * geo.dilation[i] for i, n in enumerate(out)]
    places, pixels, taps = math.prod(out), math.prod(size), math.prod(geo.kernel)
    # Measured on AVX-512 cores: an entry that is written and read again costs as much as ~30 (weight form, large
    # matrices) or ~150 (Gram form, several passes) multiplications inside a matrix product.
    weight = taps * channels * high * (places + 30)
    gram = pixels * pixels * (channels + 150) + places * places * high
    linear, depthwise = taps == 1 or places == 1, geo.groups > 1 and channels == 1
    if gram >= weight and not linear and not depthwise and _library_does_it(x, g, places):
        # A call costs as much as a dozen examples; past the cache fresh memory costs more than that.
        room = 2 * geo.groups * (taps * channels * high + places * (channels + high))
        return gather(_by_groups(x[part], g[part], geo) for part in pieces(count, room, x.device))
    x = crop(padded(x, geo), out, geo)
    if depthwise:
        return _depthwise(x, g, geo)
    if linear:
        return _as_linear(x, g, geo)
    if gram < weight:
        form, each = _gram, 4 * geo.groups * (pixels * pixels * 2.5 + places * places)
    elif geo.groups == 1:
        form, each = _by_rows, 4 * (places * channels * geo.kernel[-1] + taps * channels * high)
    else:
        form, each = _by_patches, 4 * geo.groups * taps * channels * (places + high)
    return gather(form(x[part], g[part], geo) for part in pieces(count, each, x.device))


def _library_does_it(x: Tensor, g: Tensor, places: int) -> bool:
    # Grouped weight gradients are quick on the CPU, for few channels and large maps in the usual layout; with a
    # number of channels that is no multiple of 8 they are three times slower than our own.
    usual = x.is_contiguous() and g.is_contiguous() and x.dtype == torch.float32
    even = x.shape[1] % 8 == 0 and g.shape[1] % 8 == 0
    return usual and even and x.device.type == "cpu" and x.dim() == 4 and x.shape[1] <= 64 and places >= 256


def _by_patches(x: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    return square_sum(correlate(x, g, replace(geo, padding=(0,) * len(geo.padding))))


def _as_linear(x: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    count, out, groups = x.shape[0], g.shape[2:], geo.groups
    channels, high = x.shape[1] // groups, g.shape[1] // groups
    if math.prod(out) == 1:
        view = patches(x, out, geo).reshape(count * groups, 1, -1)
        return outer_norms(view, g.reshape(count * groups, 1, -1)).view(count, groups).sum(1)
    for axis, step in enumerate(geo.stride):
        if step > 1:
            x = x[(slice(None),) * (2 + axis) + (slice(None, None, step),)]
    # (B, G, c, P) -> (B·G, P, c); with channels last and one group this is a view.
    rows = x.flatten(2).unflatten(1, (groups, channels)).flatten(0, 1).transpose(1, 2)
    left = g.flatten(2).unflatten(1, (groups, high)).flatten(0, 1).transpose(1, 2)
    return outer_norms(rows, left).view(count, groups).sum(1)


def _depthwise(x: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    count, out = x.shape[0], g.shape[2:]
    g = g.unflatten(1, (geo.groups, -1))
    total = torch.zeros(count, dtype=x.dtype, device=x.device)
    for offset in itertools.product(*(range(k) for k in geo.kernel)):
        total += square_sum((g * _shifted(x, offset, out, geo).unsqueeze(2)).flatten(3).sum(3))
    return total


def _shifted(x: Tensor, offset: Sequence[int], out: Sequence[int], geo: Geometry) -> Tensor:
    """The pixels that kernel offset κ shows to each output position: (B, C, *P), a view."""
    index: list[slice] = [slice(None), slice(None)]
    for axis, (at, count) in enumerate(zip(offset, out, strict=True)):
        start = at * geo.dilation[axis]
        index.append(slice(start, start + geo.span(axis, count), geo.stride[axis]))
    return x[tuple(index)]


def _by_groups(x: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    count, groups = x.shape[0], x.shape[0] * geo.groups
    channels, dims = x.shape[1] // geo.groups, len(geo.kernel)
    weight = x.new_empty(()).expand(groups * (g.shape[1] // geo.groups), channels, *geo.kernel)
    gradient = torch.ops.aten.convolution_backward.default(
        g.reshape(1, -1, *g.shape[2:]), x.reshape(1, -1, *x.shape[2:]), weight, None, list(geo.stride),
        list(geo.padding),
        list(geo.dilation), False, [0] * dims, groups, [False, True, False],
    )[1]  # fmt: skip
    return square_sum(gradient.view(count, -1))


def _by_rows(x: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    """One product for each kernel row, with windows along the last dimension only: few copies, large matrices."""
    count, out = x.shape[0], g.shape[2:]
    last = x.dim() - 2
    pixels = x.movedim(1, -1).contiguous()  # (B, *Q, C)
    steps = pixels.stride()
    windows = pixels.as_strided(
        (*pixels.shape[:last], out[-1], geo.kernel[-1], x.shape[1]),
        (*steps[:last], steps[last] * geo.stride[-1], steps[last] * geo.dilation[-1], 1),
    ).contiguous()
    left = g.flatten(2)
    if g.dim() == 4 and g.is_contiguous(memory_format=torch.channels_last):
        left = g.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)
    total = torch.zeros(count, dtype=x.dtype, device=x.device)
    for offset in itertools.product(*(range(k) for k in geo.kernel[:-1])):
        index: list[slice] = [slice(None)]
        for axis, (at, places) in enumerate(zip(offset, out[:-1], strict=True)):
            start = at * geo.dilation[axis]
            index.append(slice(start, start + geo.span(axis, places), geo.stride[axis]))
        rows = windows[tuple(index)].reshape(count, -1, geo.kernel[-1] * x.shape[1])
        total += square_sum(torch.bmm(left, rows))
    return total


def _gram(x: Tensor, g: Tensor, geo: Geometry) -> Tensor:
    count, out, groups = x.shape[0], g.shape[2:], geo.groups
    size = x.shape[2:]
    rows = x.reshape(count * groups, -1, math.prod(size))
    table = torch.bmm(rows.transpose(1, 2), rows).view(-1, *size, *size)
    table = over_offsets(table, 1, 1 + len(size), out, geo)
    left = g.reshape(count * groups, -1, math.prod(out))
    other = torch.bmm(left.transpose(1, 2), left)
    return torch.linalg.vecdot(table.reshape(count, -1), other.view(count, -1))


def _sides(module: Any, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Geometry]:
    """The input and output gradient of the (possibly mirrored) convolution, and its geometry."""
    shape = (module.kernel_size, module.stride, module.dilation, module.groups)
    if module.transposed:
        return g, x, Geometry(*shape, module.padding)
    amounts = tuple(module._reversed_padding_repeated_twice)  # last dimension first, two sides each
    before, after = amounts[::2], amounts[1::2]
    if module.padding_mode == "zeros" and before == after:
        return x, g, Geometry(*shape, tuple(reversed(before)))
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(x, amounts, mode=mode), g, Geometry(*shape, (0,) * len(before))


def _norms(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    found = {}
    if "weight" in names:
        found["weight"] = correlate_norms(*_sides(module, x, g))
    if "bias" in names:
        found["bias"] = square_sum(g.flatten(2).sum(2))
    return found


def _gradients(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    found = {}
    if "weight" in names:
        found["weight"] = correlate(*_sides(module, x, g))
    if "bias" in names:
        found["bias"] = g.flatten(2).sum(2)
    return found


def _shares(module: Any, x: Tensor, g: Tensor, names: Sequence[str], total: Gram) -> None:
    if "weight" in names and (module.transposed or module.groups > 1):
        written = total.size * math.prod(module.kernel_size) * max(x[0].numel(), g[0, 0].numel())
        total.add_formed(lambda c, part: correlate(*_sides(module, x[part], g[part, c])).flatten(1), 2 * written)
    elif "weight" in names:
        correlate_gram(total, *_sides(module, x, g))
    if "bias" in names:
        total.add_rows(g.flatten(3).sum(3))


CONV = Rule(gradients=_gradients, norms=_norms, gram=_shares)
for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
    register_rule(kind, CONV)
