"""Weight masks: which weights of a network are left after pruning, and how training keeps the others at zero.

Convolution and linear weights have a mask; biases, batch norm and everything else are left alone (Lottery Tickets,
appendix A). A weight that is gone is +0.0 at the start, and its gradient is zeroed before every step of the optimiser,
so neither momentum nor weight decay ever moves it: it stays exactly +0.0, and so does its momentum.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from datadiet.errors import DatadietError
from datadiet.machine import expanded
from datadiet.store.files import read_tensors, write_tensors


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that pruning may remove, by name: of convolutions and linear layers, each once."""
    owners = {id(m.weight) for m in model.modules() if isinstance(m, (_ConvNd, nn.Linear))}
    return {name: p for name, p in model.named_parameters() if id(p) in owners}


@dataclass(frozen=True, eq=False)
class Mask:
    """Which weights are left: for each prunable tensor a boolean array of its shape, true where a weight stays."""

    tensors: Mapping[str, np.ndarray]

    @classmethod
    def full(cls, model: nn.Module) -> Mask:
        """Every weight of a network."""
        return cls({name: np.ones(tuple(p.shape), bool) for name, p in prunable(model).items()})

    @cached_property
    def total(self) -> int:
        """Prunable weights."""
        return sum(t.size for t in self.tensors.values())

    @cached_property
    def remaining(self) -> int:
        """Weights that are left."""
        return sum(int(np.count_nonzero(t)) for t in self.tensors.values())

    @property
    def density(self) -> float:
        """The part of the prunable weights that is left."""
        return self.remaining / self.total

    def layers(self) -> dict[str, tuple[int, int]]:
        """For each tensor the weights that are left, and all."""
        return {name: (int(np.count_nonzero(t)), t.size) for name, t in self.tensors.items()}

    @cached_property
    def digest(self) -> str:
        """32 hex digits that tell this mask from any other."""
        out = hashlib.blake2b(digest_size=16)
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            out.update(f"{name}{tensor.shape}".encode())
            out.update(np.packbits(tensor.ravel()).tobytes())
        return out.hexdigest()

    def check(self, model: nn.Module, *, where: object = None) -> None:
        """Raise unless this is a mask of such a network."""
        found = {name: tuple(p.shape) for name, p in prunable(model).items()}
        mine = {name: tuple(t.shape) for name, t in self.tensors.items()}
        for name in sorted({*found, *mine}):
            if found.get(name) != mine.get(name):
                raise DatadietError(
                    f"the mask is of another network: {name} is {_shape(mine.get(name))} in it, "
                    f"{_shape(found.get(name))} in the network",
                    where=where,
                    fix="use the network it was made for",
                )

    def apply(self, model: nn.Module) -> None:
        """Set the weights that are gone to +0.0."""
        weights = prunable(model)
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                gone = torch.from_numpy(~np.asarray(tensor, bool)).to(weights[name].device)
                weights[name].masked_fill_(gone, 0.0)

    def hold(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Apply the mask, and keep it through every step of the optimiser, whatever momentum that has by now."""
        self.check(model)
        self.apply(model)
        weights = prunable(model)
        kept = []
        for name, tensor in self.tensors.items():
            weight = weights[name]
            # In the weight's own memory layout, or the product would walk through both in different orders.
            like = torch.empty_like(weight, requires_grad=False)
            kept.append((weight, like.copy_(torch.from_numpy(np.asarray(tensor, bool)))))
            for state in optimizer.state.get(weight, {}).values():
                if torch.is_tensor(state) and state.shape == weight.shape:
                    state.mul_(like)

        def only_what_is_left(*_: Any) -> None:
            there = [(weight.grad, factor) for weight, factor in kept if weight.grad is not None]
            if there:  # weights may be frozen
                torch._foreach_mul_([grad for grad, _ in there], [factor for _, factor in there])

        optimizer.register_step_pre_hook(only_what_is_left)

    def save(self, path: str | os.PathLike[str], meta: Mapping[str, Any] | None = None) -> None:
        """Write the mask as safetensors, a boolean tensor for each weight."""
        write_tensors(expanded(path), dict(self.tensors), {"what": "mask", "digest": self.digest, **dict(meta or {})})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mask:
        """Read what `save` wrote."""
        file = expanded(path)
        if not file.exists():
            raise DatadietError("no such file", where=file, fix="masks are written by `datadiet lottery`")
        tensors, meta = read_tensors(file)
        if meta.get("what") != "mask":
            raise DatadietError("is no mask", where=file, fix="masks are written by `datadiet lottery`")
        return cls({name: np.asarray(tensor, bool) for name, tensor in tensors.items()})


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else "×".join(map(str, shape))
