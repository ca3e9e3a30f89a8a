"""PReLU: y = max(x, 0) + a_c · min(x, 0), so dL/da_c = Σ_p g_{c,p} · min(x_{c,p}, 0); one a sums channels too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from datadiet.gradients.rules import Rule, register_rule


def _gradients(module: Any, x: Tensor, g: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    product = (g * x.clamp(max=0)).flatten(2) if x.dim() > 2 else g * x.clamp(max=0)
    if module.weight.numel() == 1:
        return {"weight": product.flatten(1).sum(1, keepdim=True)}
    return {"weight": product.sum(2) if product.dim() > 2 else product}


register_rule(nn.PReLU, Rule(gradients=_gradients, names=("weight",)))
