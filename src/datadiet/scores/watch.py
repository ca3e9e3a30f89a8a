"""Watch: the trajectory scores in anyone's own training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch

from datadiet.errors import DatadietError
from datadiet.scores.base import SCORES
from datadiet.scores.probability import as_tensor
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
        scores = [scores] if isinstance(scores, str) else scores
        for name in scores or ():
            if SCORES.get(name).needs != "trajectory":
                raise DatadietError(
                    f"{name} is no score of a trajectory", where="Watch", fix=f"one of {', '.join(names)}"
                )
        if not isinstance(n, (int, Integral)) or n < 1:
            raise DatadietError(f"{n!r} examples", where="Watch", fix="give the size of the training set")
        n = int(n)
        self.n, self.device, self.epochs = n, torch.device(device), 0
        with torch.inference_mode(False):  # tensors made under it could never be added to outside of it
            self._followed = {name: SCORES.get(name).compute(n, self.device) for name in scores or names}
            self._labels = torch.full((n,), -1, dtype=torch.int64, device=self.device)
        self._history: dict[tuple[str, int], np.ndarray] = {}

    def update(self, indices: Any, logits: Any, labels: Any) -> None:
        """Take in one batch, as the network saw it.

        Args:
            indices: (B,) which examples these are; one that stands there several times is visited that often.
            logits: (B, C), before the weights move; detached and widened to float32 here.
            labels: (B,) class indices, from 0 to C − 1.

        A batch that does not fit is refused whole: nothing is taken in.
        """
        rows = _whole(indices, "indices", "give whole numbers; a mask becomes them by nonzero()", self.device)
        outputs = as_tensor(logits, "logits", "Watch.update").detach().to(self.device).float()
        given = _whole(labels, "labels", "give class indices; mixed labels cannot be watched", self.device)
        self._check(rows, outputs, given)
        outputs = _never_right(outputs, given)
        with torch.inference_mode(False):
            self._labels[rows] = given
            for turn in _turns(rows):
                for accumulator in self._followed.values():
                    accumulator.update(rows[turn], outputs[turn], given[turn])

    def _check(self, rows: torch.Tensor, outputs: torch.Tensor, given: torch.Tensor) -> None:
        """Raise unless this is a batch of these examples."""
        if (rows.ndim, outputs.ndim, given.ndim) != (1, 2, 1) or not len(rows) == len(outputs) == len(given):
            raise DatadietError(
                f"indices of shape {tuple(rows.shape)}, logits of shape {tuple(outputs.shape)} and labels of shape "
                f"{tuple(given.shape)}",
                where="Watch.update",
                fix="one row of logits, one index and one label (not one-hot) an example",
            )
        classes = outputs.shape[1]
        if classes < 2:
            raise DatadietError(
                f"{classes} column{'s' * (classes != 1)} of logits",
                where="Watch.update",
                fix="give one for each class; of two classes, torch.stack([-z / 2, z / 2], 1) of the one logit z",
            )
        if not len(rows):
            return
        # All four at once: where the counts are kept on an accelerator, each look at a value waits for it.
        low, high, least, most = torch.stack((rows.min(), rows.max(), given.min(), given.max())).tolist()
        if not 0 <= low <= high < self.n:
            raise DatadietError(
                f"indices from {low} to {high}", where="Watch.update", fix=f"they run from 0 to {self.n - 1}"
            )
        if not 0 <= least <= most < classes:
            raise DatadietError(
                f"labels from {least} to {most} for {classes} columns of logits",
                where="Watch.update",
                fix=f"they run from 0 to {classes - 1}; leave out examples without a label",
            )

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
        """A one-run ScoreTable with an entry for each finished epoch ("1ep", "2ep", …).

        Where none has ended yet, since the beginning or since `load`, the one entry is of now.
        """
        history = self._history or {(name, self.epochs): values for name, values in self.result().items()}
        shards = {key: [partial(np.copy, values)] for key, values in history.items()}  # which can be pickled
        return ScoreTable(shards, self._labels.cpu().numpy().copy(), fingerprint, steps_per_epoch=1)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint of the loop must hold for the watch to go on, as copies.

        The notes of finished epochs are not in it.
        """
        return {key: value.clone() for key, value in self._state().items()}

    def _state(self) -> dict[str, torch.Tensor]:
        out: dict[str, torch.Tensor] = {}
        for name, followed in self._followed.items():
            out.update({f"{name}/{key}": value for key, value in followed.state().items()})
        return {**out, "labels": self._labels, "epochs": torch.tensor(self.epochs)}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state()`, of a watch of as many examples and the same scores; notes taken so far are dropped."""
        self._check_state(state, "Watch.load")
        for name, followed in self._followed.items():
            followed.load(_part(state, name))
        self._labels.copy_(state["labels"])
        self.epochs = int(state["epochs"])
        self._history = {}

    def merge(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Go on from what the watches of several processes saw of one epoch, each of its own share of the examples.

        Every process gives the states of all, in the order of their ranks, before its `end_epoch`; then all watches
        are alike, and each finds the last visit of an example that is another's in the next epoch. Of an example that
        several saw, as samplers have it that fill up the last batch, the visits of one count.
        """
        if not states:
            raise DatadietError("no state", where="Watch.merge", fix="give the states of all watches, with one's own")
        for state in states:
            self._check_state(state, "Watch.merge")
        epochs = sorted({self.epochs, *(int(state["epochs"]) for state in states)})
        if len(epochs) > 1:
            raise DatadietError(
                f"watches after {' and '.join(map(str, epochs))} epochs", where="Watch.merge",
                fix="merge the states of all before each end_epoch",
            )  # fmt: skip
        if alone := [name for name, followed in self._followed.items() if not hasattr(followed, "merge")]:
            raise DatadietError(
                f"{alone[0]} cannot be merged", where="Watch.merge", fix="give its accumulator a merge(states)"
            )
        for name, followed in self._followed.items():
            followed.merge([_part(state, name) for state in states])
        self._labels.copy_(states[0]["labels"])
        for state in states[1:]:
            self._labels.copy_(torch.where(self._labels < 0, state["labels"].to(self.device), self._labels))

    def _check_state(self, state: Mapping[str, torch.Tensor], where: str) -> None:
        mine = self._state()
        if state.keys() != mine.keys():
            found = {key.split("/")[0] for key in state if "/" in key}
            raise DatadietError(
                f"the state follows {', '.join(sorted(found)) or 'no score'}, this watch {', '.join(self._followed)}"
                if found != set(self._followed)
                else f"the state has other parts: {', '.join(sorted(state.keys() ^ mine.keys()))}",
                where=where,
                fix="it must be of a watch of the same scores",
            )
        for key, value in mine.items():
            if state[key].shape != value.shape:
                raise DatadietError(
                    f"{key} has shape {tuple(state[key].shape)} in the state, {tuple(value.shape)} here",
                    where=where,
                    fix=f"this watch is of {self.n} examples; it must be of one of as many",
                )


def _part(state: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """What a state holds of one score."""
    return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}/")}


def _never_right(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Rows that hold a NaN with one in a column that is not the label's, which argmax then takes for the largest."""
    bad = outputs.isnan().any(1)
    if not bool(bad.any()):
        return outputs
    beside = torch.full_like(outputs, -torch.inf).scatter(1, ((labels + 1) % outputs.shape[1])[:, None], torch.nan)
    return torch.where(bad[:, None], beside, outputs)


def _turns(rows: torch.Tensor) -> list[Any]:
    """Places in a batch, such that no example stands twice in one turn and its visits keep their order."""
    order = rows.argsort(stable=True)
    ordered, places = rows[order], torch.arange(len(rows), device=rows.device)
    new = torch.ones_like(places, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    if bool(new.all()):
        return [slice(None)]
    visit = torch.empty_like(places)
    visit[order] = places - (places * new).cummax(0).values
    return [(visit == turn).nonzero()[:, 0] for turn in range(int(visit.max()) + 1)]


def _whole(values: Any, what: str, fix: str, device: torch.device) -> torch.Tensor:
    found = as_tensor(values, what, "Watch.update")
    if found.numel() and (found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool):
        raise DatadietError(
            f"{what} are of type {str(found.dtype).removeprefix('torch.')}", where="Watch.update", fix=fix
        )
    return found.to(device).long()
