"""What a layer kind must say to take part in the gradient engine, and the registry of all that have said it.

A layer y = f(x; w) sees its input x and the gradient g = dL/dy once per pass. For most kinds both the norm of one
example's dL/dw and inner products between examples follow from (x, g) without ever building the gradients. A rule
holds that algebra; the engine in `engine.py` decides when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datadiet.registry import Registry

Algebra = Callable[[Any, Tensor, Tensor, Sequence[str]], dict[str, Tensor]]


@dataclass(frozen=True)
class Rule:
    """The algebra of one layer kind. x and g come with the example in dimension 0, both float32 or float64.

    Args:
        gradients: `(module, x, g, names) -> {name: (B, *shape of the parameter)}`, the gradients themselves; used
            where a weight serves more than once and for the check of a new rule.
        norms: `(module, x, g, names) -> {name: (B,)}`, squared norms; default: from `gradients`.
        gram: `(module, x, g, names, total)`, with g (B, C, ...) of all C logits: adds the inner products of all
            gradients of logits to the matrix `total` (see gram_matrix.py); default: from `gradients`.
        names: the parameters that it covers, dotted for those of a child.
        positions: whether dimensions between the example and the features are summed over by the rule itself (as in
            a linear layer on sequences); otherwise the layer's input is exactly one item per example.
        applies: `(module) -> bool`, where one class has variants that the algebra does not cover.
        mixes: `(module) -> str | None`, the reason why this module, as it is set, mixes examples.
        through: `(module, x, g, names) -> (gradient at the input, as gradients)`, for kinds that give both in one pass
            over memory; only for x that `whole` accepts.
        whole: `(module, x) -> bool`.
        forward: `(module, tap, args, kwargs) -> output`, for kinds that are made of several uses; calls
            `tap(rule, x, output, {local name: (parameter, part)}, label)` for each and goes on with what it returns.
    """

    gradients: Algebra | None = None
    norms: Algebra | None = None
    gram: Callable[[Any, Tensor, Tensor, Sequence[str], Any], None] | None = None
    names: tuple[str, ...] = ("weight", "bias")
    positions: bool = False
    applies: Callable[[Any], bool] = lambda module: True
    mixes: Callable[[Any], str | None] = lambda module: None
    through: Callable[[Any, Tensor, Tensor, Sequence[str]], tuple[Tensor, dict[str, Tensor]]] | None = None
    whole: Callable[[Any, Tensor], bool] = lambda module, x: True
    forward: Callable[..., object] | None = None


RULES: Registry[Rule] = Registry("gradient rule")


def class_name(kind: type) -> str:
    """The name under which a module class is registered: `torch.nn.modules.linear.Linear`."""
    return f"{kind.__module__}.{kind.__qualname__}"


def register_rule(kind: type[nn.Module] | str, rule: Rule) -> None:
    """Teach the engine a layer kind.

    Args:
        kind: the module class, or its full name as text where importing it would cost too much.
        rule: its algebra. Subclasses that keep the class's `forward` are covered too.
    """
    RULES.register(kind if isinstance(kind, str) else class_name(kind), rule)


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of a module: that of its class, or of the nearest base class whose computation it did not change."""
    if "forward" in module.__dict__:
        return None  # replaced on the instance; what it does now is not what the rule knows
    found = _known_base(type(module))
    if found is None or any(_changed(type(module), found[0], method) for method in ("forward", "_conv_forward")):
        return None
    return found[1] if found[1].applies(module) else None


_bases: tuple[int, dict[type, tuple[type, Rule] | None]] = (0, {})


def _known_base(kind: type) -> tuple[type, Rule] | None:
    """The nearest of a class and its bases that has a rule; looked up once, until rules are added."""
    global _bases
    if _bases[0] != len(RULES):
        _bases = (len(RULES), {})
    if kind not in _bases[1]:
        bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
        named = ((base, class_name(base)) for base in bases)
        _bases[1][kind] = next(((base, RULES.get(name)) for base, name in named if name in RULES), None)
    return _bases[1][kind]


def _changed(kind: type, base: type, method: str) -> bool:
    return getattr(kind, method, None) is not getattr(base, method, None)


def square_sum(t: Tensor) -> Tensor:
    """(B, ...) -> (B,): the squared norm of each row."""
    flat = t.reshape(t.shape[0], -1)
    found = torch.linalg.vecdot(flat, flat)
    return found.real if found.is_complex() else found


def pieces(total: int, bytes_each: float, device: torch.device) -> Iterator[slice]:
    """Slices over `total` examples whose temporaries stay near the cache (CPU) or within a modest buffer (others)."""
    room = 2**22 if device.type == "cpu" else 2**28
    step = max(1, min(total, int(room // max(bytes_each, 1))))
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def gather(parts: Iterable[Tensor]) -> Tensor:
    """Concatenate per-example pieces."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts)
