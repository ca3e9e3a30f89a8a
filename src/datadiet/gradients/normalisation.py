"""Normalisation layers: y = γ · x̂ + β, with x̂ the normalised input.

    dL/dγ_c = Σ_p g_{c,p} x̂_{c,p}          dL/dβ_c = Σ_p g_{c,p}

where p runs over what the affine parameters are shared by: pixels for BatchNorm, InstanceNorm and GroupNorm (one γ a
channel), positions for LayerNorm and RMSNorm (one γ a feature). Both gradients have the size of the layer's width,
so they are formed and squared. BatchNorm takes part with its running statistics alone, x̂ = (x − μ)/σ; with those of
the batch an example's gradient would depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datadiet.gradients.rules import Rule, gather, pieces, register_rule

Normalise = Callable[[Any, Tensor], Tensor]


def _batch_norm_gradients(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    count = len(x)
    mean, var = module.running_mean.to(x.dtype), module.running_var.to(x.dtype)
    if _plain_on_cpu(module, x) and g.is_contiguous():
        return _batch_norm_kernel(module, x, g, [False, True, True])[1]
    shape = (1, -1) + (1,) * (x.dim() - 2)
    gammas, betas = [], []
    for part in pieces(count, x.element_size() * math.prod(x.shape[1:]), x.device):
        # Centred before it is multiplied: Σ g·x − μ Σ g loses digits where the mean is far from zero.
        gammas.append(_pixels((x[part] - mean.view(shape)).mul_(g[part])))
        betas.append(_pixels(g[part]))
    return {"weight": gather(gammas) * torch.rsqrt(var + module.eps), "bias": gather(betas)}


def _plain_on_cpu(module: Any, x: Tensor) -> bool:
    if module.running_mean is None or module.training or x.dim() < 3:
        return False
    alike = all(t is None or t.dtype == x.dtype for t in (module.running_mean, module.weight))
    return alike and x.device.type == "cpu" and x.is_contiguous()


def _batch_norm_kernel(module: Any, x: Tensor, g: Tensor, wanted: list[bool]) -> tuple[Tensor, dict[str, Tensor]]:
    """An example's channels as channels of their own: the library's kernel then sums each in one pass."""
    count, channels = x.shape[:2]
    rows = (1, count * channels, *x.shape[2:])
    own = [module.running_mean, module.running_var]
    scaled = wanted[0] and module.weight is not None
    table = torch.stack([*own, module.weight] if scaled else own)
    mean, var, *weight = table.unsqueeze(1).expand(-1, count, -1).reshape(len(table), -1)
    found = torch.ops.aten.native_batch_norm_backward.default(
        g.view(rows), x.view(rows), weight[0] if scaled else None, mean, var, None, None, False, module.eps, wanted
    )
    each = (count, channels)
    return found[0].view(x.shape) if wanted[0] else x, {"weight": found[1].view(each), "bias": found[2].view(each)}


def _batch_norm_through(
    module: Any, x: Tensor, g: Tensor, names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    return _batch_norm_kernel(module, x, g.contiguous(), [True, True, True])


def _pixels(t: Tensor) -> Tensor:
    """(B, C, ...) -> (B, C), summed."""
    return t if t.dim() == 2 else t.sum(tuple(range(2, t.dim())))


def _statistics_of_the_batch(module: Any) -> str | None:
    if module.running_mean is None:
        return "it keeps no running statistics, so it normalises each example with its neighbours"
    if module.training:
        return "in training mode it normalises each example with its neighbours"
    return None


def _channel_rule(normalise: Normalise) -> Rule:
    def gradients(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        found = {}
        if "weight" in names:
            found["weight"] = _pixels(g * normalise(module, x))
        if "bias" in names:
            found["bias"] = _pixels(g)
        return found

    return Rule(gradients=gradients)


def _feature_rule(normalise: Normalise) -> Rule:
    def gradients(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        shape = tuple(module.normalized_shape)
        found = {}
        if "weight" in names:
            found["weight"] = (g * normalise(module, x)).reshape(len(x), -1, *shape).sum(1)
        if "bias" in names:
            found["bias"] = g.reshape(len(x), -1, *shape).sum(1)
        return found

    return Rule(gradients=gradients, positions=True)


def _instance(module: Any, x: Tensor) -> Tensor:
    own = module.training or not module.track_running_stats
    mean, var = module.running_mean, module.running_var
    if own or mean is None:
        return F.instance_norm(x, use_input_stats=True, eps=module.eps)
    return F.batch_norm(x, mean.to(x.dtype), var.to(x.dtype), eps=module.eps)


BATCH_NORM = Rule(
    gradients=_batch_norm_gradients, mixes=_statistics_of_the_batch, through=_batch_norm_through, whole=_plain_on_cpu
)
for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
    register_rule(kind, BATCH_NORM)
INSTANCE_NORM = _channel_rule(_instance)
for shape in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d):
    register_rule(shape, INSTANCE_NORM)
register_rule(nn.GroupNorm, _channel_rule(lambda m, x: F.group_norm(x, m.num_groups, eps=m.eps)))
register_rule(nn.LayerNorm, _feature_rule(lambda m, x: F.layer_norm(x, m.normalized_shape, eps=m.eps)))
register_rule(nn.RMSNorm, _feature_rule(lambda m, x: F.rms_norm(x, m.normalized_shape, eps=m.eps)))
