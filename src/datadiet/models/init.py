"""Initial weights: the papers' two schemes, and torch's own."""

from __future__ import annotations

import math

from torch import nn

from datadiet.models.options import one_of

INITS = ("lecun", "kaiming", "torch")
SCALES = ("ones", "uniform")
# The standard deviation of a standard normal cut off at ±2; variance scaling divides by it.
_CUT = 0.87962566103423978


def initialise(model: nn.Module, init: str, bn_scale: str = "ones") -> None:
    """Draw the weights of every convolution, linear layer and batch norm from the global stream.

    Args:
        init: "lecun" — truncated normal of variance 1/fan_in, cut off at two deviations, biases 0 (DD);
            "kaiming" — normal of variance 2/fan_in, biases 0 (LT); "torch" — as torch draws them.
        bn_scale: "ones", or "uniform" in [0, 1) (LT); batch norm's biases are 0.
    """
    one_of(init, "init", INITS)
    one_of(bn_scale, "bn_scale", SCALES)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and init != "torch":
            if init == "lecun":
                std = math.sqrt(1 / module.weight[0].numel()) / _CUT
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d) and bn_scale == "uniform":
            nn.init.uniform_(module.weight)
