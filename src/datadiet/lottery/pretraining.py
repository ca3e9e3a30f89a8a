"""How a network gets to the point that is rewound to: on which examples, and for how many steps.

A pre-training is written POLICY[/SCORE][:SIZE][@STEPS]: "all", "easiest:2048", "easiest/forgetting:2048@200",
"random:2048", "hardest:2048", "easiest/lmc:2048@400it", "all@0".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from datadiet.data.dataset import Dataset
from datadiet.errors import DatadietError, unknown
from datadiet.flows.select import select
from datadiet.scores import SCORES, ScoreTable
from datadiet.selection import Subset
from datadiet.selection import select as select_rows
from datadiet.selection.balance import quotas
from datadiet.selection.order import Tie
from datadiet.steps import Step

POLICIES = ("all", "easiest", "hardest", "random")
RANKED = ("easiest", "hardest")  # by a score
FORM = "POLICY[/SCORE][:SIZE][@STEPS], such as easiest:2048@200"
_FORM = re.compile(r"(?P<policy>[a-z]+)(/(?P<score>[A-Za-z0-9_-]+))?(:(?P<size>[^@]+))?(@(?P<steps>.+))?")


@dataclass(frozen=True)
class Pretraining:
    """One way to pre-train.

    Args:
        policy: "all", "easiest", "hardest", "random".
        by: the score that says what is easy; None for "all" and "random".
        size: examples trained on; None for all.
        steps: steps until the point that is rewound to; None for the lottery's `steps`.
    """

    policy: str
    by: str | None = None
    size: int | None = None
    steps: str | None = None

    @classmethod
    def parse(cls, text: str) -> Pretraining:
        """From POLICY[/SCORE][:SIZE][@STEPS]."""
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise DatadietError(f"{text!r} cannot be read", where="--pretrain", fix=f"write {FORM}")
        policy, by, size, steps = found.group("policy", "score", "size", "steps")
        count = None
        if size is not None:
            if not size.isascii() or not size.isdigit() or int(size) < 1:
                raise DatadietError(f"{size!r} examples", where=f"--pretrain {text}", fix="a whole number, 1 or more")
            count = int(size)
        if steps is not None:
            steps = str(Step.parse(int(steps) if steps.isdecimal() else steps, where="--pretrain"))
        return cls(policy, by or ("el2n" if policy in RANKED else None), count, steps)

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise unknown("pre-training", self.policy, POLICIES, where="--pretrain")
        if self.by is not None and self.policy not in RANKED:
            raise DatadietError(f"{self.policy!r} needs no score", where="--pretrain", fix=f"leave /{self.by} out")
        if self.policy in RANKED:
            SCORES.get(self.by or "", where="--pretrain")
        if (self.size is None) != (self.policy == "all"):
            what = f"how many {self.policy} examples?"
            what = "all examples have a size of their own" if self.policy == "all" else what
            raise DatadietError(what, where=f"--pretrain {self.policy}", fix=f"write {FORM}")
        if self.size is not None and self.size < 1:
            raise DatadietError(f"{self.size} examples", where="--pretrain", fix="a whole number, 1 or more")

    @property
    def name(self) -> str:
        """The subset for people: "all", "256 easiest", "256 easiest by forgetting"."""
        if self.policy == "all":
            return "all"
        by = "" if self.by in (None, "el2n") else f" by {self.by}"
        return f"{self.size} {self.policy}{by}"

    @property
    def balanced(self) -> bool:
        """Whether the paper takes as many from each class: of random and forgetting subsets, not of others."""
        return self.policy == "random" or self.by == "forgetting"

    def check(self, data: Dataset, balanced: bool) -> None:
        """Refuse a size that the data cannot give."""
        if self.size is None:
            return
        if self.size > len(data):
            raise DatadietError(
                f"{self.size:,} examples are more than the {len(data):,} there are", where=f"--pretrain {self.name}",
                fix="take fewer",
            )  # fmt: skip
        if balanced:
            counts = np.bincount(np.asarray(data.labels), minlength=len(data.classes)).astype(np.int64)
            # The remainder of a random subset comes from the pool, that of a ranked one a class.
            even = self.size - self.size % int(np.count_nonzero(counts)) if self.policy == "random" else self.size
            try:
                quotas(counts, even, Tie.of(data.fingerprint))
            except DatadietError as error:
                raise DatadietError(
                    error.what, where=f"--pretrain {self.name}", fix="take fewer, or say --balanced no"
                ) from None

    def subset(
        self, data: Dataset, table: ScoreTable | None, at: str | int | None, balanced: bool, seed: int, run: int
    ) -> Subset | None:
        """The rows of one replicate; None for all. Random ones are drawn anew for every replicate."""
        if self.size is None or self.size == len(data):
            return None
        keep: Any = f"{self.size}/{len(data)}"
        if self.policy == "random":
            return select_rows(
                np.zeros(len(data)), keep, "random", labels=data.labels, class_names=data.classes, balanced=balanced,
                fingerprint=data.fingerprint, seed=seed, run=run, warn_below=0.0,
            )  # fmt: skip
        assert table is not None, "scores are taken before subsets"
        return select(table, self.by, keep, self.policy, at=at, balanced=balanced, seed=seed)
