"""What a policy is, and the registry of those that have a name."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import numpy as np

from datadiet.errors import DatadietError
from datadiet.registry import Registry
from datadiet.selection.order import Array, Ints, Tie


class Policy(Protocol):
    """Scores to rows; every policy has this shape, and its own options as further keywords.

    Args:
        difficulty: (N,) real numbers, higher is harder, without NaN.
        count: how many rows are kept, 1..N.
        tie: the order among equal scores.
        labels: (N,) class numbers, for what looks at classes.
        rng: for what draws.
    Returns:
        (count,) int64 rows, ascending.
    """

    def __call__(
        self,
        difficulty: Array,
        count: int,
        *,
        tie: Tie,
        labels: Array | None = None,
        rng: np.random.Generator | None = None,
        **options: Any,
    ) -> Ints: ...


POLICIES: Registry[Any] = Registry("policy", "datadiet.policies")
_SHAPE = {"difficulty", "count", "tie", "labels", "rng"}


def options_of(policy: Any) -> dict[str, Any]:
    """The names of a policy's own options and their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(policy).parameters.items()
        if name not in _SHAPE and parameter.kind is not parameter.VAR_KEYWORD
    }


def check_options(name: str, policy: Any, options: dict[str, Any]) -> None:
    """Raise for an option that the policy does not have, naming those it has; and for one that is missing."""
    parameters = inspect.signature(policy).parameters.values()
    known = options_of(policy)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        for option in options:
            if option not in known:
                legal = ", ".join(known) or "none"
                raise DatadietError(f"the policy {name!r} has no option {option!r}", fix=f"its options: {legal}")
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in options:
            raise DatadietError(f"the policy {name!r} needs the option {option!r}", fix=f"pass {option}=")


def generator(rng: np.random.Generator | None, name: str) -> np.random.Generator:
    if rng is None:
        raise DatadietError(f"the policy {name!r} draws at random and was given no stream", fix="pass rng=")
    return rng
