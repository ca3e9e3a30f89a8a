"""`ntk`: the exact Gram matrix of all logits' gradients, without the gradients.

K = ΨΨᵀ, where row (i, c) of Ψ is ∂f_c(x_i)/∂w over all trainable weights w (Paul et al. 2021, B.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from datadiet.convolutions import sound
from datadiet.errors import DatadietError
from datadiet.gradients.capture import borrowed, ordinary, ruled_modules, trainable
from datadiet.gradients.engine import upcast
from datadiet.gradients.fallback import Weights, model_gradients, refuse_dropout, swapped
from datadiet.gradients.gram_matrix import Gram
from datadiet.gradients.gram_pass import gram_pass
from datadiet.gradients.losses import logits_of
from datadiet.gradients.norms import _plain, _rows, _unwrapped
from datadiet.gradients.planned import plan_for
from datadiet.machine import free_memory
from datadiet.numerics import exact

Forward = Callable[[nn.Module, Any], Any]
MEMORY = 2**28


@exact()
def ntk(
    model: nn.Module, inputs: Any, *, forward: Forward | None = None, mode: str = "eval", memory: int = MEMORY
) -> Tensor:
    """The exact Gram matrix of the gradients of all logits with respect to all trainable weights.

    Args:
        model: any network that treats examples apart. Frozen parameters do not count. It is left as it was.
        inputs: a tensor, a tuple of them (positional arguments) or a dict (keyword arguments); dimension 0 of each
            tensor is the example.
        forward: `(model, inputs) -> logits (m, C)`, for models that are called in another way, or some logits only.
        mode: "eval" puts the model in eval mode and back; "as-is" leaves it.
        memory: bytes that gradients may take at a time; those of the largest single layer must fit in any case.

    Returns:
        K, (m·C, m·C), symmetric, on the device of the inputs, float32 (float64 for float64 weights): row and column
        i·C + c are logit c of example i, K[i·C + c, j·C + d] = ⟨∂f_c(x_i)/∂w, ∂f_d(x_j)/∂w⟩.
    """
    model, inputs = _unwrapped(model), _plain(inputs)
    count, device = _examples(inputs)
    if mode not in ("eval", "as-is"):
        raise DatadietError(f"{mode!r} is not a mode", where="mode", fix='write "eval" or "as-is"')
    walk = list(model.named_modules())
    named = trainable(walk)
    parameters, targets = {id(p): p for p in named.values()}, {id(p): name for name, p in named.items()}
    if not targets:
        raise DatadietError("the model has no trainable parameter", where="model", fix="unfreeze some of them")
    if any(p.is_complex() for p in parameters.values()):
        raise DatadietError(
            "the model has complex weights", where="model", fix="a kernel of real ones can be had; freeze them"
        )
    wide = any(p.dtype == torch.float64 for p in parameters.values())
    dtype = torch.float64 if wide else torch.float32
    if count == 0:
        return torch.zeros(0, 0, dtype=dtype, device=device)

    def call(given: Any) -> Tensor:
        if forward is not None:
            return _logits(forward(model, given))
        if isinstance(given, dict):
            return _logits(model(**given))
        return _logits(model(*given) if isinstance(given, (tuple, list)) else model(given))

    layers = (m for _, m in walk)
    with torch.inference_mode(False), torch.enable_grad(), borrowed(walk, evaluate=mode == "eval"), sound(layers):
        inputs = tree_map(ordinary, inputs)
        ruled = ruled_modules(walk, targets)
        plan = plan_for(model, call, lambda pick: _rows(inputs, pick), count, targets, walk, ruled, forward)
        logits = _width(model, call, _rows(inputs, torch.arange(2) % count))
        _refuse_what_does_not_fit(count, logits, dtype, device)
        total = Gram(count, logits, device=device, dtype=dtype, memory=memory)
        first = next(iter(parameters.values()))
        anchor = torch.zeros((), device=first.device, dtype=first.dtype, requires_grad=True)

        def checked() -> Tensor:
            found = call(inputs)
            if found.shape != (count, logits):
                raise DatadietError(
                    f"the model returns shape {tuple(found.shape)} for {count} examples", where="model",
                    fix="outputs need the example in dimension 0; pass forward= to rearrange them",
                )  # fmt: skip
            return found

        gram_pass(model, plan, parameters, ruled, total, checked, anchor)
        if plan.whole:
            refuse_dropout(model, "model")
            _add_whole(model, {n: parameters[n].detach() for n in plan.whole}, inputs, call, total)
    return total.finished()


def _examples(inputs: Any) -> tuple[int, torch.device]:
    tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    if not tensors:
        raise DatadietError("no tensor among the inputs", where="inputs", fix="pass tensors, not arrays or lists")
    if len({len(t) if t.dim() else 0 for t in tensors}) > 1:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise DatadietError(
            f"tensors of shapes {shapes} differ in the number of examples", where="inputs",
            fix="dimension 0 of every tensor is the example",
        )  # fmt: skip
    return len(tensors[0]), tensors[0].device


def _logits(output: Any) -> Tensor:
    found = logits_of(output)
    if found.dim() != 2:
        raise DatadietError(
            f"the model returns shape {tuple(found.shape)}, not one row of logits an example", where="model",
            fix="pass forward=lambda model, inputs: …, returning (examples, logits)",
        )  # fmt: skip
    return found


def _width(model: nn.Module, call: Callable[[Any], Tensor], few: Any) -> int:
    """The number of logits, told from a few examples."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            return call(few).shape[1]
    finally:
        for module, mode in modes:
            module.training = mode


def _refuse_what_does_not_fit(count: int, logits: int, dtype: torch.dtype, device: torch.device) -> None:
    free = _free_on(device) if device.type == "cuda" else free_memory()
    need = (count * logits) ** 2 * dtype.itemsize
    if free is not None and need > free:
        fits = int((free / dtype.itemsize) ** 0.5 / logits)
        raise DatadietError(
            f"the kernel of {count} examples × {logits} logits takes {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            where="inputs", fix=f"pass {fits} examples or fewer, or choose logits by forward=",
        )  # fmt: skip


def _free_on(device: torch.device) -> int:
    """Bytes that a GPU could give: those of nobody, and those that PyTorch keeps of what it let go."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def _add_whole(
    model: nn.Module, weights: Weights, inputs: Any, call: Callable[[Any], Tensor], total: Gram
) -> None:  # fmt: skip
    """The share of the parameters that only the whole model's gradient gives, an example and a logit at a time."""
    leaves, spec = tree_flatten(inputs)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def form(logit: int, part: slice) -> Tensor:
        def single(given: Weights, row: Sequence[Tensor]) -> Tensor:
            filled = list(leaves)
            for place, t in zip(places, row, strict=True):
                filled[place] = t.unsqueeze(0)
            with swapped(model, given):
                return call(tree_unflatten(filled, spec))[0, logit]

        found = model_gradients(single, weights, [leaves[i][part] for i in places])
        return torch.cat([upcast(found[n]).reshape(len(found[n]), -1) for n in weights], 1)

    total.add_formed(form)
