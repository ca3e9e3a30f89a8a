"""Who sees what: the test split, validation rows, seeds of scoring and retraining, random subsets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_flows import RECIPE, arrays, results, setup, tiny

import datadiet as dd
from datadiet import models
from datadiet.flows import jobs
from datadiet.flows.compare import FULL, plan_compare
from datadiet.flows.score import plan_score
from datadiet.store import Store


def rows_of(examples: Any) -> set[bytes]:
    return {np.ascontiguousarray(image).tobytes() for image in examples.inputs}


def test_scores_do_not_depend_on_the_test_split(tmp_path: Path) -> None:
    train, (x_test, y_test) = arrays()
    options = {"recipe": RECIPE, "scores": ["el2n", "forgetting"], "runs": 1, "at": "2ep"}
    dd.score(dd.load((train, (x_test, y_test))), setup=setup(tmp_path / "one"), **options)
    dd.score(dd.load((train, (255 - x_test, y_test[::-1].copy()))), setup=setup(tmp_path / "two"), **options)
    assert results(tmp_path / "one") == results(tmp_path / "two")


def test_the_test_split_of_digits_is_fixed_stratified_and_no_seed_moves_it() -> None:
    one, two = dd.load("digits"), dd.load("digits").with_noise("permute", 0.1, seed=5).with_validation(0.2, seed=7)
    assert one.test is not None
    assert two.test is not None
    assert one.test.fingerprint == two.test.fingerprint
    assert not rows_of(one.test) & rows_of(two.train)
    share = np.bincount(one.test.labels) / np.bincount(one.labels)
    assert share.max() - share.min() < 0.02


def test_runs_of_every_seed_are_tested_on_the_same_examples(tmp_path: Path) -> None:
    for seed in (0, 1):
        dd.compare(tiny(), {}, runs=1, recipe=RECIPE, seed=seed, baselines=("full",), setup=setup(tmp_path / "store"))
    store = Store(tmp_path / "store")
    tested = [store.run(name).evaluations() for name in store.runs()]
    assert len(tested) == 2
    assert tested[0] == tested[1]


@contextlib.contextmanager
def by_default(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu", torch.bfloat16), torch.no_grad, torch.inference_mode,
        lambda: by_default(torch.float64),
    ],
)  # fmt: skip
def test_what_is_on_around_a_call_is_no_part_of_it(tmp_path: Path, around: Any) -> None:
    options: dict[str, Any] = {"recipe": RECIPE, "scores": ["el2n", "grand", "forgetting"], "runs": 1, "at": "2ep"}
    dd.score(tiny(), setup=setup(tmp_path / "plain"), **options)
    with around():
        before = torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), torch.get_default_dtype()
        dd.score(tiny(), setup=setup(tmp_path / "within"), **options)
        assert (torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), torch.get_default_dtype()) == before
    assert results(tmp_path / "within") == results(tmp_path / "plain")


def test_a_subset_run_does_as_many_steps_as_full_data(tmp_path: Path, stretches: list[tuple[int, int]]) -> None:
    result = dd.compare(
        tiny(),
        {"half": np.arange(60), "five": np.arange(5)},
        runs=1,
        recipe=RECIPE,
        setup=setup(tmp_path / "store"),
    )
    assert stretches == [(0, 28)] * 5  # full, two random sizes, half, five
    assert result.steps == 28
    assert [row.examples for row in result.rows] == [120, 60, 5, 60, 5]


def test_the_random_baseline_draws_anew_for_every_run() -> None:
    plan = plan_compare(tiny(), {"half": np.arange(60)}, runs=4, recipe=RECIPE)
    (_, keep, size, tasks), *_ = [group for group in plan.groups if group[0].startswith("random")]
    drawn = {tuple(task.rows.tolist()) for _, task in tasks if task.rows is not None}
    assert (keep, size, len(drawn)) == (0.5, 60, 4)
    assert all(len(set(rows)) == 60 for rows in drawn)
    again = plan_compare(tiny(), {"other": np.arange(60, 120)}, runs=4, recipe=RECIPE)
    assert {t.spec.name for _, t in tasks} <= {t.spec.name for _, t in again.tasks}, "a draw of the seed stays"


def test_the_balanced_random_baseline_draws_as_many_of_each_class() -> None:
    (x, y), test = arrays()
    data = dd.load(((x[30:], np.where(y[30:] == 2, 0, y[30:])), (test[0], test[1] % 2)), name="two")
    assert np.bincount(data.labels).tolist() == [60, 30]
    plan = plan_compare(data, {"third": np.arange(30)}, runs=3, recipe=RECIPE, baselines=("random", "balanced-random"))
    rows = {name: [task.rows for _, task in tasks] for name, _, _, tasks in plan.groups}
    assert list(rows) == ["random 33.3%", "balanced random 33.3%", "third"]
    assert [np.bincount(data.labels[drawn]).tolist() for drawn in rows["balanced random 33.3%"]] == [[15, 15]] * 3
    assert len({tuple(drawn) for drawn in rows["balanced random 33.3%"]}) == 3
    with pytest.raises(dd.DatadietError, match="class 1 has 30 examples, and balanced classes need 40 of it"):
        plan_compare(data, {"most": np.arange(80)}, recipe=RECIPE, baselines=("balanced-random",))
    with pytest.raises(dd.DatadietError, match="unknown baseline 'balanced'; did you mean balanced-random"):
        plan_compare(data, {}, recipe=RECIPE, baselines=("balanced",))


def test_retraining_starts_from_other_weights_than_scoring() -> None:
    scoring = plan_score(tiny(), recipe=RECIPE, scores=["el2n"], runs=4, at="1ep")
    retraining = plan_compare(tiny(), {}, runs=4, recipe=RECIPE, baselines=("full",))
    tuning = plan_compare(tiny(), {}, runs=4, recipe=RECIPE, baselines=("full",), purpose="tune")
    first = []
    for plan in (scoring, retraining, tuning):
        for _, task in plan.tasks:
            model = models.build("mlp", (1, 6, 6), 3, seed=jobs.torch_seed(*task.spec.stream, "init"), hidden=[16])
            first.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim > 1]))
    assert len(first) == 12
    for i, a in enumerate(first):
        assert not any(torch.equal(a, b) for b in first[:i])


def test_the_accuracy_reported_is_that_of_the_last_step(tmp_path: Path) -> None:
    result = dd.compare(tiny(), {}, runs=2, recipe=RECIPE, baselines=("full",), setup=setup(tmp_path / "store"))
    store = Store(tmp_path / "store")
    found = []
    for name in store.runs():
        folder = store.run(name)
        ((what, step),) = folder.evaluations()
        evaluation = folder.load_evaluation(what, step)
        assert evaluation is not None
        assert step == 28
        found.append(evaluation["accuracy"])
    assert sorted(found) == sorted(result[FULL].accuracies)


def test_mean_and_percentiles_are_over_runs() -> None:
    from datadiet.flows.compare import Row

    row = Row("x", 0.5, 60, (0.5, 0.6, 0.7, 0.9))
    assert row.mean == pytest.approx(0.675)
    assert (row.low, row.high) == pytest.approx((0.548, 0.804))
    assert row.runs == 4
