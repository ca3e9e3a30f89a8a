"""Observers that come with the library: trajectories of examples, and progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from datadiet.errors import DatadietError
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

    def merge(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None: ...


class Trajectories(Observer):
    """Feeds accumulators with what training sees, at the price of three list entries a step.

    Batches are kept as they come; when many are there, or a pass ends (so that no row comes twice), the accumulators
    get them as one. What an accumulator computes must not depend on how a pass is cut into updates; those of this
    library do not.
    """

    name = "trajectories"

    def __init__(self, accumulators: Mapping[str, Accumulator]) -> None:
        self.accumulators = dict(accumulators)
        self._rows: list[torch.Tensor] = []
        self._logits: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def on_batch(self, moment: Moment) -> None:
        self._rows.append(moment.indices)
        self._logits.append(moment.logits)
        self._labels.append(moment.labels)
        full = len(self._logits) * moment.logits.nbytes >= BUFFER_BYTES
        if full or (moment.step + 1) % moment.steps_per_pass == 0:
            self.flush()

    def on_end(self, moment: Moment) -> None:
        self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        rows, logits, labels = torch.cat(self._rows), torch.cat(self._logits).float(), torch.cat(self._labels)
        for accumulator in self.accumulators.values():
            accumulator.update(rows, logits, labels)
        for kept in (self._rows, self._logits, self._labels):
            kept.clear()

    def result(self) -> dict[str, torch.Tensor]:
        """Every accumulator's columns, by name."""
        self.flush()
        columns: dict[str, torch.Tensor] = {}
        for accumulator in self.accumulators.values():
            columns.update(accumulator.result())
        return columns

    def state(self) -> dict[str, torch.Tensor]:
        self.flush()
        out = {}
        for name, accumulator in self.accumulators.items():
            for key, value in accumulator.state().items():
                if not isinstance(value, torch.Tensor):
                    raise DatadietError(
                        f"the state of {name} has {key!r} as {type(value).__name__}", fix="give a dict of tensors"
                    )
                out[f"{name}/{key}"] = value
        return out

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, accumulator in self.accumulators.items():
            accumulator.load(_part(state, name))

    def merge(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        self.flush()
        for name, accumulator in self.accumulators.items():
            accumulator.merge([_part(state, name) for state in states])


def _part(state: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """What a state holds of one accumulator."""
    return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}/")}


class Ticker(Observer):
    """Tells somebody the step, every `every` steps."""

    name = "ticker"

    def __init__(self, tell: Callable[[int], None], every: int = 1) -> None:
        self.tell, self.every = tell, max(1, every)

    def on_step(self, moment: Moment) -> None:
        if moment.step % self.every == 0:
            self.tell(moment.step)
