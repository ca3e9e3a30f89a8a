"""Parameters that no rule covers: their module alone is run again, an example at a time, under `vmap`.

With the module's inputs and the gradient at its outputs known from the pass, one example's gradient is a
vector-Jacobian product of that module. Where `vmap` cannot follow (data-dependent code, fused recurrent kernels) the
examples go one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from datadiet.errors import DatadietError

log = logging.getLogger(__name__)
Weights = dict[int, Tensor]


@contextmanager
def swapped(module: nn.Module, weights: Weights) -> Iterator[None]:
    """The module with other tensors in place of the parameters with these ids, wherever they are tied."""
    undo: list[tuple[dict[str, Any], str, Any]] = []
    flat: list[tuple[nn.RNNBase, list[Any]]] = []
    try:
        for part in module.modules():
            for name, parameter in list(part._parameters.items()):
                if parameter is not None and id(parameter) in weights:
                    undo.append((part._parameters, name, parameter))
                    part._parameters[name] = weights[id(parameter)]  # type: ignore[assignment]
            if isinstance(part, nn.RNNBase):
                flat.append((part, part._flat_weights))
                part._flat_weights = [getattr(part, n, None) for n in part._flat_weights_names]
        yield
    finally:
        for place, name, parameter in undo:
            place[name] = parameter
        for layer, before in flat:
            layer._flat_weights = before


def refuse_dropout(module: nn.Module, where: str) -> None:
    """Running a module again repeats its result only if nothing in it is drawn."""
    for part in module.modules():
        kind = type(part).__name__
        rate = getattr(part, "p", 0.0) if "drop" in kind.lower() else getattr(part, "dropout", 0.0)
        if part.training and isinstance(rate, (int, float)) and rate > 0:
            raise DatadietError(
                f"a parameter without a rule lies beside a {kind} that is in training mode", where=where,
                fix='use mode="eval", or register a rule for the layer',
            )  # fmt: skip


class Recall:
    """One call of a module, to be run again.

    Args:
        inputs: flattened (args, kwargs), detached; `dims` their batch dimensions.
        outputs: batch dimensions of the flattened outputs.
    """

    def __init__(
        self, module: nn.Module, args: Any, kwargs: Any, dims: Sequence[int | None], outputs: Sequence[int | None]
    ) -> None:  # fmt: skip
        leaves, self.spec = tree_flatten((args, kwargs))
        self.module, self.dims, self.out_dims = module, dims, outputs
        self.leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.versions = [leaf._version if isinstance(leaf, Tensor) else 0 for leaf in leaves]
        self.cotangents: list[Tensor | None] = [None] * len(outputs)

    def fits(self, count: int) -> bool:
        """Whether its inputs are of so many examples; an expert may be given fewer."""
        if len(self.leaves) != len(self.dims):
            return False
        pairs = zip(self.leaves, self.dims, strict=True)
        return all(dim is None or (isinstance(t, Tensor) and t.shape[dim : dim + 1] == (count,)) for t, dim in pairs)

    def check(self, where: str) -> None:
        for leaf, version in zip(self.leaves, self.versions, strict=True):
            if isinstance(leaf, Tensor) and leaf._version != version:
                raise overwritten(where)

    def rows(self, part: slice) -> tuple[list[Tensor], list[Tensor | None]]:
        """The batched inputs and the gradients at the outputs of some examples, examples first."""
        batched = [
            leaf.movedim(dim, 0)[part] for leaf, dim in zip(self.leaves, self.dims, strict=True) if dim is not None
        ]
        grads = [
            None if g is None or dim is None else g.movedim(dim, 0)[part]
            for g, dim in zip(self.cotangents, self.out_dims, strict=True)
        ]
        return batched, grads

    def run(self, weights: Weights, row: Sequence[Tensor]) -> list[Any]:
        """The outputs for one example, without the batch dimension."""
        rest = iter(row)
        leaves = [
            leaf if dim is None else next(rest).unsqueeze(dim) for leaf, dim in zip(self.leaves, self.dims, strict=True)
        ]
        args, kwargs = tree_unflatten(leaves, self.spec)
        with swapped(self.module, weights):
            output = self.module(*args, **kwargs)
        return [
            leaf if dim is None else leaf.squeeze(dim)
            for leaf, dim in zip(tree_leaves(output), self.out_dims, strict=True)
        ]


def overwritten(where: str) -> DatadietError:
    return DatadietError(
        "its input was overwritten in place after use, so its gradient cannot be had", where=where,
        fix="replace the in-place operation that follows by one that makes a new tensor",
    )  # fmt: skip


def module_gradients(calls: Sequence[Recall], weights: Weights, part: slice) -> Weights:
    """Per-example gradients of a module's parameters, summed over its calls: {id: (b, *shape)}."""
    total: Weights = {}
    for call in calls:
        rows, grads = call.rows(part)
        live = [i for i, g in enumerate(grads) if g is not None]
        if not live:
            continue

        def outputs(
            w: Weights, row: Sequence[Tensor], call: Recall = call, live: list[int] = live
        ) -> Sequence[Tensor]:  # fmt: skip
            found = call.run(w, row)
            return [found[i] for i in live]

        cotangents = [g for g in grads if g is not None]
        for number, g in _each(outputs, weights, rows, cotangents).items():
            total[number] = total[number] + g if number in total else g
    return total


