"""A multi-layer perceptron for tables; images are flattened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from datadiet.errors import DatadietError
from datadiet.models.init import initialise
from datadiet.models.options import positive


def mlp(
    input_shape: Sequence[int], classes: int, *, hidden: Sequence[int] = (256, 128), init: str = "kaiming"
) -> nn.Module:
    """Linear layers with ReLU between, `hidden` units each; flattens any input, so it serves tables."""
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = math.prod(input_shape)
    for units in _sizes(hidden):
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    layers.append(nn.Linear(inputs, classes))
    model = nn.Sequential(*layers)
    initialise(model, init)
    return model


def _sizes(hidden: Any) -> list[int]:
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise DatadietError(f"hidden is {hidden!r}", fix="write the units of each layer, such as [256, 128]")
    return [positive(units, "hidden") for units in hidden]
