"""Watching a model: every use of a layer with a rule passes its input and output through here.

Nothing of the watching stays: modes, gradient flags, buffers, hooks and patched methods are put back, also after
an exception. Parameters are frozen meanwhile, so autograd computes input gradients alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from datadiet.errors import DatadietError
from datadiet.gradients.rules import Rule, rule_for

Owned = dict[str, tuple[nn.Parameter, str]]  # a rule's local name -> the parameter, and which part of it


@dataclass(frozen=True)
class Ruled:
    """A module that a rule covers."""

    name: str
    module: nn.Module
    rule: Rule
    owned: Owned


@dataclass
class Use:
    """One use of a layer in one pass."""

    key: str
    rule: Rule
    module: nn.Module
    x: Tensor
    output: Tensor
    owned: Owned
    stack: tuple[str, ...]


Sink = Callable[[Use], Tensor]
Walk = list[tuple[str, nn.Module]]  # a model's modules by name, walked through once a call: it takes half a millisecond


def trainable(walk: Walk) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name, each once."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for where, module in walk:
        for name, p in module._parameters.items():
            if p is not None and p.requires_grad and id(p) not in found:
                found[id(p)] = (f"{where}.{name}" if where else name, p)
    return dict(found.values())


@contextmanager
def borrowed(walk: Walk, *, evaluate: bool) -> Iterator[None]:
    """The model frozen and in eval mode (or as it is), exactly as before afterwards."""
    modules = [module for _, module in walk]
    if any(p is not None and p.is_inference() for m in modules for p in m._parameters.values()):
        raise DatadietError(
            "the network was made under torch.inference_mode, and its weights have no gradients", where="model",
            fix="make it, or load it, outside of inference_mode",
        )  # fmt: skip
    modes = [(m, m.training) for m in modules if m.training]
    flags = [p for m in modules for p in m._parameters.values() if p is not None and p.requires_grad]
    held = [(m._buffers, dict(m._buffers)) for m in modules]
    buffers = [b for _, before in held for b in before.values() if b is not None]
    kept = [(b, b.detach().clone()) for b in buffers if not b.is_inference()]  # those are never written to
    for module in modules:
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None:
            kept.append((module.weight, module.weight.detach().clone()))  # its forward rescales rows in place
    versions = [b._version for b, _ in kept]
    fast, cudnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled
    try:
        if any(isinstance(module, nn.RNNBase) for module in modules):
            torch.backends.cudnn.enabled = False  # its recurrent layers have no gradient in eval mode
        # The fused path of attention would go past the modules inside it.
        torch.backends.mha.set_fastpath_enabled(False)
        if evaluate:
            for module, _ in modes:  # past nn.Module's own, which looks for parameters: a millisecond on a ResNet-20
                object.__setattr__(module, "training", False)
        for parameter in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.cudnn.enabled = cudnn
        for module, mode in modes:
            object.__setattr__(module, "training", mode)
        for parameter in flags:
            parameter.requires_grad_(True)
        hold_again(held)
        for (buffer, value), version in zip(kept, versions, strict=True):
            if buffer._version != version:
                put_back(buffer, value)


def hold_again(held: Sequence[tuple[dict[str, Tensor | None], dict[str, Tensor | None]]]) -> None:
    """Modules' buffers as they were held, where a forward put others in their place."""
    for now, before in held:
        if isinstance(now, dict):  # a scripted module's is none, and holds what it held
            now.clear()
            now.update(before)


@torch.no_grad()
def put_back(buffer: Tensor, value: Tensor) -> None:
    """The value that a buffer had, written only where it differs: elements of an expanded one lie in one place."""
    if torch.equal(buffer, value):
        return
    for dim, stride in enumerate(buffer.stride()):
        if stride == 0:
            buffer, value = buffer.narrow(dim, 0, 1), value.narrow(dim, 0, 1)
    buffer.copy_(value)


def ordinary(t: Any) -> Any:
    """A tensor as one that can be saved for backward, which those made under inference_mode cannot."""
    if not isinstance(t, Tensor):
        return t
    return t.clone() if t.is_inference() else t.detach()


