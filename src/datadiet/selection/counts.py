"""How many examples a kept fraction is, exactly: floor(keep·N + ½)."""

from __future__ import annotations

import math
from fractions import Fraction

from datadiet.errors import DatadietError


def fraction(value: float | Fraction | str, name: str, *, where: object = None) -> Fraction:
    """The number as it was written: 0.29 is 29/100, so that 0.29·100 is 29 and 0.145·100 + ½ is 15."""
    try:
        if isinstance(value, bool):
            raise ValueError
        return value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise DatadietError(
            f"{name} is {value!r}, which is not a number", where=where, fix="write a fraction such as 0.5"
        ) from None


def rounded(part: Fraction, n: int) -> int:
    """floor(part·n + ½)."""
    return math.floor(part * n + Fraction(1, 2))


def count(keep: float | Fraction | str, n: int, *, where: object = None) -> int:
    """The number of examples that `keep` of n is: floor(keep·n + ½), at least 1."""
    part = fraction(keep, "keep", where=where)
    if not 0 < part <= 1:
        raise DatadietError(
            f"keep is {keep}, it must lie in (0, 1]", where=where, fix="it is the part kept, 0.5 for one half"
        )
    if n < 1:
        raise DatadietError("the dataset has no examples to keep", where=where)
    return max(1, rounded(part, n))


def dropped(value: float | Fraction | str, name: str, n: int, kept: int, *, where: object = None) -> int:
    """floor(value·n + ½) examples to drop at one end, where `kept` of n have to stay.

    Two halves may both round up: one example less is dropped then. More than that leaves the range.
    """
    part = fraction(value, name, where=where)
    if not 0 <= part < 1:
        raise DatadietError(
            f"{name} is {value}, it must lie in [0, 1)",
            where=where,
            fix=f"{name} is the fraction of all examples that is dropped at one end",
        )
    if part * n > n - kept + Fraction(1, 2):
        raise DatadietError(
            f"{name} {value} and {kept} of {n} examples kept leave the range",
            where=where,
            fix=f"{name} + keep must be at most 1",
        )
    return min(rounded(part, n), n - kept)
