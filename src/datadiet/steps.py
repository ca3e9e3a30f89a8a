"""A point in training: a number of steps, or of epochs of the full training set.

`"0"`, `"780it"` and `"2ep"` are how steps are written; a fraction of an epoch (`"0.5ep"`) rounds to the nearest
step. An epoch is `max(1, N // batch)` steps of the *full* training set, whatever subset is trained on, so that
"10ep" means the same amount of work for a pruned run as for a full one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Integral

from datadiet.errors import DatadietError

_FORM = re.compile(r"(\d+)(?:\.(\d+))?\s*(it|ep)")


@dataclass(frozen=True)
class Step:
    """A number of iterations or of epochs; `resolve` turns it into iterations.

    >>> Step.parse("2ep").resolve(steps_per_epoch=390)
    780
    """

    count: Fraction
    unit: str  # "it" or "ep"

    @classmethod
    def parse(cls, text: str | int | Step, *, where: object = None) -> Step:
        if isinstance(text, Step):
            return text
        if isinstance(text, Integral) and not isinstance(text, bool):
            if text < 0:
                raise DatadietError(f"the step {text} is negative", where=where, fix="write 0 or more")
            return cls(Fraction(int(text)), "it")
        cleaned = str(text).strip()
        if cleaned == "0":
            return cls(Fraction(0), "it")
        match = _FORM.fullmatch(cleaned)
        if match is None or (match[3] == "it" and match[2]):
            raise DatadietError(f"{str(text)!r} is not a step", where=where, fix='write "0", "780it" or "2ep"')
        count = Fraction(f"{match[1]}.{match[2] or 0}")
        return cls(count, match[3] if count else "it")

    def resolve(self, steps_per_epoch: int) -> int:
        """The number of iterations; half a step rounds up."""
        if self.unit == "it":
            return int(self.count)
        return math.floor(self.count * steps_per_epoch + Fraction(1, 2))

    def __str__(self) -> str:
        if self.count == 0:
            return "0"
        if self.count.denominator == 1:
            return f"{self.count.numerator}{self.unit}"
        # Not as a float: 0.00001 would be written 1e-05, which is no step.
        return f"{Decimal(self.count.numerator) / Decimal(self.count.denominator):f}{self.unit}"


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Steps in one pass over the full training set; the partial batch is dropped."""
    return max(1, examples // batch_size)


def counted(number: int, what: str) -> str:
    """A number of things for people: "1 run", "1,200 steps"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def describe(step: int, per_epoch: int) -> str:
    """A step for people: "780 steps (2 epochs)"."""
    epochs = step / per_epoch
    number = f"{epochs:.0f}" if abs(epochs - round(epochs)) < 5e-4 else f"{epochs:.2f}"
    return f"{counted(step, 'step')} ({number} epoch{'s' * (number != '1')})"
