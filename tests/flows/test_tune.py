"""Tuning a window: validation rows are cut before scoring, the choice is tested once, ties have a rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_flows import RECIPE, setup, tiny

import datadiet as dd
from datadiet.flows import tune
from datadiet.flows.compare import FULL, Comparison, Row
from datadiet.flows.tasks import is_done
from datadiet.store import Store


def rows_of(examples: Any) -> list[bytes]:
    return [np.ascontiguousarray(image).tobytes() for image in examples.inputs]


@pytest.fixture
def table(tmp_path: Path) -> dd.ScoreTable:
    data = tiny().with_noise("permute", 0.1, seed=0)
    return dd.score(data, recipe=RECIPE, scores=["el2n"], runs=2, at="2ep", setup=setup(tmp_path / "store"))


def tuned(tmp_path: Path, table: dd.ScoreTable, **options: Any) -> tune.Tuned:
    data = tiny().with_noise("permute", 0.1, seed=0)
    given = {"offsets": (0.0, 0.2, 0.5), "runs": 1, "test_runs": 1, **options}
    return dd.tune_window(data, table, "el2n", setup=setup(tmp_path / "store"), **given)


def test_scoring_and_training_of_the_grid_never_see_validation_rows(
    tmp_path: Path, table: dd.ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: dict[str, list[Any]] = {"score": [], "compare": []}
    for name in plans:
        real = getattr(tune, f"execute_{name}")

        def spy(plan: Any, *args: Any, _name: str = name, _real: Any = real, **options: Any) -> Any:
            plans[_name].append(plan)
            return _real(plan, *args, **options)

        monkeypatch.setattr(tune, f"execute_{name}", spy)
    found = tuned(tmp_path, table)
    (scoring,) = plans["score"]
    grid, test = plans["compare"]
    validation = scoring.data.validation
    assert found.validation_examples == len(validation) == 24
    assert len(scoring.data) == 96
    assert not set(rows_of(validation)) & set(rows_of(scoring.data.train))
    assert {task.spec.dataset for _, task in scoring.tasks} == {scoring.data.fingerprint}
    assert scoring.data.fingerprint != table.fingerprint, "the cut data is scored anew"
    # What the grid trains on is the cut data, judged on validation, never tested.
    assert (grid.split, grid.data.fingerprint) == ("validation", scoring.data.fingerprint)
    assert all(task.evaluate == ("validation",) for _, task in grid.tasks)
    # The choice is applied to the scores of all data and tested once, beside full data and random.
    assert (test.split, test.data.fingerprint) == ("test", table.fingerprint)
    assert next(name for name, *_ in test.groups) == FULL
    assert len(test.groups) == 3
    assert found.subset == dd.select(table, "el2n", found.keep, "window", offset=found.offset)


def test_the_test_split_is_touched_by_the_choice_only(tmp_path: Path, table: dd.ScoreTable) -> None:
    tuned(tmp_path, table, runs=2)
    store = Store(tmp_path / "store")
    touched: dict[str, set[str]] = {}
    for name in store.runs():
        folder = store.run(name)
        purpose = (folder.spec() or {}).get("purpose", "score")
        splits = {what.split("-")[0] for what, _ in folder.evaluations()}
        touched.setdefault(purpose, set()).update(splits)
    assert touched == {"score": set(), "tune": {"validation"}, "retrain": {"test"}}


def test_validation_labels_are_as_noisy_as_the_training_labels(tmp_path: Path) -> None:
    clean, noisy = tiny(), tiny().with_noise("permute", 0.5, seed=0)
    one, two = clean.with_validation(0.2, 0), noisy.with_validation(0.2, 0)
    assert one.validation is not None
    assert two.validation is not None
    label = dict(zip(rows_of(clean.train), clean.labels.tolist(), strict=True))
    before = np.array([label[row] for row in rows_of(two.validation)])
    assert 0.1 < (before != two.validation.labels).mean() < 0.6


def test_the_grid_with_the_best_mean_wins(tmp_path: Path, table: dd.ScoreTable) -> None:
    found = tuned(tmp_path, table, runs=2, test_runs=0)
    assert found.test is None
    best = max(row.mean for _, _, row in found.grid)
    assert {(k, o): row.mean for k, o, row in found.grid}[(found.keep, found.offset)] == best
    assert [(k, o) for k, o, _ in found.grid] == [(0.5, 0.0), (0.5, 0.2), (0.5, 0.5)]


def test_between_equals_the_larger_subset_wins_and_then_the_harder_window(
    tmp_path: Path, table: dd.ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tune.execute_compare

    def level(plan: Any, *args: Any, **options: Any) -> Comparison:
        result = real(plan, *args, **options)
        return replace(result, rows=tuple(replace(row, accuracies=(0.5,)) for row in result.rows))

    monkeypatch.setattr(tune, "execute_compare", level)
    found = tuned(tmp_path, table, keeps=(0.3, 0.6), offsets=(0.0, 0.2, 0.4, 0.7), test_runs=0)
    assert (found.keep, found.offset) == (0.6, 0.4)


def test_the_default_grid_goes_to_the_end_of_the_range() -> None:
    assert tune.grid_of([0.75], None) == [(0.75, 0.0), (0.75, 0.1), (0.75, 0.2), (0.75, 0.25)]
    assert tune.grid_of([1.0], None) == [(1.0, 0.0)]
    with pytest.raises(dd.DatadietError, match=r"keep is 1\.5"):
        tune.grid_of([1.5], None)
    with pytest.raises(dd.DatadietError, match="leaves room"):
        tune.grid_of([0.9], [0.5])
    with pytest.raises(dd.DatadietError, match="keep is 0"):
        tune.grid_of([0.0], None)


def test_the_plan_counts_every_run_and_trains_none(tmp_path: Path, table: dd.ScoreTable) -> None:
    data = tiny().with_noise("permute", 0.1, seed=0)
    plan = tune.plan_tune_of(
        data, table, "el2n", offsets=(0.0, 0.2, 0.5), runs=2, test_runs=3, setup=setup(tmp_path / "store")
    )
    store = Store(tmp_path / "store")
    before = set(store.runs())

    def counted() -> dict[str, tuple[int, int]]:
        return {
            stage: (len(one.tasks), sum(not is_done(task, one.data) for _, task in one.tasks))
            for stage, one in plan.stages(table)
        }

    fresh = {"scoring, cut": (2, 2), "windows": (6, 6), "tuned window": (9, 9)}
    assert counted() == fresh
    assert set(store.runs()) == before
    tune.execute_tune(plan, table)
    assert len(set(store.runs()) - before) == sum(new for _, new in fresh.values())
    # Which window is tested is known by now: the very one that won.
    assert counted() == {stage: (planned, 0) for stage, (planned, _) in fresh.items()}


@settings(max_examples=200)
@given(st.floats(0.001, 1), st.integers(1, 60), st.integers(3, 500))
def test_every_window_of_a_grid_fits_whatever_is_kept(part: float, over: int, n: int) -> None:
    for keep in (part, 1 / over, 1 - 1 / (over + 1)):
        if keep * n < 1:  # one example is kept all the same, which may be more than its part
            continue
        for _, offset in tune.grid_of([keep], None):
            assert len(dd.select(np.arange(n), keep=keep, policy="window", offset=offset)) > 0


def test_what_is_reported_is_what_was_judged(tmp_path: Path, table: dd.ScoreTable) -> None:
    found = tuned(tmp_path, table)
    content = found.to_json()
    assert [point["mean"] for point in content["grid"]] == [row.mean for _, _, row in found.grid]
    assert all(isinstance(row, Row) for _, _, row in found.grid)
    assert found.subset.policy["tuned"] == {"validation": 24, "runs": 1}
    assert found.test is not None
    assert found.test.rows[-1].name == tune.tuned_name(found.keep, found.offset)
