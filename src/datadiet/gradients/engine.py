"""One pass over a batch, and the squared gradient norm of every example and parameter.

Forward with the parameters frozen, then backward for input gradients alone: at each layer's output the gradient
arrives, meets the layer's input, and the rule turns both into squared norms; then both are let go. A weight that is
used more than once waits for all its uses, because the norm of a sum is not the sum of norms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from datadiet.gradients.attention import COPIED
from datadiet.gradients.capture import Owned, Ruled, Use, watching
from datadiet.gradients.fallback import (
    Recall,
    Weights,
    model_gradients,
    module_gradients,
    overwritten,
    refuse_dropout,
    swapped,
)
from datadiet.gradients.noting import copied, place, recall_hooks, rooted, thawed
from datadiet.gradients.plan import FIRST, Layout, Plan
from datadiet.gradients.rules import Rule, gather, square_sum
from datadiet.gradients.trial import handed_out
from datadiet.numerics import widest


class _Through(torch.autograd.Function):
    """Stands in for a layer's own backward pass where the rule gives the gradient at its input as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, backward: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.mark_dirty(output)
        ctx.run = backward
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return ctx.run(grads[0]), None, None


@dataclass
class _Held:
    """One use between forward and backward."""

    rule: Rule
    module: nn.Module
    x: Tensor
    g: Tensor
    layout: Layout
    local: str


@dataclass
class Pass:
    """The squared norms of one batch while they are gathered.

    Args:
        count: examples in the batch.
        memory: bytes that per-example gradients may take at a time where they must be formed.
    """

    plan: Plan
    targets: dict[int, str]
    parameters: dict[int, nn.Parameter]
    count: int
    memory: int
    anchor: Tensor
    squared: dict[int, list[Tensor]] = field(default_factory=dict)
    expected: dict[tuple[int, str], int] = field(default_factory=dict)
    waiting: dict[tuple[int, str], list[_Held]] = field(default_factory=dict)
    recalls: dict[str, list[Recall]] = field(default_factory=dict)

    def add(self, number: int, squares: Tensor) -> None:
        self.squared.setdefault(number, []).append(squares)

    def sums(self) -> dict[int, Tensor]:
        """What was added, in double precision: one conversion for all parameters."""
        rows = [squares.to(self.anchor.device) for found in self.squared.values() for squares in found]
        if not rows:
            return {}
        wide = iter(torch.stack(rows).to(widest(self.anchor.device)).unbind())
        return {number: sum_of([next(wide) for _ in found]) for number, found in self.squared.items()}

    def rooted(self, output: Tensor) -> Tensor:
        return rooted(output, self.anchor)

    def await_gradient(self, leaf: Tensor, call: Recall, i: int) -> None:
        def arrived(g: Tensor) -> None:
            call.cotangents[i] = g.detach()

        leaf.register_hook(arrived)

    def sink(self, use: Use) -> Tensor:
        placed = place(self.plan, use, self.count)
        if placed is None:
            return use.output
        layout, x, output, owned = placed
        if use.rule.through is not None and layout == FIRST and use.x.requires_grad and use.rule.whole(use.module, x):
            return self.through(use, owned)
        output = self.rooted(output)
        self.hold(use.key, use.rule, use.module, x, output, layout, owned)
        return output

    def hold(
        self, key: str, rule: Rule, module: nn.Module, x: Tensor, output: Tensor, layout: Layout,
        owned: Owned,
    ) -> None:  # fmt: skip
        for parameter, part in owned.values():
            slot = (id(parameter), part)
            self.expected[slot] = self.expected.get(slot, 0) + 1
        kept: list[Tensor] = [x]
        version = None if rule is COPIED else x._version

        def arrived(g: Tensor) -> None:
            x = kept.pop()
            if version is not None and x._version != version:
                raise overwritten(f"layer {key.split('/')[0]}")
            with torch.no_grad(), torch.autocast(g.device.type, enabled=False):
                self.arrive(rule, module, x, g.detach(), layout, owned)

        output.register_hook(arrived)

    def through(self, use: Use, owned: Owned) -> Tensor:
        for parameter, part in owned.values():
            slot = (id(parameter), part)
            self.expected[slot] = self.expected.get(slot, 0) + 1
        kept, version = [use.x.detach()], use.x._version
        rule, module, key = use.rule, use.module, use.key
        through = rule.through
        assert through is not None

        def backward(g: Tensor) -> Tensor:
            x = kept.pop()
            if x._version != version:
                raise overwritten(f"layer {key.split('/')[0]}")
            with torch.no_grad(), torch.autocast(g.device.type, enabled=False):
                arriving, found = through(module, x, g, list(owned))
                if all(self.expected[id(p), part] == 1 for p, part in owned.values()):
                    for name, (parameter, _) in owned.items():
                        self.add(id(parameter), square_sum(found[name]))
                else:
                    self.arrive(rule, module, x, g, FIRST, owned)
            return arriving

        return _Through.apply(use.x, use.output.detach(), backward)

    def arrive(
        self, rule: Rule, module: nn.Module, x: Tensor, g: Tensor, layout: Layout,
        owned: Owned,
    ) -> None:  # fmt: skip
        once = {n: p for n, (p, part) in owned.items() if self.expected[id(p), part] == 1}
        if once:
            found = squared_norms(rule, module, x, g, layout, list(once), self.count, self.memory)
            for name, parameter in once.items():
                self.add(id(parameter), found[name])
        for name, (parameter, part) in owned.items():
            if name not in once:
                slot = (id(parameter), part)
                uses = self.waiting.setdefault(slot, [])
                uses.append(_Held(rule, module, x, g, layout, name))
                if len(uses) == self.expected[slot]:
                    self.add(id(parameter), shared_norms(self.waiting.pop(slot), self.count, self.memory))

    def finish(self) -> None:
        """What waited for uses whose output nothing depended on, and the modules that run again."""
        with torch.no_grad(), torch.autocast(self.anchor.device.type, enabled=False):
            for slot in list(self.waiting):
                self.add(slot[0], shared_norms(self.waiting.pop(slot), self.count, self.memory))
        for where, local in self.plan.local.items():
            calls = self.recalls.get(where, [])
            for call in calls:
                call.check(f"layer {where}")
            weights = {n: self.parameters[n].detach() for n in local.parameters}
            self.chunked(weights, lambda part: module_gradients(calls, weights, part))  # noqa: B023

    def chunked(self, weights: Weights, gradients: Callable[[slice], Weights]) -> None:
        """Squared norms from gradients that are formed for a few examples at a time."""
        parts: dict[int, list[Tensor]] = {}
        for part in few(self.count, sum(w.numel() * w.element_size() for w in weights.values()), self.memory):
            for number, g in gradients(part).items():
                parts.setdefault(number, []).append(square_sum(upcast(g)))
        for number, squares in parts.items():
            self.add(number, gather(squares))


