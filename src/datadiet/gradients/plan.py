"""Where the examples are in every layer's input, and which parameters need more than a rule: found by trying.

The model is run on two and on three of the examples. A dimension that grew is the batch; one that grew by a multiple
holds the batch folded with something else (windows, frames), and comparing values tells which of the two varies
faster. A layer whose input did not grow computes something that all examples share (position embeddings). Values
that changed because a third example came along betray a model that mixes examples. Uses of a parameter outside the
layer that owns it are seen on the way. The plan is kept with the model and costs nothing the next time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from datadiet.errors import DatadietError
from datadiet.gradients.attention import COPIED
from datadiet.gradients.capture import Ruled, Use
from datadiet.gradients.trial import Call, Forward, Pass, trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Where the examples are in a tensor: dimension `dim`, of size B·fold, the example varying slowest if `major`."""

    dim: int
    fold: int = 1
    major: bool = True

    def fits(self, shape: Sequence[int], count: int) -> bool:
        return len(shape) > self.dim and shape[self.dim] == count * self.fold

    def examples(self, t: Tensor, count: int) -> Tensor:
        """The tensor with examples first, (B, ...), or (B, fold, ...)."""
        if self.fold > 1:
            t = t.unflatten(self.dim, (count, self.fold) if self.major else (self.fold, count))
            return t.movedim(self.dim if self.major else self.dim + 1, 0)
        return t.movedim(self.dim, 0) if self.dim else t


FIRST = Layout(0)


@dataclass
class Local:
    """A module whose own parameters are differentiated by running it again, an example at a time.

    `inputs` and `outputs` give, for each call, the batch dimension of each flattened tensor, or None.
    """

    parameters: list[int]
    inputs: list[list[int | None]]
    outputs: list[list[int | None]]


@dataclass
class Plan:
    """How each parameter's share of the norm is computed.

    Args:
        layouts: use -> where its examples are; None for a use that all examples share.
        by_rule: ids of the parameters whose uses are all covered by rules.
        copied: (module, name) of parameters that are handed out as one copy an example.
        local: module -> its parameters that fall back on running it again.
        whole: ids of the parameters for which the whole model is run again.
        known: ids of all these; a use of another was not seen in the trials.
        mixed: numbers of the model's outputs that are of the whole batch, where others are of one example.
    """

    layouts: dict[str, Layout | None]
    by_rule: set[int]
    copied: list[tuple[str, str]]
    local: dict[str, Local]
    whole: list[int]
    known: set[int] = field(default_factory=set)
    mixed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.known |= self.by_rule.union(self.whole, *(local.parameters for local in self.local.values()))

    def unmet(self, parameters: Mapping[int, nn.Parameter]) -> dict[int, nn.Parameter]:
        """Those that the trials did not see in use; mostly none."""
        return {number: p for number, p in parameters.items() if number not in self.known}

    def meet(self, gradients: Mapping[int, Tensor | None]) -> None:
        """Of the unmet, those that have a gradient: the examples of the trials did without them, these do not."""
        found = [number for number, g in gradients.items() if g is not None]
        self.known.update(found)
        self.whole.extend(found)

    def give_up(self, number: int, places: Sequence[tuple[str, str]]) -> None:
        """Leave a parameter, which has these (module, name), to running the whole model."""
        self.by_rule.discard(number)
        self.copied = [place for place in self.copied if place not in places]
        for where, local in list(self.local.items()):
            if number in local.parameters:
                local.parameters.remove(number)
            if not local.parameters:
                del self.local[where]
        self.known.add(number)
        self.whole.append(number)


def _grown(a: Sequence[int], b: Sequence[int], counts: tuple[int, int]) -> tuple[int, int] | str | None:
    """(dimension, fold) that follows the batch, None if nothing grew, or why it is neither."""
    if len(a) != len(b):
        return "its rank varies"
    moved = [i for i, (m, n) in enumerate(zip(a, b, strict=True)) if m != n]
    if not moved:
        return None
    if len(moved) > 1:
        return "two dimensions vary with the batch"
    at = moved[0]
    fold = a[at] // counts[0]
    if fold < 1 or a[at] != fold * counts[0] or b[at] != fold * counts[1]:
        return "its size is no multiple of the batch"
    return at, fold


def close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    share = 2e-3 if torch.finfo(a.dtype).eps < 1e-6 and not torch.is_autocast_enabled(a.device.type) else 0.1
    a, b = a.float(), b.float()
    finite = a[torch.isfinite(a)]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=share, atol=share * max(size, 1e-30), equal_nan=True)


