"""Kernels of logit gradients and how fast they turn: `ntk`, `kernel_velocity` and what a kernel can be reduced to.

All take kernels as `ntk` gives them, (m·C, m·C) with rows ordered (example, logit), tensors or arrays; sums run in
float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datadiet.errors import DatadietError
from datadiet.gradients.gram import ntk
from datadiet.numerics import widest

__all__ = ["kernel_velocity", "ntk", "spectrum", "summed", "trace"]


def kernel_velocity(before: Any, after: Any) -> float:
    """How far a kernel has turned: 1 − ⟨K, K'⟩ / (‖K‖ ‖K'‖), Frobenius (Paul et al. 2021, eq. 7).

    Args:
        before: kernel of some examples, (m·C, m·C).
        after: kernel of the same examples at another time.

    Returns:
        0 for kernels that differ by a factor, 1 for orthogonal ones. Exactly 0 for a kernel with itself.
    """
    first, second = _kernel(before, "before"), _kernel(after, "after")
    if first.shape != second.shape:
        raise DatadietError(
            f"kernels of shapes {tuple(first.shape)} and {tuple(second.shape)}", where="after",
            fix="both must be of the same examples and logits",
        )  # fmt: skip
    # ½‖a − b‖² of unit vectors: no cancellation where the kernels are alike.
    return float((_unit(first, "before") - _unit(second, "after").to(first.device)).square().sum()) / 2


def trace(kernel: Any) -> float:
    """The sum of all logits' squared gradient norms."""
    return float(_kernel(kernel, "kernel").diagonal().sum())


def spectrum(kernel: Any) -> Tensor:
    """The eigenvalues, (m·C,), largest first; rounding may leave the last ones slightly below zero."""
    return torch.linalg.eigvalsh(_kernel(kernel, "kernel")).flip(0)


def summed(kernel: Any, logits: int) -> Tensor:
    """Σ_c K[(i, c), (j, c)], (m, m): the inner product of two examples' gradients of one logit, summed over logits.

    It is the trace over the logits of each pair's C × C block, so its own trace is the kernel's.

    Args:
        logits: C.
    """
    found = _kernel(kernel, "kernel")
    if logits < 1 or len(found) % logits:
        raise DatadietError(
            f"{len(found)} rows are no multiple of {logits} logits", where="logits", fix="give those an example has"
        )
    count = len(found) // logits
    return torch.einsum("icjc->ij", found.view(count, logits, count, logits))


def _kernel(given: Any, where: str) -> Tensor:
    kernel = torch.as_tensor(given).detach()
    kernel = kernel.to(widest(kernel.device))
    if kernel.dim() != 2 or kernel.shape[0] != kernel.shape[1] or not len(kernel):
        raise DatadietError(
            f"shape {tuple(kernel.shape)} is no kernel", where=where, fix="give a square matrix, as dd.ntk returns it"
        )
    if not bool(torch.isfinite(kernel).all()):
        raise DatadietError(
            "the kernel holds NaN or infinity", where=where,
            fix="look for them in the inputs, or for a network that has diverged",
        )  # fmt: skip
    return kernel


def _unit(kernel: Tensor, where: str) -> Tensor:
    size = kernel.abs().max()
    if not bool(size > 0):
        raise DatadietError("the kernel is zero", where=where, fix="it has no direction; are all units dead?")
    scaled = kernel / size
    return scaled / scaled.norm()
