"""Do batches agree on where to go? The cosine of batch gradients to their mean, and their norms (Lottery Tickets, C).

n orthogonal gradients of one length have a cosine of 1/√n to their mean: that floor belongs beside every value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from datadiet.convolutions import Care
from datadiet.errors import DatadietError
from datadiet.gradients.capture import hold_again, ordinary, put_back
from datadiet.numerics import exact, widest
from datadiet.task import Task, classification
from datadiet.training.loop import Moment, Observer


@dataclass(frozen=True)
class Coherence:
    """How n batch gradients agree.

    Args:
        cosines: (n,) of each gradient to the mean of all.
        norms: (n,) of the gradients.
    """

    cosines: Tensor
    norms: Tensor

    @property
    def mean(self) -> float:
        return float(self.cosines.mean())

    @property
    def floor(self) -> float:
        """What orthogonal gradients of one length would give."""
        return 1 / math.sqrt(len(self.cosines))


def coherence(gradients: Tensor) -> Coherence:
    """Cosines of the rows of (n, W) to their mean, and their norms. A zero gradient has the cosine 0."""
    if gradients.dim() != 2 or not len(gradients):
        raise DatadietError(f"gradients of shape {tuple(gradients.shape)}", where="gradients", fix="give (n, W)")
    # In float64, where the square of no float32 is 0 or infinite; row by row, so that no wide copy of all is made.
    wide = widest(gradients.device)
    tiny = torch.finfo(wide).tiny
    mean = gradients.mean(0, dtype=wide)
    towards = mean / mean.norm().clamp_min(tiny)
    norms = torch.stack([row.to(wide).norm() for row in gradients])
    lengths = norms.clamp_min(tiny)
    cosines = [row.to(wide) / length @ towards for row, length in zip(gradients, lengths, strict=True)]
    return Coherence(torch.stack(cosines), norms)


def batch_gradients(
    model: nn.Module, batches: Iterable[tuple[Any, Tensor]], *, training: bool = True, task: Task = classification
) -> Tensor:
    """(n, W) gradients of each batch's mean loss with respect to all trainable weights, in float32 or better.

    Args:
        model: the network, which is left as it was.
        batches: (inputs, labels) of each; inputs a tensor, or a dict for a network that takes several.
        training: in training mode, as a step would see them (batch norm uses the batch's statistics); buffers and
            modes are put back. False: in eval mode.
        task: what the loss is of.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    if any(t.is_inference() for t in (*model.parameters(), *model.buffers())):
        raise DatadietError("it was made under torch.inference_mode()", where="model", fix="make it outside")
    modes = [(m, m.training) for m in model.modules()]
    held = [(m._buffers, dict(m._buffers)) for m in model.modules()]
    rows = []
    care = Care(model, look=not hasattr(model, "_orig_mod"))
    with exact(), torch.inference_mode(False):
        buffers = [(b, b.detach().clone()) for b in model.buffers()]
        try:
            model.train(training)
            with torch.enable_grad():
                for inputs, labels in batches:
                    given = tree_map(ordinary, inputs)
                    with care.forward():
                        logits = model(**given) if isinstance(given, dict) else model(given)
                    wide = logits.float() if logits.dtype.itemsize < 4 else logits
                    loss = task.loss(wide, tree_map(ordinary, labels)).mean()
                    if not loss.requires_grad:
                        raise DatadietError(
                            "the loss depends on no trainable weight", where="model", fix="set requires_grad"
                        )
                    with care.back():
                        found = torch.autograd.grad(loss, weights, allow_unused=True)
                    rows.append(torch.cat([_flat(g, p) for g, p in zip(found, weights, strict=True)]))
        finally:
            for module, mode in modes:
                module.training = mode
            hold_again(held)
            for buffer, value in buffers:
                put_back(buffer, value)
    if not rows:
        raise DatadietError("no batch to take a gradient of", where="batches", fix="give at least one")
    return torch.stack(rows)


def _flat(gradient: Tensor | None, weight: Tensor) -> Tensor:
    return torch.zeros(weight.numel(), device=weight.device) if gradient is None else gradient.detach().reshape(-1)


class GradientNorms(Observer):
    """The norm of every training step's batch gradient, in order."""

    name = "gradient_norms"

    def __init__(self) -> None:
        self.norms: list[Tensor] = []

    def on_backward(self, moment: Moment) -> None:
        grads = [p.grad for p in moment.model.parameters() if p.grad is not None]
        self.norms.append(torch.stack(torch._foreach_norm(grads)).norm().detach())

    def result(self) -> Tensor:
        """(steps,) float64."""
        return torch.stack(self.norms).cpu().double() if self.norms else torch.zeros(0, dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        return {"norms": self.result()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.norms = list(state["norms"])
