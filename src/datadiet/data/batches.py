"""From row indices to what the network eats: gathered, cropped, flipped and normalised as whole batches.

Images lie in memory as uint8 (N, H, W, C). A crop of the padded image followed by a flip is a rearrangement of
pixels, so gathering, padding, cropping and flipping are one index computation and one `index_select` over all
pixels of the data set; each image has its own offset and flip. The result is a channels-last float32 batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from datadiet.data.dataset import Dataset, Examples
from datadiet.errors import DatadietError

PADDINGS = ("reflect", "zeros")


class Batches:
    """Network inputs and labels by row, on one device.

    Args:
        examples: the rows; `data.train`, `data.test` or `data.validation`.
        data: whose mean and standard deviation normalise, and whose kind says what the arrays are.
        device: where the raw arrays are kept and batches come out.
        pad: the crop's padding on every side; 0 for none.
        pad_mode: what lies there: the image reflected ("reflect") or black pixels ("zeros").
    """

    def __init__(
        self,
        examples: Examples,
        data: Dataset,
        device: torch.device | str = "cpu",
        *,
        pad: int = 0,
        pad_mode: str = "reflect",
    ) -> None:
        self.device = torch.device(device)
        self.labels = _tensor(np.ascontiguousarray(examples.labels)).to(self.device)
        self.image = data.kind == "image"
        self.pad, self.pad_mode = pad, pad_mode
        self._named: dict[str, torch.Tensor] | None = None
        if isinstance(examples.inputs, Mapping):
            self._named = {key: _tensor(array).to(self.device) for key, array in examples.inputs.items()}
            return
        self._raw = _tensor(examples.inputs).to(self.device)
        if data.mean is not None and data.std is not None:
            self._scale = torch.from_numpy(1.0 / data.std).float().to(self.device)
            self._shift = torch.from_numpy(-data.mean / data.std).float().to(self.device)
        if self.image:
            _, height, width, channels = self._raw.shape
            if pad and pad_mode == "reflect" and pad >= min(height, width):
                raise DatadietError(
                    f"a reflecting pad of {pad} on images of {height}×{width}",
                    where=data.name,
                    fix=f"pad at most {min(height, width) - 1}, or pad_mode='zeros'",
                )
            self._pixels = self._raw.reshape(-1, channels)
            self._rows, self._row_ok = _padded(height, pad, pad_mode, self.device)
            self._columns, self._column_ok = _padded(width, pad, pad_mode, self.device)
            self._y = torch.arange(height, device=self.device)
            self._x = torch.arange(width, device=self.device)

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(
        self,
        rows: torch.Tensor,
        shifts: torch.Tensor | None = None,
        flips: torch.Tensor | None = None,
    ) -> Any:
        """Normalised inputs of `rows`: (B, C, H, W) channels-last, (B, D), or a dict as stored.

        Args:
            rows: (B,) int64 on `device`.
            shifts: (B, 2) offsets of the crop's corner in the padded image, 0 … 2·pad; None takes the centre.
            flips: (B,) bool, mirror left and right.
        """
        if self._named is not None:
            return {key: tensor.index_select(0, rows) for key, tensor in self._named.items()}
        if not self.image:
            return torch.addcmul(self._shift, self._raw.index_select(0, rows), self._scale)
        if shifts is None and flips is None:
            raw = self._raw.index_select(0, rows)
        else:
            raw = self._augmented(rows, shifts, flips)
        return torch.addcmul(self._shift, raw.float(), self._scale).permute(0, 3, 1, 2)

    def _augmented(self, rows: torch.Tensor, shifts: torch.Tensor | None, flips: torch.Tensor | None) -> torch.Tensor:
        _, height, width, channels = self._raw.shape
        if shifts is None:
            shifts = torch.full((len(rows), 2), self.pad, dtype=torch.int64, device=self.device)
        y = shifts[:, :1] + self._y
        x = self._x.expand(len(rows), width)
        if flips is not None:
            x = torch.where(flips[:, None], width - 1 - x, x)
        x = x + shifts[:, 1:]
        flat = (rows * (height * width))[:, None, None] + (self._rows[y] * width)[:, :, None]
        flat = flat + self._columns[x][:, None, :]
        raw = self._pixels.index_select(0, flat.view(-1)).view(len(rows), height, width, channels)
        if self.pad_mode == "zeros" and self.pad:
            inside = self._row_ok[y][:, :, None] & self._column_ok[x][:, None, :]
            raw = raw * inside[..., None]
        return raw


def _padded(size: int, pad: int, mode: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For each coordinate of the padded axis: the source coordinate, and whether it lies inside the image."""
    if mode not in PADDINGS:
        raise DatadietError(f"pad_mode {mode!r}", where="recipe", fix=f"one of {', '.join(PADDINGS)}")
    at = np.arange(-pad, size + pad)
    inside = (at >= 0) & (at < size)
    source = np.where(at < 0, -at, np.where(at >= size, 2 * (size - 1) - at, at)) if mode == "reflect" else at
    source = np.clip(source, 0, size - 1)
    return torch.from_numpy(source).to(device), torch.from_numpy(inside).to(device)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor, without a copy where torch can; a read-only memory map is never written to here."""
    if any(stride < 0 for stride in array.strides):  # x[::-1], which torch has not
        array = np.ascontiguousarray(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
