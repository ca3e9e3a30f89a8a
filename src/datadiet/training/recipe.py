"""A Recipe says how a network is trained; a RunSpec says all that makes one run what it is, and names it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from datadiet.errors import DatadietError, unknown
from datadiet.machine import expanded
from datadiet.steps import Step, steps_per_epoch

# Raised when the same run would give other numbers than before, so that old results are not taken for new ones.
NUMERICS_VERSION = 1

SCHEDULES = ("constant", "steps", "linear", "cosine")
OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Frozen; `with_(lr=0.2)` gives a changed copy.

    Args:
        model: a registered name, or "package.module:function".
        model_args: keyword arguments of the model's builder.
        batch_size: examples a step.
        optimizer: "sgd" or "adamw".
        lr: the peak learning rate.
        momentum, nesterov: of sgd.
        weight_decay: on all weights, batch norm and biases included.
        schedule: "constant"; "steps" (times `gamma` at each milestone); "linear" or "cosine" (to 0 at the horizon).
        milestones: steps of the "steps" schedule.
        gamma: its factor.
        warmup: steps over which the rate first rises linearly to `lr`.
        steps: the horizon: total steps of a full run. A run may stop earlier, on the same schedule.
        pad, pad_mode, flip: augmentation of images: random crop of the image padded by `pad` ("reflect" or "zeros"),
            mirror image with probability ½.
    """

    model: str = "small-cnn"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    milestones: tuple[str, ...] = ()
    gamma: float = 0.1
    warmup: str = "0"
    steps: str = "20ep"
    pad: int = 0
    pad_mode: str = "reflect"
    flip: bool = False

    def __post_init__(self) -> None:
        # Values are brought to one form, so that 1 and 1.0, or "20ep" and "20.0ep", name the same run.
        for f in fields(self):
            object.__setattr__(self, f.name, _typed(f.name, getattr(self, f.name)))
        for name, legal in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS), ("pad_mode", ("reflect", "zeros"))):
            if getattr(self, name) not in legal:
                raise unknown(name, getattr(self, name), legal, where="recipe")
        if self.batch_size < 1:
            raise DatadietError(f"a batch size of {self.batch_size}", where="recipe", fix="at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise DatadietError(f"a learning rate of {self.lr}", where="recipe", fix="it must be positive")
        if self.pad < 0:
            raise DatadietError(f"a pad of {self.pad}", where="recipe", fix="0 or more")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise DatadietError(
                f"momentum {self.momentum}, weight decay {self.weight_decay}",
                where="recipe",
                fix="momentum lies in [0, 1), weight decay is not negative",
            )
        if not 0 < self.gamma < math.inf:
            raise DatadietError(f"gamma is {self.gamma}", where="recipe", fix="it must be positive")
        if self.schedule == "steps" and not self.milestones:
            raise DatadietError("a 'steps' schedule without milestones", where="recipe", fix="name some")
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise DatadietError("Nesterov without momentum", where="recipe", fix="set nesterov to false")

    def with_(self, **changes: Any) -> Recipe:
        """A copy with some fields changed; an unknown field or a value of the wrong type is an error."""
        for key in changes:
            if key not in _TYPES:
                raise unknown("recipe field", key, _TYPES)
        if changes.get("model", self.model) != self.model:
            changes.setdefault("model_args", {})  # another network has other arguments
        return replace(self, **changes)

    def horizon(self, examples: int) -> int:
        """Total steps of a full run on a training set of `examples`."""
        asked = Step.parse(self.steps)
        if not asked.count:
            raise DatadietError("a run of no steps", where="steps (--steps)", fix="give one or more")
        return max(1, asked.resolve(self.steps_per_epoch(examples)))

    def steps_per_epoch(self, examples: int) -> int:
        """Whole batches in a training set of `examples`, at least 1."""
        return steps_per_epoch(examples, self.batch_size)

    def to_json(self) -> dict[str, Any]:
        """Every field as a plain value."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, base: Recipe | None = None) -> Recipe:
        """A recipe from fields by name; what they do not say comes from `base`, else from the defaults."""
        return (base or cls()).with_(**values)

    def is_told_by(self, values: Any) -> bool:
        """Whether JSON says this recipe, of a version perhaps that lacked some of its fields."""
        try:
            return self.from_json(values).to_json() == self.to_json()
        except (DatadietError, TypeError, AttributeError):
            return False

    @classmethod
    def from_file(cls, path: str | Path, *, base: Recipe | None = None) -> Recipe:
        """A recipe from a JSON or TOML file; what it does not say comes from `base`."""
        return cls.from_json(read_settings(path), base=base)


@dataclass(frozen=True)
class RunSpec:
    """All that makes a run what it is. Where it stops is no part of it.

    Args:
        recipe: how it trains.
        dataset: fingerprint of the training inputs and labels.
        seed: the user's seed; run: the number of this run; purpose: "score", "retrain" or "tune", so that runs
            of different purposes never share a stream.
        noise: what label noise did to the labels.
        classes: outputs of the network.
        subset: digest of the rows trained on; None for all.
        parent: (name of a run, step) from which this one continues, for spawned and rewound runs.
        mask: digest of a weight mask.
        rewind: the step this run begins at, where its parent's weights were rewound: momentum starts afresh. None for
            a child that goes on from its parent's step with its momentum.
        weights: fingerprint of the initial weights, for a user's own model.
    """

    recipe: Recipe
    dataset: str
    seed: int = 0
    run: int = 0
    purpose: str = "score"
    classes: int | None = None
    noise: Mapping[str, Any] | None = None
    subset: str | None = None
    parent: tuple[str, int] | None = None
    mask: str | None = None
    weights: str | None = None
    rewind: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Non-default fields only, so that a field added later leaves the names of old runs alone."""
        out: dict[str, Any] = {"numerics": NUMERICS_VERSION, "recipe": _non_default(self.recipe)}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in ("recipe", "noise") and (f.default is MISSING or value != f.default):
                out[f.name] = _plain(value)
        if self.noise is not None:
            out["noise"] = _plain(self.noise)
        return out

    @property
    def name(self) -> str:
        """32 hex digits: the hash of the canonical JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def start(self) -> int:
        """The step at which this run begins."""
        if self.rewind is not None:
            return self.rewind
        return 0 if self.parent is None else self.parent[1]

    @property
    def stream(self) -> tuple[int, str, int]:
        """What keys the run's random streams."""
        return (self.seed, self.purpose, self.run)


def read_settings(path: str | Path) -> dict[str, Any]:
    """A mapping from a .json or .toml file, with the errors of a user's file."""
    file = expanded(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise DatadietError(f"cannot be read: {reason}", where=file) from None
    kind = "TOML" if file.suffix.lower() == ".toml" else "JSON"
    try:
        if kind == "TOML":
            try:
                import tomllib
            except ModuleNotFoundError:
                import tomli as tomllib  # type: ignore[no-redef, import-not-found, unused-ignore]
            values = tomllib.loads(text)
        else:
            values = json.loads(text)
    except ValueError as error:
        fix = None if file.suffix.lower() in (".toml", ".json") else ".json and .toml are read"
        raise DatadietError(f"not valid {kind}: {error}", where=file, fix=fix) from None
    if not isinstance(values, dict):
        raise DatadietError("a table of settings is expected", where=file)
    return values


# What each field may be given as, and what that is called.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "a text": str,
    "a whole number": Integral,
    "a number": Real,
    "true or false": bool,
    "a step": (str, Integral, Step),
    "a list of steps": (list, tuple),
    "a table of plain values": Mapping,
}
_TYPES = {
    "model": "a text",
    "model_args": "a table of plain values",
    "batch_size": "a whole number",
    "optimizer": "a text",
    "lr": "a number",
    "momentum": "a number",
    "nesterov": "true or false",
    "weight_decay": "a number",
    "schedule": "a text",
    "milestones": "a list of steps",
    "gamma": "a number",
    "warmup": "a step",
    "steps": "a step",
    "pad": "a whole number",
    "pad_mode": "a text",
    "flip": "true or false",
}


def _typed(key: str, value: Any) -> Any:
    """The value in its field's one form, or an error that says what is expected."""
    kind = _TYPES.get(key)
    if kind is None:  # a subclass's own field
        return value
    wrong = DatadietError(f"{key} is {value!r}", where="recipe", fix=f"{kind} is expected")
    fits = isinstance(value, _KINDS[kind]) and (kind == "true or false" or not isinstance(value, bool))
    if not fits and key == "model":  # the network itself, most likely: a run is told by what builds it
        raise DatadietError(
            f"model is a {type(value).__name__}",
            where="recipe",
            fix="name what builds it: 'package.module:function', 'file.py:function', or a name in `datadiet models`",
        )
    if not fits:
        raise wrong
    if kind == "a step":
        return str(Step.parse(value, where=f"recipe, {key}"))
    if kind == "a list of steps":
        return tuple(str(Step.parse(item, where=f"recipe, {key}")) for item in value)
    if kind == "a number":
        return float(value)
    if kind == "a whole number":
        return int(value)
    if kind == "a table of plain values":
        try:
            json.dumps(_plain(value))
        except (TypeError, ValueError):
            raise wrong from None
        return {str(name): item for name, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _non_default(recipe: Recipe) -> dict[str, Any]:
    default = type(recipe)()
    return {
        f.name: _plain(getattr(recipe, f.name))
        for f in fields(recipe)
        if getattr(recipe, f.name) != getattr(default, f.name)
    }
