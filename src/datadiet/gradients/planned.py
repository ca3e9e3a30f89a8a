"""A model's plan: made once for inputs of these shapes, proven on three examples, and kept with the model.

A plan rests on what a few trials show. Whether its pass then gives the gradients that plain differentiation gives is
tried out before it is used: where a parameter's does not, that parameter goes to the plain way, which is right for any
network that treats examples apart.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from datadiet.errors import DatadietError
from datadiet.gradients.capture import Ruled, Walk
from datadiet.gradients.engine import run_pass, upcast
from datadiet.gradients.fallback import swapped
from datadiet.gradients.plan import Plan, close, make_plan

log = logging.getLogger(__name__)

Run = Callable[[Any], Any]
_plans: weakref.WeakKeyDictionary[nn.Module, dict[Any, Plan]] = weakref.WeakKeyDictionary()
_KEPT = 16
_TRIED = 3  # examples
_MEMORY = 2**28


def plan_for(
    model: nn.Module, run: Run, rows: Callable[[Tensor], Any], count: int, targets: dict[int, str], walk: Walk,
    ruled: list[Ruled], forward: Callable[..., Any] | None,
) -> Plan:  # fmt: skip
    """The model's plan for inputs of these shapes, made on the first need.

    Args:
        rows: row numbers -> inputs of these examples, of which there are `count`.
    """
    few = rows(torch.arange(2) % count)
    leaves = tree_leaves(few)
    device = next((t.device.type for t in leaves if isinstance(t, Tensor)), "cpu")
    # Names and ids only: a plan must not keep its model alive.
    signature = (
        tuple((tuple(t.shape), t.dtype, t.device) if isinstance(t, Tensor) else repr(t) for t in leaves),
        tuple(targets.items()), tuple((id(m), type(m).__name__, m.training) for _, m in walk),
        tuple((item.name, id(item.rule)) for item in ruled), _identity(forward), torch.is_autocast_enabled(device),
    )  # fmt: skip
    kept = _plans.setdefault(model, {})
    if signature not in kept:
        _refuse_scripted(walk)
        if len(kept) >= _KEPT:
            kept.pop(next(iter(kept)))
        modes = [(m, m.training) for _, m in walk]
        try:
            with torch.random.fork_rng(devices=_devices(device)):
                plan = make_plan(model, run, few, rows(torch.arange(3) % count), targets, ruled)
                # From the end to the beginning: other examples, and another order than the trials had.
                _prove(model, plan, run, rows, [count - 1, count // 2, 0], targets, walk, ruled)
        finally:
            for module, mode in modes:
                module.training = mode
        kept[signature] = plan
    return kept[signature]


def _prove(
    model: nn.Module, plan: Plan, run: Run, rows: Callable[[Tensor], Any], picks: list[int], targets: dict[int, str],
    walk: Walk, ruled: list[Ruled],
) -> None:  # fmt: skip
    """Move to `plan.whole` every parameter whose norms the pass gets otherwise than plain differentiation does."""
    parameters = {id(p): p for _, m in walk for p in m._parameters.values() if p is not None and id(p) in targets}
    tried = {n: p for n, p in parameters.items() if n not in plan.whole}
    if not tried:
        return
    inputs, all_of_them = rows(torch.tensor(picks)), list(range(_TRIED))
    first = next(iter(tried.values()))
    aside: set[int] = set()  # outputs

    def losses(given: Any, places: list[int]) -> list[Tensor]:
        """Of each example, a sum of its outputs by weights that are drawn; `places` are theirs among the three."""
        draws = torch.Generator().manual_seed(0)  # the CPU's, whatever device is the process's default
        sums = [torch.zeros((), dtype=first.real.dtype, device=first.device)] * len(places)
        for i, leaf in enumerate(tree_leaves(run(given))):
            if i not in aside and _has_rows(leaf, len(places)):
                drawn = torch.randn(_TRIED, *leaf.shape[1:], generator=draws, device="cpu")[places]
                weighted = upcast(leaf) * drawn.to(leaf.device)
                sums = [before + part.sum() for before, part in zip(sums, weighted.unbind(), strict=True)]
        return sums

    def plainly(given: Any, places: list[int]) -> Tensor:
        """(parameters, examples) norms by plain differentiation."""
        plain = {number: p.detach().requires_grad_() for number, p in tried.items()}
        with swapped(model, plain):
            ends = losses(given, places)
        rows = []
        for end in ends:
            found: Any = [None] * len(plain)
            if end.requires_grad:
                found = torch.autograd.grad(end, list(plain.values()), retain_graph=True, allow_unused=True)
            rows.append(torch.stack([_norm(g) for g in found]))
        return torch.stack(rows, 1)

    def by_plan(wanted: Tensor) -> Tensor:
        """The same by the plan's pass; a parameter that the pass meets and leaves to the plain way is right."""
        squared = run_pass(
            model, plan, targets, parameters, _TRIED, _MEMORY, ruled,
            lambda: torch.stack(losses(inputs, all_of_them)).sum(), first.device, first.dtype,
        )  # fmt: skip
        none = torch.zeros(_TRIED, dtype=torch.float64, device="cpu")
        had = [squared.get(number, none).cpu().double().sqrt() for number in tried]
        return torch.stack([wanted[i] if number in plan.whole else had[i] for i, number in enumerate(tried)])

    try:
        wanted = plainly(inputs, all_of_them)
    except (RuntimeError, TypeError, ValueError) as error:
        log.debug("the plan was not proven, plain differentiation fails: %s", error)
        return
    had = by_plan(wanted)
    mixed = torch.is_autocast_enabled(first.device.type) or first.dtype in (torch.float16, torch.bfloat16)
    share, floor = (0.1, 0.1) if mixed else (1e-8, 1e-2) if first.dtype == torch.float64 else (1e-3, 1e-2)
    allowed = share * torch.maximum(wanted, floor * wanted.square().sum(0).sqrt())
    if not ((had - wanted).abs() > allowed).any():
        return
    singles, single = [rows(torch.tensor([pick])) for pick in picks], None
    try:  # alone, which is what counts; a batch of three was cheaper, and is free of other kernels' rounding
        aside, plan.mixed = _set_aside(run, inputs, singles)
        single = torch.cat([plainly(given, [i]) for i, given in enumerate(singles)], 1)
    except (RuntimeError, TypeError, ValueError) as error:
        log.debug("it takes no batch of one: %s", error)
    if aside:
        wanted = plainly(inputs, all_of_them)
        had = by_plan(wanted)
        allowed = share * torch.maximum(wanted, floor * wanted.square().sum(0).sqrt())
    single = wanted if single is None else single
    wrong = ((had - single).abs() > 10 * allowed).any(1)
    if wrong.any() and ((single - wanted).abs() > 10 * allowed + 1e-2 * wanted).any():
        raise _mixes()
    for number, is_wrong in zip(tried, wrong.tolist(), strict=True):
        if is_wrong:
            log.info("%s: its use is not understood; the whole network is run for each example", targets[number])
            plan.give_up(number, [(w, n) for w, m in walk for n, p in m._parameters.items() if id(p) == number])


