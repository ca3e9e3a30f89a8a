"""What tests of studies share."""

from __future__ import annotations

import pytest

from datadiet.flows import jobs


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when anything is trained."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this must not train")

    monkeypatch.setattr(jobs, "train", refuse)