def ruled_modules(walk: Walk, targets: dict[int, str]) -> list[Ruled]:
    """The modules whose parameters of interest a rule covers completely.

    Args:
        targets: id of each parameter of interest to its name.
    """
    found = []
    for name, module in walk:
        direct = {n for n, p in module._parameters.items() if p is not None and id(p) in targets}
        rule = rule_for(module)
        if rule is None or not direct <= set(rule.names):
            continue
        owned: Owned = {}
        for local in rule.names:
            parameter = _attribute(module, local)
            if isinstance(parameter, nn.Parameter) and id(parameter) in targets:
                owned[local] = (parameter, "")
        if owned:
            found.append(Ruled(name, module, rule, owned))
    return found


def _attribute(module: nn.Module, path: str) -> object:
    value: object = module
    for part in path.split("."):
        value = value._parameters.get(part, value._modules.get(part)) if isinstance(value, nn.Module) else None
    return value


@dataclass
class Watch:
    """The hooks of one pass; `active` is off while a module is run again for its own sake."""

    sink: Sink
    active: bool = True
    stack: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def use(self, ruled: Ruled, rule: Rule, x: Tensor, output: Tensor, owned: Owned, label: str = "") -> Tensor:
        if not self.active:
            return output
        site = f"{ruled.name}/{label}"
        turn = self.counts.get(site, 0)
        self.counts[site] = turn + 1
        module = ruled.module
        return self.sink(Use(f"{site}/{turn}", rule, module, x, output, owned, tuple(self.stack)))


@contextmanager
def watching(model: nn.Module, ruled: Sequence[Ruled], sink: Sink) -> Iterator[Watch]:
    """Send every use of the ruled modules to `sink`, which returns the output to go on with."""
    watch = Watch(sink)
    handles = []
    patched: list[nn.Module] = []
    try:
        for item in ruled:
            if item.rule.forward is not None:
                item.module.__dict__["forward"] = partial(_composed, watch, item)
                patched.append(item.module)
            else:
                hook = partial(_single, watch, item)
                # First of all hooks: others may change the output, and the rule is of the layer alone.
                handles.append(item.module.register_forward_hook(hook, with_kwargs=True, prepend=True))
        yield watch
    finally:
        for handle in handles:
            handle.remove()
        for module in patched:
            del module.__dict__["forward"]


def _single(watch: Watch, item: Ruled, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> Tensor | None:
    if not watch.active:
        return None
    x = args[0] if args else kwargs.get("input", next(iter(kwargs.values())))
    return watch.use(item, item.rule, x, output, item.owned)


def _composed(watch: Watch, item: Ruled, *args: Any, **kwargs: Any) -> object:
    if not watch.active:
        return type(item.module).forward(item.module, *args, **kwargs)
    assert item.rule.forward is not None

    def tap(rule: Rule, x: Tensor, output: Tensor, owned: Owned, label: str) -> Tensor:
        wanted = {n: (p, part) for n, (p, part) in owned.items() if any(p is q for q, _ in item.owned.values())}
        return watch.use(item, rule, x, output, wanted, label) if wanted else output

    return item.rule.forward(item.module, tap, *args, **kwargs)


# What only looks at a parameter; no gradient comes of it.
_LOOKS = {
    getattr(Tensor, name).__get__
    for name in (
        "dtype", "device", "shape", "layout", "ndim", "requires_grad", "is_leaf", "is_cuda", "is_cpu", "is_meta",
        "is_mps", "is_xpu", "is_sparse", "is_quantized", "is_nested", "grad", "itemsize", "nbytes", "is_mkldnn",
    )
    if hasattr(Tensor, name)
} | {
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.is_contiguous, Tensor.element_size,
    Tensor.is_floating_point, Tensor.is_complex, Tensor.__len__, Tensor.get_device, Tensor.storage_offset,
    Tensor.ndimension, Tensor.__hash__, Tensor.data_ptr, torch.is_floating_point, torch.is_complex, torch.numel,
}  # fmt: skip


class StrayUses(TorchFunctionMode):
    """Notes uses of parameters outside the calls of the modules whose rule covers them.

    Args:
        covered: module name to the ids of the parameters that its rule takes care of.
    """

    def __init__(self, targets: dict[int, str], covered: dict[str, set[int]], stack: list[str]) -> None:
        super().__init__()
        self.targets, self.covered, self.stack = targets, covered, stack
        self.found: dict[int, list[tuple[str, ...]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _LOOKS:
            inside = self.covered.get(self.stack[-1], ()) if self.stack else ()
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, nn.Parameter) and id(leaf) in self.targets and id(leaf) not in inside:
                    self.found.setdefault(id(leaf), []).append(tuple(self.stack))
        return func(*args, **(kwargs or {}))