def sum_of(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.stack(rows).sum(0)


def few(count: int, bytes_each: int, memory: int) -> list[slice]:
    """Slices of examples whose gradients, and one temporary as large, fit the memory."""
    step = max(1, min(count, memory // max(1, 2 * bytes_each)))
    return [slice(i, min(i + step, count)) for i in range(0, count, step)]


def upcast(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _both(held: _Held, count: int) -> tuple[Tensor, Tensor]:
    g = upcast(held.layout.examples(held.g, count))
    if held.rule is COPIED:
        return held.x, g
    x = held.layout.examples(held.x, count)
    # Mixed precision: the layer may have seen a narrower copy of x than was captured.
    return x.to(g.dtype) if x.is_floating_point() else x, g


def squared_norms(
    rule: Rule, module: nn.Module, x: Tensor, g: Tensor, layout: Layout, names: Sequence[str], count: int, memory: int
) -> dict[str, Tensor]:
    """{name: (B,)} for one use of a layer."""
    held = [_Held(rule, module, x, g, layout, name) for name in names]
    if layout.fold > 1 and not rule.positions:
        return {h.local: shared_norms([h], count, memory) for h in held}
    x, g = _both(held[0], count)
    if rule.norms is not None:
        return rule.norms(module, x, g, names)
    assert rule.gradients is not None
    return {name: square_sum(found) for name, found in rule.gradients(module, x, g, names).items()}


def shared_norms(uses: Sequence[_Held], count: int, memory: int) -> Tensor:
    """‖Σ over uses of the gradient‖² of every example, (B,)."""
    first = uses[0]
    sides = [_both(use, count) for use in uses]
    positions = all(u.rule is first.rule and u.module is first.module for u in uses) and first.rule.positions
    positions = positions and not getattr(first.module, "scale_grad_by_freq", False)  # frequencies are a call's own
    if positions and first.rule.norms is not None and len(uses) > 1:
        # The same layer at more positions: one use on all of them.
        x = torch.cat([_positions(x) if x.is_floating_point() else x.reshape(count, -1) for x, _ in sides], 1)
        g = torch.cat([_positions(g) for _, g in sides], 1)
        return first.rule.norms(first.module, x, g, [first.local])[first.local]
    parameter = first.module.get_parameter(first.local) if first.rule is not COPIED else None
    each = parameter.numel() * parameter.element_size() if parameter is not None else sides[0][1][0].numel() * 4
    parts = []
    for part in few(count, each * max(use.layout.fold for use in uses), memory):
        total: Tensor | None = None
        for use, (x, g) in zip(uses, sides, strict=True):
            rows, grads = x if use.rule is COPIED else x[part], g[part]
            if use.layout.fold > 1 and not use.rule.positions:
                rows, grads = rows.flatten(0, 1), grads.flatten(0, 1)
            assert use.rule.gradients is not None
            found = use.rule.gradients(use.module, rows, grads, [use.local])[use.local]
            if use.layout.fold > 1 and not use.rule.positions:
                found = found.unflatten(0, (-1, use.layout.fold)).sum(1)
            total = found if total is None else total + found
        assert total is not None
        parts.append(square_sum(total))
    return gather(parts)


def _positions(t: Tensor) -> Tensor:
    return t.reshape(t.shape[0], -1, t.shape[-1])


def run_pass(
    model: nn.Module, plan: Plan, targets: dict[int, str], parameters: dict[int, nn.Parameter], count: int, memory: int,
    ruled: Sequence[Ruled], forward: Callable[[], Tensor], device: torch.device, dtype: torch.dtype,
) -> dict[int, Tensor]:  # fmt: skip
    """Squared norms by parameter id, (B,) each; `forward` returns the summed loss."""
    anchor = torch.zeros((), device=device, dtype=dtype, requires_grad=True)
    state = Pass(plan, targets, parameters, count, memory, anchor)
    unmet = plan.unmet(parameters)
    if plan.by_rule or plan.local or unmet:
        with watching(model, ruled, state.sink) as watch:
            handles = recall_hooks(model, plan, state, watch)
            try:
                with thawed(unmet.values()):
                    with handed_out(model, plan.copied, count, lambda t, where: copied(state, t, where)):
                        total = forward()
                    if total.requires_grad:
                        _, *arrived = torch.autograd.grad(total, [anchor, *unmet.values()], allow_unused=True)
                        plan.meet(dict(zip(unmet, arrived, strict=True)))
                        del arrived
                del total
                watch.active = False
                state.finish()
            finally:
                for handle in handles:
                    handle.remove()
    return state.sums()


def whole_model(
    model: nn.Module, plan: Plan, parameters: dict[int, nn.Parameter], count: int, memory: int,
    tensors: list[Tensor], loss: Callable[[list[Tensor]], Tensor],
) -> dict[int, Tensor]:  # fmt: skip
    """Squared norms of the parameters that only the whole model's gradient gives."""
    if not plan.whole:
        return {}
    refuse_dropout(model, "model")
    weights = {n: parameters[n].detach() for n in plan.whole}

    def single(given: Weights, row: Sequence[Tensor]) -> Tensor:
        with swapped(model, given):
            return loss([t.unsqueeze(0) for t in row])

    squared: dict[int, list[Tensor]] = {}
    for part in few(count, sum(w.numel() * w.element_size() for w in weights.values()), memory):
        for number, g in model_gradients(single, weights, [t[part] for t in tensors]).items():
            squared.setdefault(number, []).append(square_sum(upcast(g)).to(widest(g.device)))
    return {number: gather(parts) for number, parts in squared.items()}
