"""Convolutions whose weight gradient PyTorch gets wrong on some CPUs, and how to go round that.

On an x86 CPU without AVX-512, the weight gradient of a 1×1 convolution with a stride and 2 to 7 input channels writes
past the end of a buffer where the input lies channels-last (oneDNN's `jit_1x1:avx2`, in PyTorch 2.6 to 2.13): the
process dies, or goes on with memory that is not what it was. Other strides, kernels and channels are sound, and so
are those in the ordinary layout.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def overruns() -> bool:
    """Whether this machine's CPU may be one of those."""
    return str(torch.backends.cpu.get_cpu_capability()) != "AVX512"


class Seen(TorchDispatchMode):
    """Looks at every convolution of the block, of a module or not; `narrow` says whether one was of that kind."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            _, weight, _, stride, *_ = args
            self.narrow = self.narrow or _is_narrow(weight, stride)
        return func(*args, **(kwargs or {}))


def sound(modules: Iterable[nn.Module]) -> AbstractContextManager[Any]:
    """A block in which gradients of these modules are right whatever the layout, at some cost where one is narrow."""
    layers = (m for m in modules if isinstance(m, nn.Conv2d))
    if overruns() and any(_is_narrow(m.weight, m.stride) for m in layers):
        return _InOrdinaryLayout()
    return nullcontext()


class _InOrdinaryLayout(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default and _is_narrow(args[2], args[4]):
            args = (*(t.clone(memory_format=torch.contiguous_format) for t in args[:3]), *args[3:])
        return func(*args, **(kwargs or {}))


def _is_narrow(weight: Tensor, stride: Any) -> bool:
    return weight.dim() == 4 and weight.shape[2:] == (1, 1) and weight.shape[1] < 8 and max(stride) > 1
