"""Linear mode connectivity: what happens on the straight line between two networks (Data Diet, eq. 5 and 6).

On w_α = α·w + (1−α)·w′ the error R(w_α) is compared with what the line between the ends would give,

    error barrier   sup_α  R(w_α) − α·R(w) − (1−α)·R(w′)
    loss barrier    L(w_½) − (L(w) + L(w′)) / 2, for each example or averaged

both in eval mode, on examples without augmentation and with their original labels. All float buffers are interpolated
as the weights are (batch norm's statistics: the papers' way), or estimated anew on training examples; what cannot be
interpolated (counters, boolean masks) is that of the nearer end. Two networks are connected where the barrier is below
2 %: 2 points of error, or 0.02 of loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from datadiet.errors import DatadietError, Diverged
from datadiet.gradients.losses import logits_of
from datadiet.numerics import exact
from datadiet.scores.probability import prepared
from datadiet.task import Task, classification
from datadiet.training.checkpoint import load_whole, whole_state
from datadiet.training.evaluate import evaluation

CONNECTED = 0.02
ESTIMATED_ON = 50  # training batches for batch norm's statistics
STATISTICS = ("interpolated", "re-estimated")


@dataclass(frozen=True)
class Path:
    """Losses and errors along the line between two networks, for each example.

    Args:
        alphas: (A,) ascending, 0 first and 1 last; w_α = α·w + (1−α)·w′.
        loss: (A, N).
        wrong: (A, N) bool.
    """

    alphas: np.ndarray
    loss: np.ndarray
    wrong: np.ndarray

    def error_barrier(self, rows: Any = None) -> float:
        """The largest error above the line between the ends, as a fraction; on all examples or on some."""
        return float(above_line(self.alphas, self._on(self.wrong, rows).mean(1)).max())

    def loss_barrier(self, rows: Any = None) -> float:
        """The mean loss at the midpoint above that of the ends."""
        return float(np.mean(self.per_example() if rows is None else self.per_example()[rows]))

    def per_example(self) -> np.ndarray:
        """(N,) loss at the midpoint above the mean of the ends."""
        at = np.flatnonzero(np.isclose(self.alphas, 0.5))
        if not len(at):
            raise DatadietError("the midpoint is not among the alphas", where="alphas", fix="add 0.5")
        loss = self.loss.astype(np.float64)
        return loss[at[0]] - (loss[0] + loss[-1]) / 2

    @staticmethod
    def _on(values: np.ndarray, rows: Any) -> np.ndarray:
        return values if rows is None else values[:, rows]


def above_line(alphas: Any, values: Any) -> np.ndarray:
    """(A, …) values along a path minus the straight line between the first and the last of them."""
    alphas, values = np.asarray(alphas, np.float64), np.asarray(values, np.float64)
    share = alphas.reshape(-1, *(1,) * (values.ndim - 1))
    out = values - (share * values[-1] + (1 - share) * values[0])
    out[0] = out[-1] = 0.0
    return out


def check_alphas(alphas: float | Sequence[float]) -> list[float]:
    """The alphas with both ends, ascending."""
    inner = sorted({float(a) for a in np.atleast_1d(alphas)})
    if not inner or not all(0 <= a <= 1 for a in inner):
        raise DatadietError(f"alphas {inner}", where="alphas", fix="numbers from 0 to 1, such as 0.5")
    return sorted({0.0, 1.0, *inner})


def interpolated(first: Mapping[str, Any], second: Mapping[str, Any], alpha: float) -> dict[str, Any]:
    """alpha·first + (1−alpha)·second of two networks' states; each end is itself to the bit.

    What is no float (step counters, boolean masks, a module's extra state) is that of the nearer end.
    """
    check_alike(first, second)
    return {name: _between(a, second[name], alpha) for name, a in first.items()}


def _between(a: Any, b: Any, alpha: float) -> Any:
    nearer = a if alpha >= 0.5 else b
    if not isinstance(a, Tensor):
        return deepcopy(nearer)
    if alpha in (0, 1) or not (a.is_floating_point() or a.is_complex()):
        return nearer
    # By the difference, so that a network and itself give that network to the bit; of infinities (the −inf of an
    # attention mask) that would be no number.
    found = b + alpha * (a - b)
    return torch.where(torch.isfinite(found), found, alpha * a + (1 - alpha) * b)


def check_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Refuse the states of two different networks."""
    names = _differing(first, second)
    if names:
        raise DatadietError(
            f"two different networks: they differ in {', '.join(names[:3])}{' …' if len(names) > 3 else ''}",
            where="connectivity", fix="interpolate networks of one architecture",
        )  # fmt: skip


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names that only one of two states has, or each in a shape of its own."""
    shapes = [{n: tuple(getattr(t, "shape", ())) for n, t in state.items()} for state in (first, second)]
    return [n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n)]


def linear_path(
    first: nn.Module, second: nn.Module, inputs: Any, labels: Any, alphas: float | Sequence[float] = (0.5,), *,
    statistics: str = "interpolated", estimate_on: Iterable[Tensor] | None = None, batch: int = 512,
    task: Task = classification,
) -> Path:  # fmt: skip
    """Losses and errors along the line between two networks of one architecture.

    Args:
        first, second: the networks, which are left as they are.
        inputs, labels: (N, …) and (N,), without augmentation, original labels; a tuple or a dict of inputs where the
            network takes several.
        alphas: points beside the two ends; 1 is `first`, 0 is `second`.
        statistics: batch norm's, at points between the ends: "interpolated" or "re-estimated" on `estimate_on`,
            batches of training inputs.
        batch: examples a forward pass.
        task: what losses and errors are of.

    Returns:
        A Path: loss and error of each example, rows by ascending alpha, so that `second` comes first.
    """
    if statistics not in STATISTICS:
        raise DatadietError(f"statistics {statistics!r}", where="statistics", fix=f"one of {', '.join(STATISTICS)}")
    training = None if statistics == "interpolated" else list(() if estimate_on is None else estimate_on)
    if training == []:
        raise DatadietError("no batches to estimate statistics on", where="estimate_on", fix="give training inputs")
    leaves = tree_leaves(inputs)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise DatadietError("inputs that are no tensors", where="inputs", fix="give tensors")
    count = len(leaves[0]) if leaves else 0
    if not count:
        raise DatadietError("no examples to take losses of", where="inputs", fix="give at least one")
    points = check_alphas(alphas)
    labels = torch.as_tensor(labels).to(leaves[0].device)  # an array lies on the CPU
    if not labels.is_floating_point() and labels.dtype != torch.bool:
        labels = labels.long()
    check_alike(first.state_dict(), second.state_dict())
    model = _copied(first)
    ends = whole_state(first), whole_state(second)

    def outputs(rows: slice) -> Tensor:
        some = tree_map(lambda t: t[rows], inputs)
        if isinstance(some, dict):
            found = model(**some)
        else:
            found = model(*some) if isinstance(some, (tuple, list)) else model(some)
        try:
            return logits_of(found)
        except DatadietError as error:
            raise DatadietError(error.what, where="model", fix="wrap it in one that returns the logits") from None

    def logits() -> Tensor:
        found = torch.cat([outputs(slice(i, i + batch)) for i in range(0, count, batch)]).float()
        if task is classification:
            prepared(found, labels)  # refuses what does not fit
        return found

    with exact():
        found = list(along(model, *ends, points, logits, labels, training=training, task=task))
    return Path(np.asarray(points), np.stack([loss for loss, _ in found]), np.stack([wrong for _, wrong in found]))


def _copied(model: nn.Module) -> nn.Module:
    try:
        return deepcopy(model)
    except RuntimeError as error:
        if "deepcopy" not in str(error):
            raise
        raise DatadietError(
            "the network holds a tensor that was computed from its weights, and cannot be copied "
            "(torch.nn.utils.weight_norm keeps one after a forward pass)",
            where="first", fix="run it once under torch.no_grad(), or use torch.nn.utils.parametrizations.weight_norm",
        ) from None  # fmt: skip


def along(
    model: nn.Module, first: Mapping[str, Any], second: Mapping[str, Any], alphas: Sequence[float],
    logits: Callable[[], Tensor], labels: Tensor, *, training: Iterable[Any] | None = None, task: Task = classification,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """(loss, wrong), (N,) each, at every alpha; `model` ends up as the last of them.

    Args:
        first, second: networks' states, as `whole_state` gives them.
        logits: runs `model` over the examples.
        training: batches on which statistics between the ends are estimated; None: they are interpolated.
    """
    caches = _caches(model, first, second)
    first, second = ({name: t for name, t in state.items() if name not in caches} for state in (first, second))
    for alpha in alphas:
        load_whole(model, interpolated(first, second, alpha))
        if training is not None and 0 < alpha < 1:
            reestimate(model, training)
        with evaluation(model):
            found = logits()
            loss, correct = task.loss(found, labels), task.correct(found, labels)
        if not bool(torch.isfinite(loss).all()):
            raise Diverged(
                f"the losses on the line between networks are not finite at alpha {alpha:g}",
                fix="look at what the networks at its ends give; a lower learning rate or a warm-up may help",
            )
        yield loss.cpu().numpy().astype(np.float32), ~correct.cpu().numpy()


def _caches(model: nn.Module, first: Mapping[str, Any], second: Mapping[str, Any]) -> set[str]:
    """Buffers of no state dict that are still empty, that one network only has filled, or that differ in size.

    No line leads from one to the other; `model` keeps what it has, and fills them anew as it needs them.
    """
    empty = [name for name, value in first.items() if isinstance(value, Tensor) and not value.numel()]
    return {*empty, *_differing(first, second)} - model.state_dict().keys()


@contextmanager
def _averaging(norms: Sequence[Any]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
            norm.training = True
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum, norm.training = momentum, False


def reestimate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Batch norm's running statistics as the plain mean over training batches; everything else in eval mode."""
    model.eval()
    kind = nn.modules.batchnorm._BatchNorm
    norms = [m for m in model.modules() if isinstance(m, kind) and m.track_running_stats]
    if not norms:
        return
    with torch.no_grad(), _averaging(norms):
        for inputs in batches:
            try:
                model(**inputs) if isinstance(inputs, dict) else model(inputs)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise DatadietError(
                    "batch norm's statistics cannot be estimated on a batch of one example", where="statistics",
                    fix="give batches of two or more",
                ) from None  # fmt: skip


def estimated_on(rows: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of the batches for `reestimate`: whole ones, as their plain mean is taken; fewer rows than one are one."""
    size = min(max(2, size), len(rows))  # of one example there is no variance
    drawn = rng.permutation(rows)[: ESTIMATED_ON * size]
    return [drawn[i : i + size] for i in range(0, len(drawn) - size + 1, size)]


def pairs(count: int) -> list[tuple[int, int]]:
    """All pairs of children."""
    return list(itertools.combinations(range(count), 2))


def onset(steps: Sequence[int], barriers: Sequence[float], threshold: float = CONNECTED) -> int | None:
    """The first spawn step from which on the barrier stays below the threshold; None where it never does."""
    if len(steps) != len(barriers) or list(steps) != sorted(set(steps)):
        raise DatadietError("spawn steps must ascend, with one barrier each", where="onset")
    found = None
    for step, barrier in zip(reversed(steps), reversed(barriers), strict=True):
        if not barrier < threshold:
            break
        found = step
    return found
