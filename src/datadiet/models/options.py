"""Checks of what a model is built from: input shape, classes, and the builder's own arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from datadiet.errors import DatadietError


def image_shape(input_shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """(C, H, W), or a clear error where the input is a table."""
    if len(input_shape) != 3:
        raise DatadietError(
            f"the model {name!r} is convolutional and needs images (channels, height, width), "
            f"the input shape is {tuple(input_shape)}",
            fix="use the model 'mlp' for tables",
        )
    channels, height, width = input_shape
    return channels, height, width


def checked_shape(input_shape: Any) -> tuple[int, ...]:
    """One to any number of positive whole numbers."""
    try:
        shape = tuple(int(size) for size in input_shape)
        whole = all(size == given for size, given in zip(shape, input_shape, strict=True))
    except (TypeError, ValueError):
        shape, whole = (), False
    if not shape or not whole or min(shape) < 1:
        raise DatadietError(
            f"the input shape {input_shape!r} does not fit",
            fix="write (channels, height, width) for images, (columns,) for tables",
        )
    return shape


def positive(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise DatadietError(f"{name} is {value!r}", fix="write a whole number, 1 or more")
    return int(value)


def one_of(value: Any, name: str, legal: Iterable[str]) -> str:
    names = list(legal)
    if value not in names:
        raise DatadietError(f"{name} is {value!r}", fix=f"write one of {', '.join(names)}")
    return str(value)


def flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise DatadietError(f"{name} is {value!r}", fix="write true or false")
    return value


def check_arguments(
    function: Callable[..., Any], arguments: Mapping[str, Any], name: str, given: Sequence[str] = ()
) -> None:
    """Raise for an argument the builder does not take, naming those it takes; and for one that is missing.

    Args:
        given: parameters that we fill ourselves.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature says itself what it refuses
        return
    for argument in arguments:
        if argument in given:
            raise DatadietError(f"{argument} of the model {name!r} follows from the data", fix="leave it out")
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    legal = [p.name for p in named if p.name not in given]
    words = f"it takes {', '.join(legal)}" if legal else "it takes no arguments"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for argument in arguments:
            if argument not in legal:
                raise DatadietError(f"the model {name!r} has no argument {argument!r}", fix=words)
    for p in named:
        if p.default is p.empty and p.name not in given and p.name not in arguments:
            raise DatadietError(f"the model {name!r} needs the argument {p.name!r}", fix=f"pass {p.name}=")
