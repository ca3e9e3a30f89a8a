"""One trial run of a model on a few examples: every use, every call, every use of a parameter elsewhere is noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from datadiet.gradients.capture import Ruled, StrayUses, Use, Watch, watching

Forward = Callable[[Any], Any]


@dataclass
class Call:
    """One call of a module: its tensors' shapes, flattened."""

    inputs: list[tuple[int, ...] | None]
    outputs: list[tuple[int, ...] | None]


@dataclass
class Pass:
    """What one trial run showed."""

    count: int
    uses: dict[str, Use] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    strays: dict[int, list[tuple[str, ...]]] = field(default_factory=dict)
    output: Any = None


@torch.no_grad()
def trial(
    model: nn.Module, run: Forward, inputs: Any, count: int, targets: dict[int, str], ruled: list[Ruled],
    shared: set[str] = frozenset(), copied: Sequence[tuple[str, str]] = (),  # type: ignore[assignment]
) -> Pass:  # fmt: skip
    """Run the model on `count` examples and note every use; `shared` uses and `copied` parameters are expanded."""
    seen = Pass(count)

    def sink(use: Use) -> Tensor:
        output = use.output
        # Values are compared later, when in-place operations have passed over them; of outputs only shapes are.
        use.x, use.output = use.x.detach().clone(), torch.empty_like(output, device="meta")
        seen.uses[use.key] = use
        return expand(output, count) if use.key in shared else output

    covered = {item.name: {id(p) for p, _ in item.owned.values()} for item in ruled}
    handles = []
    with watching(model, ruled, sink) as watch, handed_out(model, copied, count, lambda p, where: p):
        mode = StrayUses(targets, covered, watch.stack)
        try:
            for name, module in model.named_modules():
                # Hooks in this order: the stack must hold a module while its own use is noted.
                handles += _follow(name, module, watch, seen)
            with mode:
                seen.output = run(inputs)
        finally:
            for handle in handles:
                handle.remove()
    seen.strays = mode.found
    return seen


def _follow(name: str, module: nn.Module, watch: Watch, seen: Pass) -> list[Any]:
    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        watch.stack.append(name)

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if watch.stack and watch.stack[-1] == name:
            watch.stack.pop()
        seen.calls.setdefault(name, []).append(Call(shapes((args, kwargs)), shapes(output)))

    return [
        module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True),
        module.register_forward_hook(leave, with_kwargs=True, always_call=True),
    ]


class handed_out:
    """While it lasts, attributes that are parameters of leading size 1 are their copies for `count` examples."""

    def __init__(
        self, model: nn.Module, names: Sequence[tuple[str, str]], count: int, wrap: Callable[[Tensor, Any], Tensor]
    ) -> None:
        self.places = [(model.get_submodule(m), m, n) for m, n in names]
        self.count, self.wrap = count, wrap

    def __enter__(self) -> None:
        for module, where, name in self.places:
            parameter = module._parameters[name]
            assert parameter is not None
            copies = parameter.detach().expand(self.count, *parameter.shape[1:])
            module.__dict__[name] = self.wrap(copies, (where, name, parameter))

    def __exit__(self, *problem: object) -> None:
        for module, _, name in self.places:
            module.__dict__.pop(name, None)


def expand(t: Tensor, count: int) -> Tensor:
    """What all examples share, once for each: (1, ...) -> (B, ...), or (...) -> (B, ...)."""
    return t.expand(count, *t.shape[1:]) if t.dim() and t.shape[0] == 1 else t.expand(count, *t.shape)


def shapes(tree: Any) -> list[tuple[int, ...] | None]:
    return [tuple(leaf.shape) if isinstance(leaf, Tensor) else None for leaf in tree_leaves(tree)]
