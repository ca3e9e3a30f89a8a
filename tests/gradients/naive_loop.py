"""The independent computation that gradient norms are held against: one example at a time, plain autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rows(tree: Any, i: int) -> Any:
    if isinstance(tree, dict):
        return {k: rows(v, i) for k, v in tree.items()}
    if isinstance(tree, tuple):
        return tuple(rows(v, i) for v in tree)
    return tree[i : i + 1]


def call(model: nn.Module, inputs: Any) -> Tensor:
    if isinstance(inputs, dict):
        return model(**inputs).logits
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def naive(
    model: nn.Module, inputs: Any, labels: Any, loss: Callable[..., Tensor] = F.cross_entropy,
    run: Callable[..., Any] = call,
) -> Tensor:  # fmt: skip
    """(B,) in float64: norms of the gradients of single-example batches, the model in eval mode."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    weights = [p for p in model.parameters() if p.requires_grad]
    norms = []
    for i in range(len(labels)):
        value = loss(run(model, rows(inputs, i)), labels[i : i + 1]).sum()
        grads = torch.autograd.grad(value, weights, allow_unused=True)
        norms.append(sum(g.double().square().sum() for g in grads if g is not None).sqrt())
    for module, mode in modes:
        module.training = mode
    return torch.stack(norms)


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest relative difference."""
    return float(((found.double() - wanted).abs() / wanted.abs().clamp(min=1e-30)).max())
