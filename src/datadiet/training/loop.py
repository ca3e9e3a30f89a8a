"""The training loop, on one screen. It knows nothing of scores: what watches it is an observer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from datadiet.convolutions import Care
from datadiet.data.batches import Batches
from datadiet.data.order import Order
from datadiet.errors import Diverged
from datadiet.task import Task

CHECK_EVERY = 64  # steps between looks at the losses for a NaN: a look waits for the device


@dataclass
class Moment:
    """What observers get: the run as it is now. They read it and change nothing.

    `indices` (B,), `logits` (B, C) as the network gave them and detached, `labels` (B,) are those of the current batch;
    `step` counts finished steps, so it is k in `on_batch` of step k (from 0) and k + 1 in its `on_step`.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int
    steps_per_epoch: int
    steps_per_pass: int
    indices: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    labels: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    lr: float = 0.0


class Observer:
    """Watches a run. Override what is needed; must change no weight and draw from no random stream."""

    name = "observer"

    def on_start(self, moment: Moment) -> None:
        """Before the first step of this stretch."""

    def on_batch(self, moment: Moment) -> None:
        """After the forward pass of a training batch."""

    def on_backward(self, moment: Moment) -> None:
        """When the gradients of the batch are there."""

    def on_step(self, moment: Moment) -> None:
        """After the weights moved."""

    def on_end(self, moment: Moment) -> None:
        """After the last step of this stretch."""

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold for this observer to go on where it was."""
        return {}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from `state()`."""

    def merge(self, states: Sequence[dict[str, torch.Tensor]]) -> None:
        """Go on from what several saw that were one before, each of other examples: `state()` of all, in one order."""


def train(
    moment: Moment,
    stop: int,
    *,
    batches: Batches,
    order: Order,
    rate: Callable[[int], float],
    task: Task,
    observers: Sequence[Observer] = (),
    forward: Callable[..., torch.Tensor] | None = None,
    autocast: AbstractContextManager[Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train `moment.model` from `moment.step` to `stop`, or until `should_stop()`.

    Args:
        batches, order: what to train on, and when.
        rate: the learning rate by step.
        forward: how the model is called, where that is not the model itself (a compiled twin of it).
        autocast: the precision of the forward pass.
    """
    model, optimizer = moment.model, moment.optimizer
    # Only what an observer really overrides is called: an empty method a step is not free on small networks.
    hooks = {hook: _overriding(observers, hook) for hook in ("on_batch", "on_backward", "on_step")}
    on_batch, on_backward, on_step = hooks.values()
    watched = any(hooks.values())
    # A compiled network has no truth value, so no `or` here.
    forward = model if forward is None else forward
    precision = nullcontext() if autocast is None else autocast
    care = Care(model, look=forward is model)
    losses: list[torch.Tensor] = []
    model.train()
    for observer in observers:
        observer.on_start(moment)
    while moment.step < stop and not should_stop():
        rows, shifts, flips = order.batch(moment.step)
        inputs, labels = batches.inputs(rows, shifts, flips), batches.labels.index_select(0, rows)
        moment.lr = rate(moment.step)
        for group in optimizer.param_groups:
            group["lr"] = moment.lr
        with precision, care.forward():
            logits = forward(**inputs) if isinstance(inputs, dict) else forward(inputs)
        loss = task.loss(logits.float(), labels).mean()
        if watched:
            moment.indices, moment.logits, moment.labels = rows, logits.detach(), labels
        for call in on_batch:
            call(moment)
        optimizer.zero_grad(set_to_none=True)
        with care.back():
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        for call in on_backward:
            call(moment)
        optimizer.step()
        moment.step += 1
        losses.append(loss.detach())
        if len(losses) == CHECK_EVERY or moment.step == stop:
            _check(losses, moment)
        for call in on_step:
            call(moment)
    _check(losses, moment)
    for observer in observers:
        observer.on_end(moment)


def _overriding(observers: Sequence[Observer], hook: str) -> list[Callable[[Moment], None]]:
    return [
        getattr(observer, hook)
        for observer in observers
        if getattr(type(observer), hook) is not getattr(Observer, hook)
    ]


def _check(losses: list[torch.Tensor], moment: Moment) -> None:
    if not losses:
        return
    finite = torch.isfinite(torch.stack(losses))
    if not bool(finite.all()):
        first = moment.step - len(losses) + int((~finite).nonzero()[0])
        raise Diverged(f"the loss is not finite at step {first + 1}", fix="a lower learning rate or a warm-up may help")
    losses.clear()
