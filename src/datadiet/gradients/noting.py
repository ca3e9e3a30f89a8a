"""What the passes for norms and for kernels share: where a use belongs, and noting it in the graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from datadiet.errors import DatadietError
from datadiet.gradients.attention import COPIED
from datadiet.gradients.capture import Owned, Use, Watch
from datadiet.gradients.fallback import Recall, refuse_dropout
from datadiet.gradients.plan import FIRST, Layout, Plan
from datadiet.gradients.rules import Rule
from datadiet.gradients.trial import expand


class _Root(torch.autograd.Function):
    """Makes a tensor that nothing before it requires the gradient of a starting point of the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor) -> Tensor:
        # Marked, not copied: in-place operations that follow stay allowed, and no memory is spent.
        ctx.mark_dirty(x)
        ctx.like = anchor.detach()
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, Tensor]:
        return None, torch.zeros_like(ctx.like)


class Watcher(Protocol):
    """What takes note of the uses of one pass."""

    count: int
    recalls: dict[str, list[Recall]]

    def rooted(self, output: Tensor) -> Tensor: ...

    def hold(
        self, key: str, rule: Rule, module: nn.Module, x: Tensor, output: Tensor, layout: Layout, owned: Owned
    ) -> None: ...

    def await_gradient(self, leaf: Tensor, call: Recall, i: int) -> None: ...


def place(plan: Plan, use: Use, count: int) -> tuple[Layout, Tensor, Tensor, Owned] | None:
    """Where the examples are in a use, its input and output, and what of it the rule covers; None for nothing."""
    if not torch.is_grad_enabled():
        return None
    owned = {n: (p, part) for n, (p, part) in use.owned.items() if id(p) in plan.by_rule}
    if not owned:
        return None
    if use.key not in plan.layouts:
        raise unplanned(use.key)
    layout, output, x = plan.layouts[use.key], use.output, use.x.detach()
    if layout is None:
        if not use.x.requires_grad:  # else an earlier layer's copies made copies of this one's too
            output, x = expand(output, count), expand(x, count)
        layout = FIRST
    if not layout.fits(output.shape, count) or not (use.rule is COPIED or layout.fits(x.shape, count)):
        raise unplanned(use.key)
    return layout, x, output, owned


@contextmanager
def thawed(unmet: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters that no trial met are not frozen in a pass: a gradient tells whether it meets them, by any way."""
    for parameter in unmet:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in unmet:
            parameter.requires_grad_(False)


def rooted(output: Tensor, anchor: Tensor) -> Tensor:
    """The output as a part of the graph, also where nothing before it requires the gradient."""
    return output if output.requires_grad else _Root.apply(output.detach(), anchor)


def copied(state: Watcher, copies: Tensor, where: tuple[str, str, nn.Parameter]) -> Tensor:
    module, name, parameter = where
    copies = state.rooted(copies)
    owned: Owned = {"parameter": (parameter, "")}
    state.hold(f"{module}/{name}", COPIED, nn.Identity(), copies.detach(), copies, FIRST, owned)
    return copies


def recall_hooks(model: nn.Module, plan: Plan, state: Watcher, watch: Watch) -> list[Any]:
    handles: list[Any] = []
    for where, local in plan.local.items():
        module = model.get_submodule(where)
        refuse_dropout(module, f"layer {where}")
        calls = state.recalls.setdefault(where, [])

        def enter(
            module: nn.Module, args: Any, kwargs: Any, calls: Any = calls, local: Any = local, where: str = where
        ) -> None:  # fmt: skip
            if not watch.active:
                return
            turn = len(calls)
            if turn >= len(local.inputs):
                raise unplanned(where)
            call = Recall(module, args, kwargs, local.inputs[turn], local.outputs[turn])
            if not call.fits(state.count):
                raise unplanned(where)
            calls.append(call)

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any, calls: Any = calls) -> Any:
            if not watch.active or not torch.is_grad_enabled():
                return None
            call = calls[-1]
            leaves, spec = tree_flatten(output)
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
            for i in places:
                leaf = state.rooted(leaves[i])
                # One of several outputs may come from another: what goes on from it outside is apart from that.
                leaves[i] = leaf.clone() if len(places) > 1 else leaf
                state.await_gradient(leaves[i], call, i)
            return tree_unflatten(leaves, spec)

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    return handles


def unplanned(key: str) -> DatadietError:
    return DatadietError(
        "the network used this layer otherwise than it did for a few of the examples",
        where=f"layer {key.split('/')[0] or 'model'}",
        fix="a gradient of one example needs a network that treats examples alike; pass chunk=1",
    )
