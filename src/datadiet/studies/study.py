"""What a study is: something to measure, a pure judgement of the numbers, and figures of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datadiet.registry import Registry
from datadiet.studies.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from datadiet.studies.job import StudyJob

Numbers = list[dict[str, Any]]
"""Rows of plain values, one for each thing measured; rows may have different keys. What Parquet keeps."""


@dataclass(frozen=True)
class Findings:
    """What a study came to."""

    numbers: Numbers
    verdicts: tuple[Verdict, ...]
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Study:
    """A claim or figure of the papers, as a recipe over the library.

    Args:
        name: how it is asked for.
        title: what it asks, in one line.
        answers: the papers' figures.
        claims: the numbers of the claims it judges (docs/studies.md).
        measure: trains what is missing and gives the numbers. It is also called in rehearsal, where the job trains
            nothing and hands out made-up values of the right shape: that is how a study is checked and its cost
            counted beforehand, so it must look at no value to decide what to train.
        judge: the verdicts, a pure function of the numbers.
        draw: figures by name; the job's scores may be asked for again, they are in the store.
        noisy: whether it adds label noise itself (`job.noisy`) beside clean labels (`job.data`); then `--noise`
            says which noise. The other studies run on noisy labels where `--noise` is given.
        images: whether it needs images.
        takes: what it looks at beyond that: "score" (`job.scores`), "human-labels" (`job.human`), "memorization".
    """

    name: str
    title: str
    answers: str
    claims: tuple[int, ...]
    measure: Callable[[StudyJob], Numbers]
    judge: Callable[[Numbers], list[Verdict]]
    draw: Callable[[StudyJob, Numbers], dict[str, Figure]]
    noisy: bool = False
    images: bool = False
    takes: frozenset[str] = frozenset()

    def findings(self, job: StudyJob) -> Findings:
        """Measure, judge, draw."""
        numbers = self.measure(job)
        return Findings(numbers, tuple(self.judge(numbers)), self.draw(job, numbers))


STUDIES: Registry[Study] = Registry("study", "datadiet.studies")


def column(numbers: Numbers, value: str, **where: Any) -> list[Any]:
    """The values of one column over the rows in which all of `where` is so, in their order."""
    return [row[value] for row in numbers if value in row and all(row.get(k) == v for k, v in where.items())]
