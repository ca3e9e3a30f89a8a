"""Convolutions whose weight gradient PyTorch gets wrong on some CPUs, and how to go round that.

On an x86 CPU without AVX-512, the weight gradient of a 1×1 convolution with a stride and 2 to 7 input channels writes
past the end of a buffer where the input lies channels-last (oneDNN's `jit_1x1:avx2`, in PyTorch 2.6 to 2.13): the
process dies, or goes on with memory that is not what it was. Other strides, kernels, channels and groups are sound,
and so are inputs in the ordinary layout: they are copied into it where one such convolution is differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_NOTHING = nullcontext()


def overruns() -> bool:
    """Whether this machine's CPU may be one of those."""
    return str(torch.backends.cpu.get_cpu_capability()) != "AVX512"


def has_narrow(modules: Iterable[nn.Module]) -> bool:
    """Whether a convolution among the modules is of that kind. Asked of attributes: to read a weight may change it."""
    return any(
        isinstance(m, nn.Conv2d) and _is_narrow(m.kernel_size, m.in_channels, m.stride, m.groups) for m in modules
    )


class Seen(TorchDispatchMode):
    """Looks at every convolution of the block, of a module or not; `narrow` says whether one was of that kind."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            _, weight, _, stride, _, _, transposed, _, groups = args
            self.narrow |= not transposed and _is_narrow(weight.shape[2:], weight.shape[1], stride, groups)
        return func(*args, **(kwargs or {}))


def sound(modules: Iterable[nn.Module]) -> AbstractContextManager[Any]:
    """A block in which gradients of these modules are right, at some cost where one of them is narrow."""
    return _InOrdinaryLayout() if overruns() and has_narrow(modules) else _NOTHING


class Care:
    """Passes forward and back that are right: the first forward pass shows whether the others need care.

    >>> care = Care(model)                                 # doctest: +SKIP
    >>> with care.forward():                               # doctest: +SKIP
    ...     loss = model(inputs).sum()
    >>> with care.back():                                  # doctest: +SKIP
    ...     loss.backward()

    Args:
        look: False for a compiled network, which is not compiled while it is looked at; its modules are known.
    """

    def __init__(self, model: nn.Module, *, look: bool = True) -> None:
        here = overruns() and any(p.device.type == "cpu" for p in model.parameters())
        self._needed = here and has_narrow(model.modules())
        self._seen = Seen() if here and look and not self._needed else None

    def forward(self) -> AbstractContextManager[Any]:
        return self._seen or _NOTHING

    def back(self) -> AbstractContextManager[Any]:
        if self._seen is not None:
            self._needed, self._seen = self._seen.narrow, None
        return _InOrdinaryLayout() if self._needed else _NOTHING


class _InOrdinaryLayout(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            _, _, weight, _, stride, _, _, transposed, _, groups, _ = args
            if not transposed and _is_narrow(weight.shape[2:], weight.shape[1], stride, groups):
                args = (*(t.clone(memory_format=torch.contiguous_format) for t in args[:3]), *args[3:])
        return func(*args, **(kwargs or {}))


def _is_narrow(kernel: Any, channels: int, stride: Any, groups: int) -> bool:
    return tuple(kernel) == (1, 1) and max(stride) > 1 and groups == 1 and 1 < channels < 8
