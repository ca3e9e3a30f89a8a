"""One pass over arrays that may not fit in memory: content hashes, means and standard deviations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

Inputs = np.ndarray | Mapping[str, np.ndarray]
CHUNK = 1 << 24  # bytes looked at together in one pass over an array that may not fit in memory


def moments(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over everything but the last axis, in float64; a constant channel gets std 1."""
    channels = inputs.shape[-1]
    if inputs.dtype == np.uint8:
        # Counting the 256 values is exact, and needs no copy in floating point.
        counts = np.zeros((channels, 256), np.int64)
        for block in chunks(inputs):
            for channel in range(channels):
                counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
        values = np.arange(256, dtype=np.float64)
        total = counts.sum(1)
        mean = counts @ values / total
        variance = (counts * (values - mean[:, None]) ** 2).sum(1) / total
    else:
        total_sum, rows = np.zeros(channels), 0
        for block in chunks(inputs):
            flat = block.reshape(-1, channels)
            total_sum += flat.sum(0, dtype=np.float64)
            rows += len(flat)
        mean = total_sum / rows
        squares = np.zeros(channels)
        for block in chunks(inputs):
            squares += ((block.reshape(-1, channels) - mean) ** 2).sum(0)
        variance = squares / rows
    std = np.sqrt(variance)
    return mean, np.where(std > 0, std, 1.0)


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows of about 16 MiB each."""
    row = max(1, array.nbytes // max(1, len(array)))
    size = max(1, CHUNK // row)
    for start in range(0, len(array), size):
        yield array[start : start + size]


def content_hash(data: Inputs) -> str:
    """16 hex digits that any change of a value, a shape or a dtype changes."""
    state = hashlib.blake2b(digest_size=8)
    named = sorted(data.items()) if isinstance(data, Mapping) else [("", data)]
    for name, array in named:
        state.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        for block in chunks(array):
            state.update(np.ascontiguousarray(block).data)
    return state.hexdigest()