def _settle(small: Use, large: Use, counts: tuple[int, int]) -> Layout | str | None:
    """The layout of one use, None if all examples share it, or why no rule can take it."""
    grown = _grown(small.output.shape, large.output.shape, counts)
    if isinstance(grown, str):
        return grown
    if small.rule is COPIED:
        return Layout(*grown) if grown else "a copy an example does not follow the batch"
    if _grown(small.x.shape, large.x.shape, counts) != grown:
        return "input and output do not have the batch in the same place"
    if grown is None:
        return None
    dim, fold = grown
    if dim > 0 and not small.rule.positions:
        return f"the batch is in dimension {dim}"
    fits = []
    for major in (True, False) if fold > 1 else (True,):
        layout = Layout(dim, fold, major)
        a, b = layout.examples(small.x, counts[0]), layout.examples(large.x, counts[1])
        if close(a, b[: counts[0]]):
            fits.append(layout)
    if not fits:
        where = small.key.split("/")[0] or "the model"
        raise DatadietError(
            "the network mixes examples: what reaches this layer for one example changes with the others in the "
            "batch, or from run to run", where=f"layer {where}",
            fix="a gradient of one example is not defined there; use layers that treat examples apart",
        )  # fmt: skip
    return fits[0] if len(fits) == 1 else "the order of examples in its input cannot be told"


def make_plan(model: nn.Module, run: Forward, few: Any, more: Any, targets: dict[int, str], ruled: list[Ruled]) -> Plan:
    """Find out how each parameter's share is computed.

    Args:
        run: inputs -> output of the model.
        few, more: inputs of two and of three examples, the first two the same.
        targets: id of each parameter of interest to its name.
        ruled: the modules that rules cover.
    """
    counts = (2, 3)
    for item in ruled:
        reason = item.rule.mixes(item.module)
        if reason:
            raise DatadietError(
                f"this {type(item.module).__name__} mixes examples: {reason}", where=f"layer {item.name or 'model'}",
                fix='use mode="eval", or a norm that looks at one example at a time',
            )  # fmt: skip
    # Trials compare values, so nothing may be drawn in them, whatever the mode of the pass.
    for module in model.modules():
        module.training = False
    try:
        small = trial(model, run, few, counts[0], targets, ruled)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        first = str(error).strip().split("\n")[0]
        raise DatadietError(
            f"the model does not accept these inputs: {type(error).__name__}: {first}", where="inputs",
            fix="pass inputs as the model takes them, or forward=lambda model, inputs: …",
        ) from error  # fmt: skip
    large = trial(model, run, more, counts[1], targets, ruled)
    if small.uses.keys() != large.uses.keys() or small.calls.keys() != large.calls.keys():
        raise _unsteady()

    layouts: dict[str, Layout | None] = {}
    unfit: dict[int, str] = {}
    uses: dict[int, list[Use]] = {}
    for key, use in small.uses.items():
        settled = _settle(use, large.uses[key], counts)
        for parameter, _ in use.owned.values():
            uses.setdefault(id(parameter), []).append(use)
            if isinstance(settled, str):
                unfit[id(parameter)] = settled
        if not isinstance(settled, str):
            layouts[key] = settled
    for found in (small.strays, large.strays):
        for number in found:
            unfit.setdefault(number, "no rule covers this use of it")
    for number, found_uses in uses.items():
        parts = {part for use in found_uses for p, part in use.owned.values() if id(p) == number}
        if len(parts) > 1 and not parts <= {"q", "k", "v"}:
            unfit[number] = "it is used as a whole and in parts"

    copies = _copies(model, targets, unfit, small)
    shared = {key for key, layout in layouts.items() if layout is None}
    shared = {k for k in shared if any(id(p) not in unfit for p, _ in small.uses[k].owned.values())}
    accepted = _try_copies(model, run, more, large, targets, ruled, shared, copies)
    for key in shared - accepted[0]:
        for parameter, _ in small.uses[key].owned.values():
            unfit[id(parameter)] = "all examples share its output"
    for _, _, number in accepted[1]:
        unfit.pop(number, None)

    by_rule = {number for number in targets if number not in unfit and (number in uses)}
    by_rule |= {number for _, _, number in accepted[1]}
    local, whole = _fall_back(model, targets, unfit, uses, small, large)
    return Plan(layouts, by_rule, [(m, n) for m, n, _ in accepted[1]], local, whole)