def model_gradients(
    loss: Callable[[Weights, Sequence[Tensor]], Tensor], weights: Weights, inputs: Sequence[Tensor]
) -> Weights:
    """Per-example gradients of a scalar `loss(weights, row)`: {id: (b, *shape)}."""
    ones = torch.ones(len(inputs[0]), device=inputs[0].device)
    return _each(lambda w, row: [loss(w, row)], weights, list(inputs), [ones])


Outputs = Callable[[Weights, Sequence[Tensor]], Sequence[Tensor]]


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without PyTorch's warning, for its own developers, of each operation that vmap takes an example at a time."""
    # Not warnings.catch_warnings: at its end every other warning would be shown a second time.
    switch = getattr(torch._C._functorch, "_set_vmap_fallback_warning_enabled", lambda on: None)
    switch(False)
    try:
        yield
    finally:
        switch(True)


def _each(outputs: Outputs, weights: Weights, rows: list[Tensor], cotangents: list[Tensor]) -> Weights:
    """The vector-Jacobian product of every example, under vmap where it goes, else one by one."""

    def single(row: list[Tensor], grads: list[Tensor]) -> Weights:
        traced = torch.func.vjp(lambda w: tuple(outputs(w, row)), weights)
        produced, pull = traced[0], traced[1]
        return pull(tuple(g.to(p.dtype) for g, p in zip(grads, produced, strict=True)))[0]

    try:
        with _without_advice():
            return torch.func.vmap(single, randomness="error")(rows, cotangents)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever vmap cannot follow, one by one can
        log.info("vmap cannot follow (%s); examples go one by one", str(error).split("\n")[0])
    found: dict[int, list[Tensor]] = {number: [] for number in weights}
    for i in range(len(cotangents[0])):
        leaves = {number: w.detach().requires_grad_() for number, w in weights.items()}
        with torch.enable_grad():
            ends_of_row = outputs(leaves, [t[i] for t in rows])
        live = [(p, g[i].to(p.dtype)) for p, g in zip(ends_of_row, cotangents, strict=True) if p.requires_grad]
        pulled: Sequence[Tensor | None] = [None] * len(leaves)
        if live:
            ends, starts = zip(*live, strict=True)
            pulled = torch.autograd.grad(ends, list(leaves.values()), starts, allow_unused=True)
        for (number, leaf), gradient in zip(leaves.items(), pulled, strict=True):
            found[number].append(torch.zeros_like(leaf) if gradient is None else gradient)
    return {number: torch.stack(parts) for number, parts in found.items()}
