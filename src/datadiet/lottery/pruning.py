"""From trained weights and the mask they were trained under to the next mask: which weights go.

Each rule removes an exact number of the weights that are left: ⌈fraction · n⌉, of all layers together or of each one.
Among weights of the same magnitude a fixed draw decides, not their place, so that a layer that comes first does not
lose more. Weights in exempt layers neither count nor go.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from datadiet.errors import DatadietError, unknown
from datadiet.registry import Registry
from datadiet.seeds import stream
from datadiet.training.masks import Mask

log = logging.getLogger(__name__)

# (magnitudes of each layer's weights that are left, fraction, rng) -> of each layer the places that go
Rule = Callable[[Sequence[np.ndarray], Fraction, np.random.Generator], list[np.ndarray]]
RULES: Registry[Rule] = Registry("pruning rule")
FRACTION = 0.2  # the papers' part of the weights that goes at each level


def removed(count: int, fraction: Fraction) -> int:
    """How many of `count` weights go: rounded up."""
    return math.ceil(fraction * count)


def remaining(count: int, fraction: float, levels: int) -> list[int]:
    """Weights that are left at levels 0 to `levels` of `count` weights, where all layers are pruned together."""
    part = as_fraction(fraction)
    out = [count]
    for _ in range(levels):
        out.append(out[-1] - removed(out[-1], part))
    return out


def as_fraction(fraction: float) -> Fraction:
    """The decimal that was written, not the binary number next to it: 0.1 of 30 is 3."""
    try:
        part = Fraction(str(fraction))
    except (ValueError, ZeroDivisionError):
        part = Fraction(0)
    if not 0 < part < 1:
        raise DatadietError(f"a part of {fraction} is pruned", where="--fraction", fix="more than 0 and less than 1")
    return part


@RULES.register("magnitude")
def magnitude(layers: Sequence[np.ndarray], fraction: Fraction, rng: np.random.Generator) -> list[np.ndarray]:
    """The smallest of all layers together."""
    together = np.concatenate(layers)
    return _split(_smallest(together, removed(len(together), fraction), rng), layers)


@RULES.register("layerwise")
def layerwise(layers: Sequence[np.ndarray], fraction: Fraction, rng: np.random.Generator) -> list[np.ndarray]:
    """The smallest of each layer, the same part of every one."""
    return [_smallest(layer, removed(len(layer), fraction), rng) for layer in layers]


@RULES.register("random")
def random(layers: Sequence[np.ndarray], fraction: Fraction, rng: np.random.Generator) -> list[np.ndarray]:
    """Any, drawn from all layers together."""
    count = sum(map(len, layers))
    return _split(np.sort(rng.choice(count, removed(count, fraction), replace=False)), layers)


def _smallest(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    mixed = rng.permutation(len(values))
    return np.sort(mixed[np.argsort(values[mixed], kind="stable")[:count]])


def _split(places: np.ndarray, layers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Ascending places in all layers together, as places in each."""
    ends = np.cumsum([len(layer) for layer in layers])
    cuts = np.split(places, np.searchsorted(places, ends[:-1]))
    return [part - start for part, start in zip(cuts, [0, *ends[:-1]], strict=True)]


def exempted(names: Sequence[str], exempt: Sequence[str]) -> set[str]:
    """Those of the tensors `names` that `exempt` names: a tensor, or a module and all that is in it."""
    out: set[str] = set()
    for given in exempt:
        found = {name for name in names if name == given or name.startswith(f"{given}.")}
        if not found:
            modules = {name.rpartition(".")[0] for name in names}
            raise unknown("layer", given, sorted({*names, *modules} - {""}), where="--exempt")
        out |= found
    if names and len(out) == len(names):
        raise DatadietError("every layer is exempt", where="--exempt", fix="leave one to prune at least")
    return out


def prune(
    weights: Mapping[str, Any],
    mask: Mask,
    fraction: float = FRACTION,
    rule: str = "magnitude",
    *,
    exempt: Sequence[str] = (),
    seed: int = 0,
    run: int = 0,
) -> Mask:
    """The mask after one more level.

    Args:
        weights: trained weights by name (tensors or arrays), those of the mask among them.
        mask: under which they were trained; `Mask.full(model)` before the first level.
        fraction: the part of the weights that are left which goes, in (0, 1); the number is rounded up.
        rule: "magnitude", "layerwise", "random", or another registered name.
        exempt: tensors, or modules with all that is in them, from which nothing goes.
        seed, run: of the draw, for the rule that draws and for ties.

    Returns:
        A Mask with exactly that many weights less. A layer that loses its last weight is warned about.
    """
    part = as_fraction(fraction)
    function = RULES.get(rule, where="--prune")
    names = list(mask.tensors)
    spared = exempted(names, exempt)
    missing = [name for name in names if name not in weights]
    if missing:
        raise DatadietError(f"the mask is of another network: no weights {missing[0]}", where="mask")
    open_to = [name for name in names if name not in spared]
    arrays = {name: np.asarray(_array(weights[name])) for name in open_to}
    for name, array in arrays.items():
        if array.shape != mask.tensors[name].shape:
            raise DatadietError(
                f"the mask is of another network: {name} has shape {array.shape}, its mask "
                f"{mask.tensors[name].shape}", where="mask",
            )  # fmt: skip
        if not np.isfinite(array[mask.tensors[name]]).all():
            raise DatadietError(f"{name} has weights that are not finite", where="pruning")
    places = {name: np.flatnonzero(mask.tensors[name]) for name in open_to}
    layers = [np.abs(arrays[name].ravel()[places[name]]) for name in open_to]
    rng = stream(seed, "prune", run, rule, mask.remaining)
    gone = function(layers, part, rng)
    out = {name: np.array(tensor, bool) for name, tensor in mask.tensors.items()}
    for name, chosen in zip(open_to, gone, strict=True):
        out[name].reshape(-1)[places[name][chosen]] = False
        if len(places[name]) and len(chosen) == len(places[name]):
            log.warning("pruning took the last weight of %s: no signal passes through it any more", name)
    return Mask(out)


def _array(value: Any) -> Any:
    return value.detach().float().cpu().numpy() if hasattr(value, "detach") else value
