"""Which scores a study looks at when it looks at all of them."""

from __future__ import annotations

from datadiet.scores import SCORES
from datadiet.studies.job import StudyJob

PASS = ("logits", "model", "trajectory")


def every_score(job: StudyJob) -> list[str]:
    """Every registered score that a scoring run gives by itself, the papers' first, and those asked for."""
    first = ["el2n", "grand", "forgetting"]
    known = [name for name, entry in SCORES.items() if entry.needs in PASS]
    if job.data.kind == "tokens":  # which have none
        known.remove("input_norm")
    return list(dict.fromkeys([*first, *known, *job.scores]))
