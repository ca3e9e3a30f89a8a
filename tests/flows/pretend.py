"""A device that is not there: its tensors hold their values on the CPU, and refuse to be mixed with the CPU's own.

No machine of the tests has an accelerator. What goes wrong on one is mostly that tensors of two devices meet, that a
NumPy array is asked of a tensor that lies elsewhere, or that a CPU's generator draws for it; here that raises as it
would there. PyTorch calls the device "meta", the one kind every build of it has, whose tensors it expects to be empty.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from datadiet import numerics

DEVICE = torch.device("meta")
# A CPU tensor of one entry goes everywhere, as does any into a copy; and a CPU index may select on a GPU.
MAY_MIX = ("aten.copy_.default", "aten._to_copy.default")
INDEXED = ("aten.index.Tensor", "aten.index_put_.default", "aten.index_put.default", "aten._index_put_impl_.default")


_wide = True  # whether the device has float64


class Mixed(RuntimeError):
    """Tensors of two devices met."""


class Elsewhere(torch.Tensor):
    """A tensor of the device, around a CPU tensor with its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        if not _wide and held.dtype == torch.float64:
            raise TypeError("the device has no float64")
        new = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip
        new.held = held
        return new

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Dispatch(TorchDispatchMode):
    """Makes tensors that are asked for on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation, on the CPU; its result is where the device would have it."""
    leaves = tree_flatten((args, kwargs))[0]
    there = [leaf for leaf in leaves if isinstance(leaf, Elsewhere)]
    asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    wanted = asked[-1] == DEVICE if asked else bool(there)
    if not there and not wanted:
        return func(*args, **kwargs)
    name = str(func)
    here = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Elsewhere)]
    met = bool(there) and any(leaf.dim() for leaf in here)
    if met and name not in MAY_MIX and not (name in INDEXED and isinstance(args[0], Elsewhere)):
        raise Mixed(
            f"{name} of {[tuple(leaf.shape) for leaf in there]} there and {[tuple(h.shape) for h in here]} here"
        )
    if any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise Mixed(f"{name} draws from the CPU's generator")
    names = {id(leaf.held): leaf for leaf in there}

    def inside(leaf: Any) -> Any:
        if isinstance(leaf, torch.device):
            return torch.device("cpu")
        return leaf.held if isinstance(leaf, Elsewhere) else leaf

    def outside(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return names.get(id(leaf), Elsewhere(leaf) if wanted else leaf)  # what is done in place gives itself back

    plain, options = tree_map(inside, (args, kwargs))
    options.pop("non_blocking", None)
    options.pop("pin_memory", None)
    return tree_map(outside, func(*plain, **options))


@contextlib.contextmanager
def another_device(patch: pytest.MonkeyPatch, *, wide: bool = True) -> Iterator[None]:
    """Every job that is planned in here computes on the device, which has float64 or, as Apple's, has not."""
    global _wide
    tensor, enabled = torch.tensor, torch.is_autocast_enabled

    class Autocast(torch.autocast):
        """The device has no precision of its own."""

        def __init__(self, kind: str, **options: Any) -> None:
            super().__init__("cpu" if kind == DEVICE.type else kind, **options)

    def made(*args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return tensor(*args, device="cpu", **options).to(torch.empty(0).device if device is None else device)

    patch.setattr(torch, "tensor", made)  # the one maker that no dispatch sees
    patch.setattr(torch, "is_autocast_enabled", lambda kind="cpu": kind != DEVICE.type and enabled(kind))
    patch.setattr(numerics, "pick_device", lambda name="auto": DEVICE.type)
    patch.setattr(torch, "autocast", Autocast)
    patch.setattr(numerics, "NARROW", ("mps",) if wide else ("mps", DEVICE.type))
    _wide = wide
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Dispatch():
            yield
    finally:
        _wide = True
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
