"""The order of examples and the draws of augmentation, each a pure function of the run's name and the step.

A pass visits every example of the subset once in a fresh order, without the partial batch at its end; passes follow
each other until the run's steps are done. Because pass p draws from its own stream, a run can be resumed at any
step with nothing stored. Streams are keyed by the run, not by its rows: run k on full data and run k on a subset start
from the same weights, and two subsets of one size are shuffled alike, which pairs them.
"""

from __future__ import annotations

import numpy as np
import torch

from datadiet.seeds import stream


class Order:
    """Batches of row indices by step.

    Args:
        indices: (n,) rows to train on.
        batch_size: rows a step; the whole subset where that is smaller.
        stream_of: (seed, purpose, run) of the streams `order` and `augment`.
        pad, flip: whether to draw crop offsets (0 … 2·pad) and flips for each image.
        device: where the draws go, a whole pass at a time.
    """

    def __init__(
        self,
        indices: np.ndarray,
        batch_size: int,
        stream_of: tuple[int, str, int],
        *,
        pad: int = 0,
        flip: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.indices = np.asarray(indices, np.int64)
        self.batch_size = min(batch_size, len(self.indices))
        self.steps_per_pass = len(self.indices) // self.batch_size
        self.stream_of, self.pad, self.flip = stream_of, pad, flip
        self._pass = -1
        self._rows = torch.empty(0)
        self._shifts: torch.Tensor | None = None
        self._flips: torch.Tensor | None = None

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Rows (B,), crop offsets (B, 2) and flips (B,) of a step; offsets and flips None without augmentation."""
        number, position = divmod(step, self.steps_per_pass)
        if number != self._pass:
            self._draw(number)
        start = position * self.batch_size
        stop = start + self.batch_size
        return (
            self._rows[start:stop],
            None if self._shifts is None else self._shifts[start:stop],
            None if self._flips is None else self._flips[start:stop],
        )

    def visited(self, steps: int, times: int = 1) -> np.ndarray:
        """The rows that `steps` steps take at least so many times, ascending."""
        rows = np.sort(self.indices)
        count = np.zeros(len(rows), np.int64)
        passes, rest = divmod(steps, self.steps_per_pass)
        for number in range(passes + (rest > 0)):
            if count.min() >= times:
                break
            used = (self.steps_per_pass if number < passes else rest) * self.batch_size
            count[np.searchsorted(rows, self._pass_of(number)[:used])] += 1
        return rows[count >= times]

    def _pass_of(self, number: int) -> np.ndarray:
        return self.indices[stream(*self.stream_of, "order", number).permutation(len(self.indices))]

    def _draw(self, number: int) -> None:
        used = self.steps_per_pass * self.batch_size
        self._rows = torch.from_numpy(self._pass_of(number)[:used]).to(self.device)
        if self.pad or self.flip:
            rng = stream(*self.stream_of, "augment", number)
            shifts = rng.integers(0, 2 * self.pad + 1, (used, 2)) if self.pad else np.zeros((used, 2), np.int64)
            self._shifts = torch.from_numpy(shifts).to(self.device)
            self._flips = torch.from_numpy(rng.random(used) < 0.5).to(self.device) if self.flip else None
        self._pass = number
