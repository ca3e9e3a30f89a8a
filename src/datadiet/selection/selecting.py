"""Scores to a Subset: checks, the policy, the class balance before and after."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from datadiet.errors import DatadietError
from datadiet.seeds import stream
from datadiet.selection import counts
from datadiet.selection.balance import TooSmall, can_balance, checked_labels, fallen
from datadiet.selection.order import Array, Ints, Tie, checked, group_sizes, parts
from datadiet.selection.policy import POLICIES, check_options, options_of
from datadiet.selection.subset import Subset

log = logging.getLogger(__name__)

QUOTA = "keeps the hardest, but of each class at least half its share"
ROUNDING = Fraction(1, 10**9)  # 1 - 0.7 is a little more than 0.3


def select(
    difficulty: npt.ArrayLike,
    keep: float | Fraction | str,
    policy: str = "hardest",
    *,
    labels: npt.ArrayLike | None = None,
    class_names: Sequence[str] = (),
    balanced: bool = False,
    fingerprint: str | None = None,
    seed: int = 0,
    run: int = 0,
    warn_below: float = 0.2,
    by: str | None = None,
    **options: Any,
) -> Subset:
    """Choose floor(keep·N + ½) examples by their difficulty.

    Args:
        difficulty: (N,) real numbers, higher is harder; memory-mapped arrays are read in chunks.
        keep: the part kept, in (0, 1].
        policy: a registered name: hardest, easiest, window, random, stratified, quota, …
        labels: (N,) training labels as class numbers; needed for `balanced`, else for the report only.
        class_names: for warnings and errors; else their numbers.
        balanced: the same number from each class.
        fingerprint: of the dataset; keys the order among equal scores, and is kept in the Subset.
        seed, run: of the stream "subset", for policies that draw; another run is another draw.
        warn_below: a class whose share falls below this part of its former share is warned about, unless balanced.
        by: what the difficulty is called, for warnings.
        options: the policy's own.
    """
    function = POLICIES.get(policy)
    scores = checked(difficulty)
    n = len(scores)
    count = counts.count(keep, n)
    if balanced:
        if "balanced" not in options_of(function):
            raise DatadietError(f"the policy {policy!r} has no class-balanced form", fix="leave balanced out")
        options["balanced"] = True
    check_options(policy, function, options)
    for name in ("offset", "beta"):
        if name in options and counts.fraction(options[name], name) + counts.fraction(keep, "keep") > 1 + ROUNDING:
            raise DatadietError(
                f"{name} {options[name]} and keep {keep} leave the range",
                fix=f"{name} + keep must be at most 1",
            )
    classes = None if labels is None else checked_labels(labels, n)
    rng = stream(seed, "subset", run, policy)
    try:
        rows = function(scores, count, tie=Tie.of(fingerprint), labels=classes, rng=rng, **options)
    except TooSmall as error:
        named = error.named(class_names)
        raise (named.or_else(f"the policy quota {QUOTA}") if policy == "hardest" else named) from None
    if len(rows) != count:
        raise DatadietError(f"the policy {policy!r} returned {len(rows)} rows instead of {count}")
    rows = np.ascontiguousarray(rows, np.int64)
    rows.setflags(write=False)
    balance: dict[str, tuple[int, ...]] | None = None
    warnings: tuple[str, ...] = ()
    if classes is not None:
        # Where balance is asked for, large classes are meant to lose share.
        balance, warnings = _balance(classes, rows, 0.0 if balanced else warn_below, class_names)
        sizes = np.array(balance["before"], np.int64)
        remedy = "" if balanced or not warnings else _remedy(policy, sizes, count, Tie.of(fingerprint))
        for line in warnings:
            what = policy if by is None else f"{by}, {policy}"
            log.warning("%s, keep %s: %s%s", what, keep, line, remedy)
    made = {"name": policy, "keep": _plain(keep), "seed": seed, "run": run}
    made |= {name: _plain(value) for name, value in options.items()}
    return Subset(rows, n, fingerprint, made, balance, warnings)


def _remedy(policy: str, sizes: Ints, count: int, tie: Tie) -> str:
    """What keeps a class that vanishes or falls, for the end of the line that says so."""
    ways = []
    if "balanced" in options_of(POLICIES.get(policy)) and can_balance(sizes, count, tie):
        ways.append("balanced keeps the same number of each")
    if policy == "hardest" and count >= np.count_nonzero(sizes):
        ways.append(f"the policy quota {QUOTA}")
    return "".join(f"; {way}" for way in ways)


def _balance(
    labels: Array, rows: Ints, below: float, names: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    before = group_sizes(labels)
    after = np.zeros_like(before)
    for part in parts(len(rows)):
        chosen = np.asarray(labels[rows[part]]).astype(np.int64, copy=False)
        after += np.bincount(chosen, minlength=len(before))
    balance = {"before": tuple(map(int, before)), "after": tuple(map(int, after))}
    return balance, tuple(fallen(before, after, below, names))


def _plain(value: Any) -> Any:
    """As JSON can say it."""
    if isinstance(value, Fraction):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value
