"""What kernels are held against: the Jacobian itself, by `jacrev` or one logit of one example at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# The networks and layer generators are those of the gradient engine's tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "gradients"))


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


def by_loop(model: nn.Module, inputs: Any, count: int, run: Any = call) -> Tensor:
    """ΨΨᵀ, every row by a backward pass of its own."""
    model.eval()
    weights = [p for p in model.parameters() if p.requires_grad]
    jacobian = []
    for i in range(count):
        logits = run(model, rows(inputs, i))[0]
        for logit in logits:
            found = torch.autograd.grad(logit, weights, retain_graph=True, allow_unused=True)
            pairs = zip(found, weights, strict=True)
            jacobian.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
    psi = torch.stack(jacobian).double()
    return psi @ psi.T


def by_jacrev(model: nn.Module, inputs: Tensor) -> Tensor:
    """ΨΨᵀ by torch.func."""
    model.eval()
    weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    found = torch.func.jacrev(lambda w: torch.func.functional_call(model, w, (inputs,)).flatten())(weights)
    psi = torch.cat([j.flatten(1) for j in found.values()], 1).double()
    return psi @ psi.T


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, entry by entry, as a share of the largest entry; 0 where both are nothing but 0."""
    off = float((found.double() - wanted).abs().max())
    return off and off / float(wanted.abs().max())
