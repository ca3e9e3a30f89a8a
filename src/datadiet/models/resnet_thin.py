"""ResNet-20, -32, -56 for CIFAR (He et al. 2015, section 4.2), the networks of the lottery-ticket appendices.

One 3×3 convolution, three stages of 16, 32, 64 channels with n blocks each (6n + 2 layers), global average
pooling. Preset (LT): 1×1-convolution shortcuts with batch norm, Kaiming normal, linear bias 0, batch-norm
scale uniform in [0, 1). `resnet8` has one block a stage and batch-norm scale 1: the smallest, for small
machines.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from datadiet.models.init import initialise
from datadiet.models.options import image_shape, one_of, positive
from datadiet.models.resnet import Basic, ResNet

SHORTCUTS = ("conv", "pad")


class Pad(nn.Module):
    """The shortcut without weights (He et al.'s option A): every other pixel, new channels zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.extra = outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


def resnet8(
    input_shape: Sequence[int],
    classes: int,
    *,
    init: str = "kaiming",
    bn_scale: str = "ones",
    shortcut: str = "conv",
    width: int = 16,
    stem: int = 1,
) -> nn.Module:
    """ResNet-8, 16-32-64 channels, one block a stage; Kaiming normal, batch-norm scale 1.

    `stem` is the stride of the first convolution: 2 halves the image at once. With twice the width that is a quarter
    faster on a CPU than the plain form, and learns more in an epoch (docs/reproduction.md has the figures).
    """
    return _build("resnet8", 1, input_shape, classes, init, bn_scale, shortcut, width, stem)


def resnet20(
    input_shape: Sequence[int],
    classes: int,
    *,
    init: str = "kaiming",
    bn_scale: str = "uniform",
    shortcut: str = "conv",
    width: int = 16,
) -> nn.Module:
    """ResNet-20 for CIFAR (LT); Kaiming normal, batch-norm scale uniform in [0, 1)."""
    return _build("resnet20", 3, input_shape, classes, init, bn_scale, shortcut, width)


def resnet32(
    input_shape: Sequence[int],
    classes: int,
    *,
    init: str = "kaiming",
    bn_scale: str = "uniform",
    shortcut: str = "conv",
    width: int = 16,
) -> nn.Module:
    """ResNet-32 for CIFAR (LT); Kaiming normal, batch-norm scale uniform in [0, 1)."""
    return _build("resnet32", 5, input_shape, classes, init, bn_scale, shortcut, width)


def resnet56(
    input_shape: Sequence[int],
    classes: int,
    *,
    init: str = "kaiming",
    bn_scale: str = "uniform",
    shortcut: str = "conv",
    width: int = 16,
) -> nn.Module:
    """ResNet-56 for CIFAR (LT); Kaiming normal, batch-norm scale uniform in [0, 1)."""
    return _build("resnet56", 9, input_shape, classes, init, bn_scale, shortcut, width)


def _build(
    name: str,
    depth: int,
    input_shape: Sequence[int],
    classes: int,
    init: str,
    bn_scale: str,
    shortcut: str,
    width: int,
    stem: int = 1,
) -> nn.Module:
    channels, _, _ = image_shape(input_shape, name)
    model = ResNet(Basic, (depth, depth, depth), positive(width, "width"), channels, classes)
    stride = positive(stem, "stem")
    model.conv.stride = (stride, stride)
    if one_of(shortcut, "shortcut", SHORTCUTS) == "pad":
        for block in model.blocks:
            assert isinstance(block, Basic)
            if block.shortcut is not None:
                block.shortcut = Pad(block.conv1.in_channels, block.conv1.out_channels)
    initialise(model, init, bn_scale)
    return model
