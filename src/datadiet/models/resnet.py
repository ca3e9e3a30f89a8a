"""ResNet18 and ResNet50 (v1) with the low-resolution stem, the networks of Deep Learning on a Data Diet.

The stem is one 3×3 convolution of stride 1 without max-pool; four stages of 64, 128, 256, 512 channels, the
last three halving the image; global average pooling. Shortcuts that change shape are 1×1 convolutions with
batch norm. A bottleneck strides in its 3×3 convolution. Preset: LeCun normal, biases 0, batch-norm scale 1,
and 0 for the last batch norm of a bottleneck (not of a basic block): the residual branches of ResNet50 start
at zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from datadiet.models.init import initialise
from datadiet.models.options import flag, image_shape, positive


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A square convolution that keeps the image's size up to its stride; batch norm follows, so no bias."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """The shortcut: a 1×1 convolution and batch norm where the shape changes, else nothing."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Two 3×3 convolutions. (B, inputs, H, W) -> (B, width, ⌈H/stride⌉, ⌈W/stride⌉)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = projection(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1. (B, inputs, H, W) -> (B, 4·width, ⌈H/stride⌉, ⌈W/stride⌉)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.shortcut = projection(inputs, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """Stem, stages of doubling width, global average, linear. (B, C, H, W) -> (B, classes).

    Args:
        depths: blocks of each stage; every stage but the first halves the image.
        width: channels of the first stage.
    """

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        depths: Sequence[int],
        width: int,
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.conv, self.bn = conv(channels, width, 3), nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        inputs = width
        for stage, depth in enumerate(depths):
            for place in range(depth):
                stride = 2 if stage and place == 0 else 1
                blocks.append(block(inputs, width << stage, stride))
                inputs = (width << stage) * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.head(x.mean((2, 3)))


def resnet18(
    input_shape: Sequence[int],
    classes: int,
    *,
    init: str = "lecun",
    bn_scale: str = "ones",
    zero_last: bool = False,
    width: int = 64,
) -> nn.Module:
    """ResNet18-v1 with the low-resolution stem (DD); LeCun normal, batch-norm scale 1."""
    return _build("resnet18", Basic, (2, 2, 2, 2), input_shape, classes, init, bn_scale, zero_last, width)


def resnet50(
    input_shape: Sequence[int],
    classes: int,
    *,
    init: str = "lecun",
    bn_scale: str = "ones",
    zero_last: bool = True,
    width: int = 64,
) -> nn.Module:
    """ResNet50-v1 with the low-resolution stem (DD); LeCun normal, last batch-norm scale of a block 0."""
    depths = (3, 4, 6, 3)
    return _build("resnet50", Bottleneck, depths, input_shape, classes, init, bn_scale, zero_last, width)


def _build(
    name: str,
    block: type[Basic] | type[Bottleneck],
    depths: Sequence[int],
    input_shape: Sequence[int],
    classes: int,
    init: str,
    bn_scale: str,
    zero_last: bool,
    width: int,
) -> nn.Module:
    channels, _, _ = image_shape(input_shape, name)
    zero = flag(zero_last, "zero_last")
    model = ResNet(block, depths, positive(width, "width"), channels, classes)
    initialise(model, init, bn_scale)
    if zero:
        for part in model.blocks:
            nn.init.zeros_(part.bn3.weight if isinstance(part, Bottleneck) else part.bn2.weight)  # type: ignore
    return model
