"""What the tests of the flows share: where a run was trained, from which step to which."""

from __future__ import annotations

from typing import Any

import pytest

from datadiet.flows import jobs


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Every call of the training loop in this process, as (first step, last step)."""
    seen: list[tuple[int, int]] = []
    real = jobs.train

    def spy(moment: Any, stop: int, **options: Any) -> None:
        before = moment.step
        try:
            real(moment, stop, **options)
        finally:
            seen.append((before, moment.step))

    monkeypatch.setattr(jobs, "train", spy)
    return seen
