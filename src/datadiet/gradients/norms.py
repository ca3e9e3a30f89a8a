"""`grand` and `grand_loader`: exact per-example gradient norms, about the price of a training pass.

GraNd (Paul et al. 2021): ‖∇_w ℓ(f_w(x_i), y_i)‖₂ for every example i, over all trainable weights w.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from datadiet.convolutions import sound
from datadiet.errors import DatadietError, unknown
from datadiet.gradients.capture import Walk, borrowed, ordinary, ruled_modules, trainable
from datadiet.gradients.engine import run_pass, upcast, whole_model
from datadiet.gradients.fallback import swapped
from datadiet.gradients.losses import Loss, check_labels, cross_entropy, logits_of, total_loss
from datadiet.gradients.planned import guarded, plan_for
from datadiet.numerics import exact, widest

log = logging.getLogger(__name__)
Per = str | Mapping[str, Sequence[str]] | Callable[[str], str | None]
Forward = Callable[[nn.Module, Any], Any]
MEMORY = 2**28


@exact()
def grand(
    model: nn.Module, inputs: Any, labels: Any, *, loss: Loss | None = None, mode: str = "eval", per: Per | None = None,
    last_layer: bool | str = False, check: bool = False, forward: Forward | None = None, chunk: int | None = None,
    memory: int = MEMORY,
) -> Any:  # fmt: skip
    """The norm of each example's loss gradient with respect to all trainable weights, exactly.

    Args:
        model: any network that treats examples apart. Frozen parameters do not count. It is left as it was.
        inputs: a tensor, a tuple of them (positional arguments) or a dict (keyword arguments); dimension 0 of each
            tensor is the example.
        labels: what the loss takes beside the outputs; class numbers (B,) by default.
        loss: `(outputs, labels) -> (B,)`, or a module such as `nn.CrossEntropyLoss(weight=…)`; one that returns a
            single number is taken of each example by itself. Default: cross-entropy.
        mode: "eval" puts the model in eval mode and back; "as-is" leaves it.
        per: None for the whole norm; "layer" or "parameter" for one by each; a mapping of group name to names (or
            beginnings) of parameters; or a function from parameter name to group name (None: leave out).
        last_layer: only the last linear layer's parameters count, True or the layer's name: an approximation of the
            norm that costs a forward pass (for cross-entropy ‖p − y‖·√(‖h‖² + 1)).
        check: recompute up to three examples alone and compare, which finds a model or loss that mixes examples.
        forward: `(model, inputs) -> outputs`, for models that are called in another way.
        chunk: examples a pass; default all at once.
        memory: bytes that per-example gradients may take where they must be formed (weights used more than once,
            layers without a rule).

    Returns:
        (B,) on the device of the inputs, float32 (float64 for float64 weights); with `per`, a dict of such.
    """
    job = _Job(_unwrapped(model), loss or cross_entropy, forward, memory)
    inputs = _plain(inputs)
    count = _count(inputs, labels)
    if mode not in ("eval", "as-is"):
        raise DatadietError(f"{mode!r} is not a mode", where="mode", fix='write "eval" or "as-is"')
    if chunk is not None and chunk < 1:
        raise DatadietError(f"{chunk} examples a pass", where="chunk", fix="write 1 or more, or leave it out")
    walk = list(job.model.named_modules())
    named = trainable(walk)
    if last_layer:
        named = _of_last_layer(job.model, named, last_layer)
    if not named:
        raise DatadietError("the model has no trainable parameter", where="model", fix="unfreeze some of them")
    if hooked := next((name for name, p in named.items() if p._backward_hooks), None):
        log.warning("the gradient hook on %s is not followed: norms are of the loss's own gradients", hooked)
    device = next((t.device for t in tree_leaves(inputs) if isinstance(t, Tensor)), torch.device("cpu"))
    dtype = torch.float64 if any(p.dtype == torch.float64 for p in named.values()) else torch.float32
    groups = _groups(per, named)
    layers = (m for _, m in walk)
    with torch.inference_mode(False), torch.enable_grad(), borrowed(walk, evaluate=mode == "eval"), sound(layers):
        if count == 0:
            squared = {id(p): torch.zeros(0, dtype=dtype, device=device) for p in named.values()}
        else:
            step = min(chunk or count, count)
            pieces = [slice(i, min(i + step, count)) for i in range(0, count, step)]
            rows = [_rows((inputs, labels), part) for part in pieces]
            found = [job.squares(some_inputs, some_labels, named, walk) for some_inputs, some_labels in rows]
            squared = {n: torch.cat([f[n] for f in found]) for n in found[0]}
        if check and count:
            job.compare(inputs, labels, named, squared, count)
    norms = {
        group: torch.stack([squared[id(p)] for p in members]).sum(0).sqrt().to(device, dtype)
        for group, members in groups.items()
    }
    return norms[""] if per is None else norms


@dataclass
class _Job:
    """What stays the same over the chunks of a call."""

    model: nn.Module
    loss: Loss
    forward: Forward | None
    memory: int

    def call(self, inputs: Any) -> Any:
        if self.forward is not None:
            return self.forward(self.model, inputs)
        if isinstance(inputs, dict):
            return logits_of(self.model(**inputs))
        return logits_of(self.model(*inputs) if isinstance(inputs, (tuple, list)) else self.model(inputs))

    def total(
        self, inputs: Any, labels: Any, count: int, *, safe: bool = True, mixed: set[int] | None = None
    ) -> Tensor:  # fmt: skip
        outputs = self.call(inputs)
        if mixed:
            outputs = guarded(outputs, mixed)
        if isinstance(outputs, Tensor) and (outputs.dim() == 0 or outputs.shape[0] != count):
            raise DatadietError(
                f"the model returns shape {tuple(outputs.shape)} for {count} examples", where="model",
                fix="outputs need the example in dimension 0; pass forward= to rearrange them",
            )  # fmt: skip
        if safe and self.loss is cross_entropy:
            check_labels(outputs, labels)
        return total_loss(self.loss, outputs, labels, count, _rows)

    def squares(
        self, inputs: Any, labels: Any, named: dict[str, nn.Parameter], walk: Walk
    ) -> dict[int, Tensor]:  # fmt: skip
        """Squared norms by parameter id, (B,) each."""
        inputs, labels = tree_map(ordinary, (inputs, labels))
        tensors, spec = tree_flatten((inputs, labels))
        lead = next(t for t in tensors if isinstance(t, Tensor))
        count, targets = len(lead), {id(p): name for name, p in named.items()}
        parameters = {id(p): p for p in named.values()}
        ruled = ruled_modules(walk, targets)
        plan = plan_for(
            self.model, self.call, lambda pick: _rows(inputs, pick), count, targets, walk, ruled, self.forward
        )  # fmt: skip
        first = next(iter(named.values()))
        squared = run_pass(
            self.model, plan, targets, parameters, count, self.memory, ruled,
            lambda: self.total(inputs, labels, count, mixed=plan.mixed), first.device, first.dtype,
        )  # fmt: skip
        places = [i for i, t in enumerate(tensors) if isinstance(t, Tensor)]

        def single(row: list[Tensor]) -> Tensor:
            leaves = list(tensors)
            for place, t in zip(places, row, strict=True):
                leaves[place] = t
            some_inputs, some_labels = tree_unflatten(leaves, spec)
            return self.total(some_inputs, some_labels, 1, safe=False)

        rows = [tensors[i] for i in places]
        for number, squares in whole_model(self.model, plan, parameters, count, self.memory, rows, single).items():
            squared[number] = squares
        zero = torch.zeros(count, dtype=widest(first.device), device=first.device)
        return {id(p): squared.get(id(p), zero) for p in named.values()}

    def compare(
        self, inputs: Any, labels: Any, named: dict[str, nn.Parameter], squared: dict[int, Tensor], count: int
    ) -> None:
        """Recompute a few examples alone, by plain differentiation."""
        norms = torch.stack([squared[id(p)] for p in named.values()]).sum(0).sqrt()
        leaves = {id(p): p.detach().requires_grad_() for p in named.values()}
        lead = next(iter(named.values()))
        mixed = torch.is_autocast_enabled(lead.device.type) or lead.dtype in (torch.float16, torch.bfloat16)
        share = 5e-2 if mixed else 1e-7 if lead.dtype == torch.float64 else 1e-3
        for i in sorted({0, count // 2, count - 1}):
            some_inputs, some_labels = tree_map(ordinary, _rows((inputs, labels), slice(i, i + 1)))
            with swapped(self.model, leaves):
                total = self.total(some_inputs, some_labels, 1)
            grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            wide = [upcast(g).to(widest(g.device)).square().sum() for g in grads if g is not None]
            alone = torch.stack(wide).sum().sqrt()
            if not torch.isclose(norms[i].to(alone.dtype), alone, rtol=share, atol=1e-12, equal_nan=True):
                raise DatadietError(
                    f"example {i} has the norm {float(norms[i]):.6g} in the batch and {float(alone):.6g} alone",
                    where="check", fix="the model or the loss mixes examples, or draws at random; treat examples apart",
                )  # fmt: skip


def _unwrapped(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise DatadietError(f"a {type(model).__name__} is no torch network", where="model", fix="pass an nn.Module")
    # A compiled model shares its parameters with the one it was made from; hooks reach only the latter.
    return getattr(model, "_orig_mod", model)


def _plain(inputs: Any) -> Any:
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def _count(inputs: Any, labels: Any) -> int:
    tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    if not tensors:
        raise DatadietError("no tensor among the inputs", where="inputs", fix="pass tensors, not arrays or lists")
    sizes = {len(t) if t.dim() else 0 for t in [*tensors, *(t for t in tree_leaves(labels) if isinstance(t, Tensor))]}
    if len(sizes) > 1 or not isinstance(labels, (Tensor, tuple, list, dict)):
        shapes = [tuple(t.shape) for t in tensors]
        given = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise DatadietError(
            f"inputs {', '.join(map(str, shapes))} and labels {given} differ in the number of examples",
            where="labels", fix="dimension 0 of every tensor is the example",
        )  # fmt: skip
    return sizes.pop()


def _rows(tree: Any, part: slice | Tensor) -> Any:
    def taken(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        return t[part.to(t.device) if isinstance(part, Tensor) else part]

    return tree_map(taken, tree)


def _of_last_layer(model: nn.Module, named: dict[str, nn.Parameter], which: bool | str) -> dict[str, nn.Parameter]:
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    if isinstance(which, str):
        if which not in dict(model.named_modules()):
            raise unknown("layer", which, linear, where="last_layer")
        name = which
    elif linear:
        name = linear[-1]
    elif isinstance(model, nn.Linear):
        name = ""
    else:
        raise DatadietError("the model has no linear layer", where="last_layer", fix="name the layer: last_layer=…")
    own = {id(p) for p in model.get_submodule(name).parameters()}
    found = {n: p for n, p in named.items() if id(p) in own}
    if not found:
        raise DatadietError(f"layer {name!r} has no trainable parameter", where="last_layer", fix="name another layer")
    return found


def _groups(per: Per | None, named: dict[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    groups: dict[str, list[nn.Parameter]] = {}
    if isinstance(per, Mapping):
        for group, starts in per.items():
            starts = [starts] if isinstance(starts, str) else list(starts)
            groups[group] = [
                p for n, p in named.items() if any(not s or n == s or n.startswith(f"{s}.") for s in starts)
            ]
            if not groups[group]:
                fix = f"parameters: {', '.join(list(named)[:6])}, …"
                raise DatadietError(f"no trainable parameter belongs to group {group!r}", where="per", fix=fix)
        return groups
    if isinstance(per, str) and per not in ("layer", "parameter"):
        raise DatadietError(f"{per!r} is no grouping", where="per", fix='"layer", "parameter", a mapping or a function')
    for name, p in named.items():
        if per is None:
            group = ""
        elif callable(per):
            chosen = per(name)
            if chosen is None:
                continue
            group = chosen
        else:
            group = name if per == "parameter" else name.rpartition(".")[0]
        groups.setdefault(group, []).append(p)
    return groups
