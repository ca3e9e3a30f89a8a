"""Observers that come with the library: trajectories of examples, and progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from datadiet.training.loop import Moment, Observer

BUFFER_BYTES = 1 << 26


class Accumulator(Protocol):
    """What follows every example through training: fed batches, asked for columns."""

    def update(self, indices: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Rows are distinct within one call; logits are (B, C) float32 or better."""
        ...

    def result(self) -> dict[str, torch.Tensor]: ...

    def state(self) -> dict[str, torch.Tensor]: ...

    def load(self, state: Mapping[str, torch.Tensor]) -> None: ...


class Trajectories(Observer):
    """Feeds accumulators with what training sees, at the price of one copy a step.

    Logits go to a buffer; when it is full, or a pass ends (so that no row comes twice), the accumulators get it whole.
    What an accumulator computes must not depend on how a pass is cut into updates; those of this library do not.
    """

    name = "trajectories"

    def __init__(self, accumulators: Mapping[str, Accumulator]) -> None:
        self.accumulators = dict(accumulators)
        self._used = 0
        self._rows: torch.Tensor | None = None
        self._labels: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None

    def on_batch(self, moment: Moment) -> None:
        count = len(moment.indices)
        if self._rows is None or self._logits is None or self._labels is None:
            self._allocate(moment)
            assert self._rows is not None and self._logits is not None and self._labels is not None
        if self._used + count > len(self._rows):
            self.flush()
        part = slice(self._used, self._used + count)
        self._rows[part] = moment.indices
        self._labels[part] = moment.labels
        self._logits[part] = moment.logits
        self._used += count
        if (moment.step + 1) % moment.steps_per_pass == 0:
            self.flush()

    def on_end(self, moment: Moment) -> None:
        self.flush()

    def flush(self) -> None:
        if not self._used or self._rows is None or self._logits is None or self._labels is None:
            return
        part = slice(0, self._used)
        for accumulator in self.accumulators.values():
            accumulator.update(self._rows[part], self._logits[part], self._labels[part])
        self._used = 0

    def result(self) -> dict[str, torch.Tensor]:
        """Every accumulator's columns, by name."""
        self.flush()
        columns: dict[str, torch.Tensor] = {}
        for accumulator in self.accumulators.values():
            columns.update(accumulator.result())
        return columns

    def state(self) -> dict[str, torch.Tensor]:
        self.flush()
        return {
            f"{name}/{key}": value
            for name, accumulator in self.accumulators.items()
            for key, value in accumulator.state().items()
        }

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, accumulator in self.accumulators.items():
            own = {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}/")}
            accumulator.load(own)

    def _allocate(self, moment: Moment) -> None:
        batch, classes = moment.logits.shape
        rows = max(batch, min(moment.steps_per_pass * batch, BUFFER_BYTES // (4 * classes)))
        like = moment.logits
        self._rows = torch.empty(rows, dtype=torch.int64, device=like.device)
        self._labels = torch.empty(rows, dtype=torch.int64, device=like.device)
        self._logits = torch.empty((rows, classes), dtype=torch.float32, device=like.device)


class Ticker(Observer):
    """Tells somebody the step, every `every` steps."""

    name = "ticker"

    def __init__(self, tell: Callable[[int], None], every: int = 1) -> None:
        self.tell, self.every = tell, max(1, every)

    def on_step(self, moment: Moment) -> None:
        if moment.step % self.every == 0:
            self.tell(moment.step)
