"""Normalisation layers: y = γ · x̂ + β, with x̂ the normalised input.

    dL/dγ_c = Σ_p g_{c,p} x̂_{c,p}          dL/dβ_c = Σ_p g_{c,p}

where p runs over what the affine parameters are shared by: pixels for BatchNorm, InstanceNorm and GroupNorm (one γ a
channel), positions for LayerNorm and RMSNorm (one γ a feature). Both gradients have the size of the layer's width,
so they are formed and squared. BatchNorm takes part with its running statistics alone, x̂ = (x − μ)/σ; with those of
the batch an example's gradient would depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datadiet.gradients.rules import Rule, gather, pieces, register_rule, square_sum

Normalise = Callable[[nn.Module, Tensor], Tensor]


def _batch_norm_gradients(
    module: nn.Module, x: Tensor, g: Tensor, names: Sequence[str]
) -> dict[str, Tensor]:
    shape = (1, -1) + (1,) * (x.dim() - 2)
    mean = module.running_mean.to(x.dtype)
    scale = torch.rsqrt(module.running_var.to(x.dtype) + module.eps)
    gammas, betas = [], []
    each = 4 * x[0].numel() if len(x) else 1
    for part in pieces(len(x), each, x.device):
        block = g[part]
        if "bias" in names:
            betas.append(_pixels(block))
        if "weight" in names:
            # Centred before it is multiplied: Σ g·x − μ Σ g loses digits where the mean is far from zero.
            gammas.append(_pixels((x[part] - mean.view(shape)).mul_(block)) * scale)
    found = {}
    if "weight" in names:
        found["weight"] = gather(gammas)
    if "bias" in names:
        found["bias"] = gather(betas)
    return found


def _pixels(t: Tensor) -> Tensor:
    """(B, C, ...) -> (B, C), summed."""
    return t if t.dim() == 2 else t.sum(tuple(range(2, t.dim())))


def _statistics_of_the_batch(module: nn.Module) -> str | None:
    if module.running_mean is None:
        return "it keeps no running statistics, so it normalises each example with its neighbours"
    if module.training:
        return "in training mode it normalises each example with its neighbours"
    return None


def _channel_rule(normalise: Normalise) -> Rule:
    def gradients(module: nn.Module, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        found = {}
        if "weight" in names:
            found["weight"] = _pixels(g * normalise(module, x))
        if "bias" in names:
            found["bias"] = _pixels(g)
        return found

    return Rule(gradients=gradients)


def _feature_rule(normalise: Normalise) -> Rule:
    def gradients(module: nn.Module, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        shape = tuple(module.normalized_shape)
        found = {}
        if "weight" in names:
            found["weight"] = (g * normalise(module, x)).reshape(len(x), -1, *shape).sum(1)
        if "bias" in names:
            found["bias"] = g.reshape(len(x), -1, *shape).sum(1)
        return found

    return Rule(gradients=gradients, positions=True)


def _instance(module: nn.Module, x: Tensor) -> Tensor:
    own = module.training or not module.track_running_stats
    mean, var = module.running_mean, module.running_var
    if own or mean is None:
        return F.instance_norm(x, use_input_stats=True, eps=module.eps)
    return F.batch_norm(x, mean.to(x.dtype), var.to(x.dtype), eps=module.eps)


def _prelu_gradients(module: nn.Module, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """PReLU, y = max(x, 0) + a·min(x, 0): dL/da_c = Σ_p g·min(x, 0)."""
    product = g * x.clamp(max=0)
    if module.weight.numel() == 1:
        return {"weight": product.reshape(len(x), -1).sum(1, keepdim=True)}
    return {"weight": _pixels(product)}


BATCH_NORM = Rule(gradients=_batch_norm_gradients, mixes=_statistics_of_the_batch)
for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
    register_rule(kind, BATCH_NORM)
for kind in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d):
    register_rule(kind, _channel_rule(_instance))
register_rule(nn.GroupNorm, _channel_rule(lambda m, x: F.group_norm(x, m.num_groups, eps=m.eps)))
register_rule(nn.LayerNorm, _feature_rule(lambda m, x: F.layer_norm(x, m.normalized_shape, eps=m.eps)))
register_rule(nn.RMSNorm, _feature_rule(lambda m, x: F.rms_norm(x, m.normalized_shape, eps=m.eps)))
register_rule(nn.PReLU, Rule(gradients=_prelu_gradients, names=("weight",)))
__all__ = ["BATCH_NORM", "square_sum"]
