"""A recipe's network for a dataset: built in one way wherever one is needed."""

from __future__ import annotations

import torch
from torch import nn

from datadiet import models
from datadiet.data.dataset import Dataset
from datadiet.numerics import Numerics
from datadiet.training.recipe import Recipe


def network_of(recipe: Recipe, data: Dataset, *, seed: int = 0, numerics: Numerics | None = None) -> nn.Module:
    """The network with fresh weights: on the CPU, or where and as `numerics` says that it is trained."""
    model = models.build_with(recipe.model, data.input_shape, len(data.classes), recipe.model_args, seed=seed)
    if numerics is None:
        return model
    model = model.to(torch.device(numerics.device))
    if numerics.channels_last and data.kind == "image":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
