"""What the library's functions are given, as people write it: one or several, whole numbers, plain arrays."""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Number
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datadiet.errors import DatadietError, unknown
from datadiet.steps import Step


def several(given: Any, what: str, where: str) -> list[Any]:
    """A list of what was given: `"el2n"` is one name, not four letters."""
    if isinstance(given, (str, Number, Step)):
        return [given]
    if isinstance(given, Mapping):
        raise DatadietError(f"a mapping of {what}", where=where, fix="give a list")
    try:
        return list(given)
    except TypeError:
        raise DatadietError(f"{type(given).__name__} as {what}", where=where, fix="give a list") from None


def refuse_unknown(given: Iterable[str], *functions: Callable[..., Any], where: str) -> None:
    """Of arguments that are handed on to these functions, those that none of them takes."""
    known = {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    for name in given:
        if name not in known:
            raise unknown("argument", name, known, where=where)


RUNS = 10_000  # planning more takes minutes, training them years


def whole(given: Any, what: str, where: str, least: int = 1, most: int | None = None) -> int:
    """A whole number, numpy's too, that is not too small, nor too large."""
    if isinstance(given, bool) or not isinstance(given, Integral) or given < least:
        raise DatadietError(f"{given!r} {what}", where=where, fix=f"give a whole number, at least {least}")
    if most is not None and int(given) > most:
        raise DatadietError(f"{given} {what}", where=where, fix=f"at most {most}")
    return int(given)


def plain_array(file: Path, mmap: Literal["r"] | None = None) -> np.ndarray:
    """The one array of an `.npy` file; whatever else is there raises ValueError or OSError."""
    try:
        found = np.load(file, mmap_mode=mmap, allow_pickle=False)
    except (EOFError, zipfile.BadZipFile):
        raise ValueError("it is empty or truncated") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError("it is an archive (.npz) of arrays, one array (.npy) is needed")
    return found