@torch.no_grad()
def _set_aside(run: Run, inputs: Any, singles: list[Any]) -> tuple[set[int], set[int]]:
    """Numbers of the outputs that are not an example's own, and of those among them that only look so.

    A network may return similarities (B, B), say, beside its logits; whether that matters is for the loss to tell.
    Where no output is an example's own, the network mixes examples, and none is set aside.
    """
    own, other, mixed = set(), set(), set()
    outputs = [tree_leaves(run(given)) for given in (inputs, *singles)]
    if len({len(leaves) for leaves in outputs}) > 1:
        return set(), set()
    for i, (leaf, *alone) in enumerate(zip(*outputs, strict=True)):
        if not _has_rows(leaf, len(singles)) or not all(_has_rows(row, 1) for row in alone):
            other.add(i)
        elif all(close(leaf[k : k + 1], row) for k, row in enumerate(alone)):
            own.add(i)
        else:
            mixed.add(i)
    return (other | mixed, mixed) if own else (set(), set())


def _has_rows(leaf: Any, count: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() > 0 and len(leaf) == count


def guarded(outputs: Any, mixed: set[int]) -> Any:
    """The outputs for a loss, which may not use those with these numbers: they are not an example's own."""
    leaves, spec = tree_flatten(outputs)
    for i in mixed:
        if i < len(leaves) and isinstance(leaves[i], Tensor) and leaves[i].requires_grad:
            leaves[i] = leaves[i].view_as(leaves[i])  # what else in the network uses it may do so
            leaves[i].register_hook(_refuse)
    return tree_unflatten(leaves, spec)


def _refuse(g: Tensor) -> None:
    if bool(g.any()):
        raise _mixes()


def _mixes() -> DatadietError:
    return DatadietError(
        "the network mixes examples: the gradient of one in a batch is not that of the example alone", where="model",
        fix="a gradient of one example is not defined there; use layers that treat examples apart",
    )  # fmt: skip


def _norm(g: Tensor | None) -> Tensor:
    if g is None:
        return torch.zeros((), dtype=torch.float64, device="cpu")
    return torch.linalg.vector_norm(upcast(g.detach()).cpu().to(torch.complex128 if g.is_complex() else torch.float64))


def _refuse_scripted(walk: Walk) -> None:
    for name, module in walk:
        if isinstance(module, torch.jit.ScriptModule):
            raise DatadietError(
                "a scripted or traced network hides what its layers do", where=f"layer {name or 'model'}",
                fix="pass the network that it was made from",
            )  # fmt: skip


def _identity(forward: Any) -> object:
    """What tells one function from another: its code, and what is bound to it."""
    cells = [cell.cell_contents for cell in getattr(forward, "__closure__", None) or ()]
    defaults = [
        *(getattr(forward, "__defaults__", None) or ()),
        *(getattr(forward, "__kwdefaults__", None) or {}).values(),
    ]
    bound = [value if isinstance(value, (bool, int, float, str)) else id(value) for value in (*cells, *defaults)]
    return getattr(forward, "__code__", id(forward)), tuple(bound)


def _devices(kind: str) -> list[int]:
    return list(range(torch.cuda.device_count())) if kind == "cuda" else []
