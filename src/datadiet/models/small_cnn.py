"""A small convolutional network for digits and other small images, quick on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from datadiet.models.init import initialise
from datadiet.models.options import image_shape, positive


class SmallCNN(nn.Module):
    """Three 3×3 convolutions with batch norm, two halving the image. (B, C, H, W) -> (B, classes).

    Halving at once, not after the first, takes a third off a step on 8×8 images (batch 64, one thread,
    processor time, 6.1 to 4.0 ms on a busy machine). On digits, three runs each, it gave 98.25 % on full data
    and 98.42 % on the half with the highest EL2N, against 98.58 % and 98.33 %: no difference that three
    runs can show. An image of more than 16 pixels is halved a third time.
    """

    def __init__(self, channels: int, height: int, width: int, classes: int, base: int) -> None:
        super().__init__()
        last = 2 if max(height, width) > 16 else 1
        self.conv1 = nn.Conv2d(channels, base, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.conv2 = nn.Conv2d(base, 2 * base, 3, 2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * base)
        self.conv3 = nn.Conv2d(2 * base, 4 * base, 3, last, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * base)
        self.head = nn.Linear(4 * base, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.head(x.mean((2, 3)))


def small_cnn(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: int = 16,
    init: str = "kaiming",
    bn_scale: str = "ones",
) -> nn.Module:
    """Three convolutions (`width`, 2·width, 4·width channels) with batch norm, for small images."""
    channels, height, across = image_shape(input_shape, "small-cnn")
    model = SmallCNN(channels, height, across, classes, positive(width, "width"))
    initialise(model, init, bn_scale)
    return model
