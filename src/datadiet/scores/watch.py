"""Watch: the trajectory scores in anyone's own training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from datadiet.errors import DatadietError
from datadiet.scores.base import SCORES
from datadiet.scores.table import ScoreTable


class Watch:
    """Follows every example through a loop that is not ours.

    >>> watch = Watch(len(train_set))                      # doctest: +SKIP
    >>> for indices, inputs, labels in loader:             # doctest: +SKIP
    ...     logits = model(inputs)
    ...     watch.update(indices, logits, labels)
    >>> watch.end_epoch()                                  # doctest: +SKIP
    >>> watch.table().mean("forgetting", at="1ep")         # doctest: +SKIP

    Args:
        n: number of training examples; indices run from 0 to n − 1.
        scores: trajectory scores to follow; default all that are registered.
        device: where the counts are kept.
    """

    def __init__(self, n: int, scores: Sequence[str] | None = None, device: torch.device | str = "cpu") -> None:
        names = [name for name, entry in SCORES.items() if entry.needs == "trajectory"]
        for name in scores or ():
            if SCORES.get(name).needs != "trajectory":
                raise DatadietError(
                    f"{name} is no score of a trajectory", where="Watch", fix=f"one of {', '.join(names)}"
                )
        if n < 1:
            raise DatadietError(f"{n} examples", where="Watch", fix="give the size of the training set")
        self.n, self.device, self.epochs = n, torch.device(device), 0
        self._followed = {name: SCORES.get(name).compute(n, self.device) for name in scores or names}
        self._labels = torch.full((n,), -1, dtype=torch.int64, device=self.device)
        self._history: dict[tuple[str, int], np.ndarray] = {}

    def update(self, indices: Any, logits: torch.Tensor, labels: Any) -> None:
        """Take in one batch, as the network saw it.

        Args:
            indices: (B,) which examples these are, each once.
            logits: (B, C), before the weights move; detached and widened to float32 here.
            labels: (B,) class indices.
        """
        rows = torch.as_tensor(indices, device=self.device).long()
        outputs = logits.detach().to(self.device).float()
        given = torch.as_tensor(labels, device=self.device).long()
        if outputs.ndim != 2 or not len(rows) == len(outputs) == len(given):
            raise DatadietError(
                f"{len(rows)} indices, logits of shape {tuple(outputs.shape)} and {len(given)} labels",
                where="Watch.update",
                fix="one row of logits, one index and one label an example",
            )
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.n:
            raise DatadietError(
                f"indices from {int(rows.min())} to {int(rows.max())}",
                where="Watch.update",
                fix=f"they run from 0 to {self.n - 1}",
            )
        if len(torch.unique(rows)) != len(rows):
            raise DatadietError("an example comes twice in one batch", where="Watch.update", fix="update once for each")
        self._labels[rows] = given
        for accumulator in self._followed.values():
            accumulator.update(rows, outputs, given)

    def end_epoch(self) -> None:
        """Note the scores as they are now, as those of one more epoch."""
        self.epochs += 1
        for column, values in self.result().items():
            self._history[(column, self.epochs)] = values

    def result(self) -> dict[str, np.ndarray]:
        """Every score and column as it is now, (n,) float32; NaN for examples not seen yet."""
        out: dict[str, np.ndarray] = {}
        for accumulator in self._followed.values():
            out.update({name: values.cpu().numpy() for name, values in accumulator.result().items()})
        return out

    def table(self, fingerprint: str = "") -> ScoreTable:
        """A one-run ScoreTable with an entry for each finished epoch ("1ep", "2ep", …), or of the moment before any."""
        history = self._history or {(name, 0): values for name, values in self.result().items()}
        shards = {key: [lambda values=values: values] for key, values in history.items()}
        return ScoreTable(shards, self._labels.cpu().numpy(), fingerprint, steps_per_epoch=1)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint of the loop must hold for the watch to go on; finished epochs' notes are not in it."""
        out: dict[str, torch.Tensor] = {}
        for name, followed in self._followed.items():
            out.update({f"{name}/{key}": value for key, value in followed.state().items()})
        return {**out, "labels": self._labels, "epochs": torch.tensor(self.epochs)}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state()`."""
        for name, followed in self._followed.items():
            followed.load({key[len(name) + 1 :]: v for key, v in state.items() if key.startswith(f"{name}/")})
        self._labels.copy_(state["labels"])
        self.epochs = int(state["epochs"])