def _unsteady() -> DatadietError:
    return DatadietError(
        "the network runs other layers for two examples than for three", where="model",
        fix="a gradient of one example needs a network that treats examples alike; pass chunk=1",
    )  # fmt: skip


def _copies(model: nn.Module, targets: dict[int, str], unfit: dict[int, str], seen: Pass) -> list[tuple[str, str, int]]:
    """Parameters without a rule that look as if they were broadcast over the batch: class tokens, positions."""
    found = []
    for where, module in model.named_modules():
        for name, p in module._parameters.items():
            if p is None or id(p) not in targets or id(p) not in seen.strays or p.dim() < 2 or p.shape[0] != 1:
                continue
            if all(stack and stack[-1] == where for stack in seen.strays[id(p)]) and id(p) in unfit:
                found.append((where, name, id(p)))
    return found


def _try_copies(
    model: nn.Module, run: Forward, inputs: Any, plain: Pass, targets: dict[int, str], ruled: list[Ruled],
    shared: set[str], copies: list[tuple[str, str, int]],
) -> tuple[set[str], list[tuple[str, str, int]]]:  # fmt: skip
    """Those of the shared uses and broadcast parameters that may be expanded without changing any result."""

    def same(keys: set[str], names: list[tuple[str, str, int]]) -> bool:
        try:
            run_again = trial(model, run, inputs, plain.count, targets, ruled, keys, [(m, n) for m, n, _ in names])
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, DatadietError) as error:
            log.debug("not expanded over the batch: %s", error)
            return False
        outputs = (_tensors(run_again.output), _tensors(plain.output))
        return run_again.uses.keys() == plain.uses.keys() and all(close(a, b) for a, b in zip(*outputs, strict=True))

    if (not shared and not copies) or same(shared, copies):
        return shared, copies
    return {k for k in shared if same({k}, [])}, [c for c in copies if same(set(), [c])]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _fall_back(
    model: nn.Module, targets: dict[int, str], unfit: dict[int, str], uses: dict[int, list[Use]], small: Pass,
    large: Pass,
) -> tuple[dict[str, Local], list[int]]:  # fmt: skip
    """The smallest module around all uses of a parameter that treats examples apart, or else the whole model."""
    local: dict[str, Local] = {}
    whole: list[int] = []
    for number, reason in unfit.items():
        stacks = [use.stack for use in uses.get(number, [])]
        stacks += small.strays.get(number, []) + large.strays.get(number, [])
        around = list(_common(stacks))
        dims = None
        while around and around[-1] != "":
            dims = _call_dims(small.calls.get(around[-1], []), large.calls.get(around[-1], []), (2, 3))
            if dims is not None:
                break
            around.pop()
        if dims is None or not around or around[-1] == "":
            whole.append(number)
            place = "the whole network"
        else:
            place = f"layer {around[-1]}"
            local.setdefault(around[-1], Local([], *dims)).parameters.append(number)
        kind = type(_owner(model, targets[number])).__name__
        log.info(
            "%s (%s): %s; its gradient is computed by running %s for each example", targets[number], kind, reason, place
        )
    return local, whole


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _common(stacks: list[tuple[str, ...]]) -> tuple[str, ...]:
    if not stacks:
        return ()
    shortest = min(stacks, key=len)
    for i, name in enumerate(shortest):
        if any(stack[i] != name for stack in stacks):
            return shortest[:i]
    return shortest


def _call_dims(
    small: list[Call], large: list[Call], counts: tuple[int, int]
) -> tuple[list[list[int | None]], list[list[int | None]]] | None:
    """The batch dimension of every tensor of every call, or None if some call does not treat examples apart."""
    if not small or len(small) != len(large):
        return None
    inputs, outputs = [], []
    for a, b in zip(small, large, strict=True):
        sides = []
        for left, right in ((a.inputs, b.inputs), (a.outputs, b.outputs)):
            if len(left) != len(right):
                return None
            dims: list[int | None] = []
            for m, n in zip(left, right, strict=True):
                if (m is None) != (n is None):
                    return None
                grown = None if m is None or n is None else _grown(m, n, counts)
                if isinstance(grown, str) or (grown is not None and grown[1] != 1):
                    return None
                dims.append(None if grown is None else grown[0])
            sides.append(dims)
        if all(d is None for d in sides[0]) or any(
            d is None and shape is not None for d, shape in zip(sides[1], a.outputs, strict=True)
        ):
            return None
        inputs.append(sides[0])
        outputs.append(sides[1])
    return inputs, outputs
