"""One forward pass, one backward pass a logit, and every layer's share of the Gram matrix.

The forward pass notes each use of a layer: its input and the edge of the graph at which the gradient at its output
will arrive. The backward passes then go section by section (see gram_cuts.py): those of all logits through one
section, the shares of its layers, on to the next. Uses of one weight wait for each other, because the gradient is
their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from datadiet.gradients.attention import COPIED
from datadiet.gradients.capture import Owned, Ruled, Use, watching
from datadiet.gradients.engine import upcast
from datadiet.gradients.fallback import Recall, Weights, module_gradients, overwritten
from datadiet.gradients.gram_cuts import merged, sections
from datadiet.gradients.gram_matrix import Gram
from datadiet.gradients.noting import copied, place, recall_hooks, rooted, thawed
from datadiet.gradients.plan import Layout, Plan
from datadiet.gradients.rules import Rule, pieces
from datadiet.gradients.trial import handed_out

# Gradients of a small weight are formed at once, in place of keeping those at a large output; below this share of
# their size it is also quicker.
_SMALL = 16


@dataclass
class Noted:
    """One use of a layer, or one output of a module that runs again.

    Args:
        slots: (id of the parameter, part of it) by the rule's local name.
        shape: of one example's output gradient.
        widths: entries of the parameters, of which attention uses a part at a time.
        reduce: form the weights' gradients as the output gradients arrive.
        kept: (B, C, *shape), or (B, C, entries of the weights' gradients); None while nothing arrived.
    """

    where: str
    edge: GradientEdge
    layout: Layout
    shape: tuple[int, ...]
    slots: dict[str, tuple[int, str]] = field(default_factory=dict)
    rule: Rule = COPIED
    module: nn.Module = field(default_factory=nn.Identity)
    x: Tensor | None = None
    version: int = 0
    widths: dict[str, int] = field(default_factory=dict)
    call: tuple[Recall, int] | None = None
    reduce: bool = False
    kept: Tensor | None = None

    @property
    def entries(self) -> int:
        return sum(self.widths.values()) if self.reduce else math.prod(self.shape)

    @property
    def folded(self) -> bool:
        return self.layout.fold > 1 and not self.rule.positions

    def inputs(self, count: int, dtype: torch.dtype) -> Tensor:
        """The layer's input, examples first."""
        assert self.x is not None
        if self.rule is COPIED:
            return self.x
        if self.x._version != self.version:
            raise overwritten(f"layer {self.where}")
        x = self.layout.examples(self.x, count)
        return x.to(dtype) if x.is_floating_point() else x

    def gradients(self, x: Tensor, g: Tensor, names: Sequence[str]) -> Tensor:
        """(b, entries): the gradients of these parameters of a few examples, side by side."""
        assert self.rule.gradients is not None
        count = len(g)
        if self.folded:
            x, g = x.flatten(0, 1), g.flatten(0, 1)
        found = self.rule.gradients(self.module, x, g, names)
        rows = [found[name].flatten(1) for name in names]
        return torch.cat([r.unflatten(0, (count, -1)).sum(1) if self.folded else r for r in rows], 1)


@dataclass
class Notes:
    """Takes note of all uses in the forward pass."""

    plan: Plan
    count: int
    anchor: Tensor
    noted: list[Noted] = field(default_factory=list)
    recalls: dict[str, list[Recall]] = field(default_factory=dict)

    def rooted(self, output: Tensor) -> Tensor:
        return rooted(output, self.anchor)

    def sink(self, use: Use) -> Tensor:
        placed = place(self.plan, use, self.count)
        if placed is None:
            return use.output
        layout, x, output, owned = placed
        output = self.rooted(output)
        self.hold(use.key, use.rule, use.module, x, output, layout, owned)
        return output

    def hold(
        self, key: str, rule: Rule, module: nn.Module, x: Tensor, output: Tensor, layout: Layout, owned: Owned
    ) -> None:
        shape = _shape(output, layout, self.count)
        widths = {name: p.numel() for name, (p, _) in owned.items()}
        slots = {name: (id(p), part) for name, (p, part) in owned.items()}
        where = key.split("/")[0] or "model"
        self.noted.append(
            Noted(where, get_gradient_edge(output), layout, shape, slots, rule, module, x, x._version, widths)
        )

    def await_gradient(self, leaf: Tensor, call: Recall, i: int) -> None:
        where = next(name for name, calls in self.recalls.items() if any(c is call for c in calls))
        dim = call.out_dims[i]
        assert dim is not None
        layout = Layout(dim)
        shape = _shape(leaf, layout, self.count)
        slots = {"": (id(self.recalls[where]), "")}
        self.noted.append(Noted(where, get_gradient_edge(leaf), layout, shape, slots, call=(call, i)))


def _shape(t: Tensor, layout: Layout, count: int) -> tuple[int, ...]:
    return tuple(layout.examples(t.detach(), count).shape[1:])


def gram_pass(
    model: nn.Module, plan: Plan, parameters: dict[int, nn.Parameter], ruled: Sequence[Ruled], total: Gram,
    forward: Callable[[], Tensor], anchor: Tensor,
) -> None:  # fmt: skip
    """Add to `total` the shares of all parameters but those for which the whole model must run again.

    Args:
        forward: returns the logits, (B, C).
        anchor: a scalar that requires a gradient.
    """
    unmet = plan.unmet(parameters)
    if not plan.by_rule and not plan.local and not unmet:
        return
    notes = Notes(plan, total.count, anchor)
    with watching(model, ruled, notes.sink) as watch:
        handles = recall_hooks(model, plan, notes, watch)
        try:
            with thawed(unmet.values()):
                with handed_out(model, plan.copied, total.count, lambda t, where: copied(notes, t, where)):
                    logits = forward()
                if unmet and logits.requires_grad:
                    weights = list(unmet.values())
                    arrived = torch.autograd.grad(logits.sum(), weights, retain_graph=True, allow_unused=True)
                    plan.meet(dict(zip(unmet, arrived, strict=True)))
                    del arrived
        finally:
            for handle in handles:
                handle.remove()
    units = _units(notes.noted)
    for unit in units:
        _decide(unit, total)
    waiting = {id(use): unit for unit in units for use in unit}
    left = {id(unit): len(unit) for unit in units}

    def settled(uses: Sequence[Noted]) -> None:
        for use in uses:
            unit = waiting.pop(id(use))
            left[id(unit)] -= 1
            if not left[id(unit)]:
                with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
                    _share(unit, total, plan, parameters, notes)

    if logits.requires_grad:
        _backward(logits, notes.noted, total, settled)
    settled([use for use in notes.noted if id(use) in waiting])  # nothing depended on them


def _backward(
    logits: Tensor, noted: list[Noted], total: Gram, settled: Callable[[Sequence[Noted]], None]
) -> None:  # fmt: skip
    """All logits' backward passes, section by section; `settled` is told whose gradients are complete."""
    logit = total.logits
    sizes = [total.count * logit * total.size * use.entries for use in noted]
    start = get_gradient_edge(logits)
    parts = merged(sections(start, [use.edge for use in noted]), sizes, total.memory)
    arriving: list[Tensor | None] = [torch.zeros_like(logits) for _ in range(logit)]
    for c, g in enumerate(arriving):
        assert g is not None
        g[:, c] = 1
    for number, (edge, members) in enumerate(parts):
        after = parts[number + 1][0] if number + 1 < len(parts) else None
        runs = _runs(members, sizes, total.memory)
        for run in runs:
            last = run is runs[-1]
            wanted = [noted[i].edge for i in run]
            if last and after is not None:
                wanted.append(after)
            for c in range(logit):
                keep = not (last and c == logit - 1)  # else the activations of this section are let go
                found: Sequence[Tensor | None] = [None] * len(wanted)
                if arriving[c] is not None:
                    found = torch.autograd.grad([edge], wanted, [arriving[c]], retain_graph=keep, allow_unused=True)
                with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
                    for i, g in zip(run, found, strict=False):
                        _receive(noted[i], c, g, total)
                if last:
                    arriving[c] = found[-1] if after is not None else None
                del found
            settled([noted[i] for i in run])


def _runs(members: Sequence[int], sizes: Sequence[int], memory: int) -> list[list[int]]:
    """The uses of a section in as many backward passes as memory asks for."""
    runs: list[list[int]] = []
    room = 0
    for i in members:
        if runs and sizes[i] <= room:
            runs[-1].append(i)
            room -= sizes[i]
        else:
            runs.append([i])
            room = memory - sizes[i]
    return runs


def _units(noted: list[Noted]) -> list[list[Noted]]:
    """Uses that share a weight belong together."""
    units: list[list[Noted]] = []
    place: dict[tuple[int, str], list[Noted]] = {}
    for use in noted:
        joined = [use]
        for unit in {id(place[slot]): place[slot] for slot in use.slots.values() if slot in place}.values():
            joined = unit + joined
            units = [u for u in units if u is not unit]
        units.append(joined)
        for member in joined:
            place.update(dict.fromkeys(member.slots.values(), joined))
    return units


def _decide(unit: list[Noted], total: Gram) -> None:
    """Whether a use's weight gradients are formed at once, one logit at a time."""
    use = unit[0]
    if len(unit) > 1 or use.call is not None:
        return
    size, entries = math.prod(use.shape), sum(use.widths.values())
    tight = total.count * total.logits * total.size * size > total.memory
    plain = use.rule.gram is None or use.folded
    use.reduce = entries <= (size if plain or tight else size / _SMALL)


def _receive(use: Noted, logit: int, g: Tensor | None, total: Gram) -> None:
    """Keep what arrived for one logit; None where the logit does not depend on the use."""
    if g is None:
        if use.kept is not None:
            use.kept[:, logit] = 0
        return
    g = upcast(use.layout.examples(g.detach(), total.count))
    if use.reduce:
        x = use.inputs(total.count, g.dtype)
        each = 4 * g.element_size() * math.prod(use.shape)
        parts = pieces(total.count, each, g.device)
        g = torch.cat([use.gradients(x[part], g[part], list(use.slots)) for part in parts])
    if use.kept is None:
        shape = (len(g), total.logits, *g.shape[1:])
        use.kept = (torch.zeros if logit else torch.empty)(shape, dtype=total.dtype, device=total.total.device)
    use.kept[:, logit] = g


def _share(
    unit: list[Noted], total: Gram, plan: Plan, parameters: dict[int, nn.Parameter], notes: Notes
) -> None:  # fmt: skip
    """Add the share of the weights that these uses have in common, and let their gradients go."""
    live = [use for use in unit if use.kept is not None]
    if live and live[0].call is not None:
        _run_again(live, total, {n: parameters[n].detach() for n in plan.local[live[0].where].parameters}, notes)
    elif live and live[0].reduce:
        assert live[0].kept is not None
        total.add_rows(live[0].kept)
    else:
        slots: dict[tuple[int, str], list[tuple[Noted, str]]] = {}
        for use in live:
            for name, slot in use.slots.items():
                slots.setdefault(slot, []).append((use, name))
        single = [(use, name) for users in slots.values() if len(users) == 1 for use, name in users]
        for use in live:
            names = [name for other, name in single if other is use]
            if names:
                _add([use], names, total)
        for users in slots.values():
            if len(users) > 1:
                _add([use for use, _ in users], [name for _, name in users], total)
    for use in unit:
        use.kept = use.x = None


def _add(uses: list[Noted], names: list[str], total: Gram) -> None:
    """Several parameters of one use, or one parameter of several uses, called `names` there."""
    first, count = uses[0], total.count
    sides = [(use.inputs(count, total.dtype), use.kept) for use in uses]
    if len(uses) == 1 and first.rule.gram is not None and not first.folded:
        x, kept = sides[0]
        assert kept is not None
        first.rule.gram(first.module, x, kept, names, total)
        return
    alike = all(use.rule is first.rule and use.module is first.module for use in uses)
    alike = alike and not getattr(first.module, "scale_grad_by_freq", False)  # frequencies are a call's own
    if len(uses) > 1 and alike and first.rule.gram is not None and first.rule.positions:
        # The same layer at more positions: one use on all of them.
        xs = [x.reshape(count, -1, x.shape[-1]) if x.is_floating_point() else x.reshape(count, -1) for x, _ in sides]
        gs = [g.reshape(count, total.logits, -1, g.shape[-1]) for _, g in sides if g is not None]
        first.rule.gram(first.module, torch.cat(xs, 1), torch.cat(gs, 2), names[:1], total)
        return

    def form(logit: int, part: slice) -> Tensor:
        rows: list[Tensor] = []
        for i, (use, (x, g)) in enumerate(zip(uses, sides, strict=True)):
            assert g is not None
            wanted = names if len(uses) == 1 else [names[i]]
            x = x if use.rule is COPIED else x[part]
            rows.append(use.gradients(x, g[part, logit], wanted))
        return torch.stack(rows).sum(0) if len(rows) > 1 else rows[0]

    each = max(use.layout.fold * max(use.widths.values()) for use in uses)
    total.add_formed(form, 2 * each * total.size)


def _run_again(live: list[Noted], total: Gram, weights: Weights, notes: Notes) -> None:
    calls = notes.recalls[live[0].where]
    for call in calls:
        call.check(f"layer {live[0].where}")

    def form(logit: int, part: slice) -> Tensor:
        for use in live:
            assert use.kept is not None
            assert use.call is not None
            call, i = use.call
            # Where the module has its batch dimension.
            call.cotangents[i] = use.kept[:, logit].movedim(0, use.layout.dim)
        found = module_gradients(calls, weights, part)
        return torch.cat([upcast(found[n]).reshape(len(found[n]), -1) for n in weights], 1)

    total.add_formed(form)
