"""Studies: one file a claim or figure of the papers, each a recipe over the library with its verdicts.

>>> from datadiet import studies
>>> result = studies.run("pruning-curve", data="digits", scale="quick")
>>> [(one.claim, one.outcome) for one in result.findings.verdicts]
"""

from __future__ import annotations

from datadiet.flows.plan import Runs
from datadiet.studies.execute import StudyPlan, StudyResult, execute, plan, plan_all, run, run_all
from datadiet.studies.job import StudyJob
from datadiet.studies.scales import SCALES, Scale
from datadiet.studies.study import STUDIES, Findings, Numbers, Study
from datadiet.studies.verdict import Verdict, verdict

# Each registers itself; in the order of the claims.
from datadiet.studies import (  # noqa: F401  # isort: skip
    score_time,
    pruning_curve,
    sliding_window,
    noise,
    averaging,
    transfer,
    agreement,
    memorization,
    gallery,
    kernel_velocity,
    connectivity,
    lmc_scores,
    coherence,
    lottery,
    lottery_noise,
    lottery_scores,
    error_distribution,
    barrier_and_performance,
    pretraining,
    warmup,
)

__all__ = [
    "SCALES",
    "STUDIES",
    "Findings",
    "Numbers",
    "Runs",
    "Scale",
    "Study",
    "StudyJob",
    "StudyPlan",
    "StudyResult",
    "Verdict",
    "execute",
    "plan",
    "plan_all",
    "run",
    "run_all",
    "verdict",
]
