"""Multi-head attention: four linear layers and a function without parameters between them.

`nn.MultiheadAttention` multiplies by its weights inside one function, so it is written out here: the projections of
query, key and value and the output projection each pass through the linear rule; `bias_k` and `bias_v` are one
more position, copied for every example, whose gradient is the copy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datadiet.gradients.linear import LINEAR
from datadiet.gradients.rules import Rule, register_rule


def _own_gradient(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    return dict.fromkeys(names, g)


# A parameter of leading size 1 copied for every example: the copy's gradient is the example's.
COPIED = Rule(gradients=_own_gradient, names=("parameter",), positions=True)

Tap = Callable[[Rule, Tensor, Tensor, dict[str, Any], str], Tensor]


def _linear(tap: Tap, x: Tensor, weight: Any, bias: Any, owners: Any, label: str) -> Tensor:
    owned = {"weight": (owners[0], label)}
    if bias is not None:
        owned["bias"] = (owners[1], label)
    return tap(LINEAR, x, F.linear(x, weight, bias), owned, label)


def _project(m: nn.MultiheadAttention, tap: Tap, q: Tensor, k: Tensor, v: Tensor) -> Sequence[Tensor]:
    bias = m.in_proj_bias
    if m._qkv_same_embed_dim and q is k and k is v:
        packed = _linear(tap, q, m.in_proj_weight, bias, (m.in_proj_weight, bias), "qkv")
        return packed.chunk(3, -1)
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    owners: Sequence[Tensor] = (m.q_proj_weight, m.k_proj_weight, m.v_proj_weight)
    weights = owners
    if m._qkv_same_embed_dim:
        owners, weights = [m.in_proj_weight] * 3, m.in_proj_weight.chunk(3)
    return [
        _linear(tap, x, w, b, (owner, bias), label)
        for x, w, b, owner, label in zip((q, k, v), weights, biases, owners, "qkv", strict=True)
    ]


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)


def attend(
    m: nn.MultiheadAttention, tap: Tap, query: Tensor, key: Tensor, value: Tensor,
    key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`nn.MultiheadAttention.forward`, its uses of weights passed to `tap`."""
    lone = query.dim() == 2
    if lone:
        at = 0 if m.batch_first else 1
        same = query is key and key is value
        query, key, value = (t.unsqueeze(at) for t in (query, key, value))
        if same:
            key = value = query
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    q, k, v = _project(m, tap, query, key, value)
    if not m.batch_first:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    count, length, heads = len(q), q.shape[1], m.num_heads
    # As the original does: the hint replaces the mask, and is aligned with the first key.
    causal = is_causal and key_padding_mask is None and not need_weights
    bias = None if causal else _additive(attn_mask, q)
    if bias is not None and bias.dim() == 3:
        bias = bias.view(count, heads, *bias.shape[1:])
    padding = _additive(key_padding_mask, q)
    extra = 0
    if m.bias_k is not None and m.bias_v is not None:
        copies = [
            tap(COPIED, p, p.expand(count, 1, -1), {"parameter": (p, "")}, name)
            for p, name in ((m.bias_k, "bias_k"), (m.bias_v, "bias_v"))
        ]
        k, v = torch.cat([k, copies[0]], 1), torch.cat([v, copies[1]], 1)
        extra += 1
    if m.add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        extra += 1
    if extra:
        bias = None if bias is None else F.pad(bias, (0, extra))
        padding = None if padding is None else F.pad(padding, (0, extra))
    if padding is not None:
        padding = padding.view(count, 1, 1, -1)
        bias = padding if bias is None else bias + padding
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (B, H, T, D)
    drop = m.dropout if m.training else 0.0
    weights = None
    if need_weights:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = F.dropout((scores if bias is None else scores + bias).softmax(-1), drop)
        mixed = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights.squeeze(0) if lone else weights
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, bias, drop, is_causal=causal)
    mixed = mixed.transpose(1, 2).flatten(2).view(count, length, -1)
    if not m.batch_first:
        mixed = mixed.transpose(0, 1)
    final = m.out_proj
    owners = (final.weight, final.bias)
    output = _linear(tap, mixed, final.weight, final.bias, owners, "out")
    if lone:
        output = output.squeeze(0 if m.batch_first else 1)
    return output, weights


register_rule(
    nn.MultiheadAttention,
    Rule(
        names=(
            "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "bias_k", "bias_v",
            "out_proj.weight", "out_proj.bias",
        ),
        positions=True,
        forward=attend,
    ),
)  # fmt: skip
