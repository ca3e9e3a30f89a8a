"""Scores beside those of the claims, classes in random subsets, and what a verdict says of its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_studies import RECIPE, arrays, plan, rehearsed, setup, tiny

import datadiet as dd
from datadiet import studies
from datadiet.dynamics.connectivity import CONNECTED
from datadiet.errors import DatadietError
from datadiet.flows.rehearsal import made_up_scores
from datadiet.flows.score import plan_score
from datadiet.studies import lmc_scores
from datadiet.studies.coherence import _random
from datadiet.studies.study import STUDIES


def about(numbers: studies.Numbers, score: str) -> list[dict[str, Any]]:
    return [row for row in numbers if row.get("score") == score]


def test_grand_of_another_step_is_no_part_of_the_claim_about_initialisation(tmp_path: Path) -> None:
    _, alone = rehearsed("averaging", tmp_path)
    job, asked = rehearsed("averaging", tmp_path, scores=("grand", "loss"))
    early = f"grand-at-{job.early_step}"
    assert {row["at"] for row in about(asked, "grand")} == {0}
    assert {row["at"] for row in about(asked, early)} == {job.early_step}
    assert len(about(asked, early)) == len(about(asked, "loss")) == len(about(asked, "grand"))
    kinds = [[row["what"] for row in about(numbers, "grand")] for numbers in (alone, asked)]
    assert kinds[0] == kinds[1]
    verdicts = [STUDIES.get("averaging").judge(numbers) for numbers in (alone, asked)]
    assert [one.claim for one in verdicts[0]] == [one.claim for one in verdicts[1]]
    assert [one.runs for one in verdicts[0]] == [one.runs for one in verdicts[1]]
    figures = STUDIES.get("averaging").draw(job, asked)
    assert set(figures) == {"averaging-correlation", "averaging-grand", "averaging-el2n", f"averaging-{early}",
                            "averaging-loss"}  # fmt: skip


@pytest.mark.parametrize("name", ["score-time", "pruning-curve", "sliding-window"])
def test_random_is_a_curve_of_its_own_already(name: str, tmp_path: Path, untrained: None) -> None:
    with pytest.raises(DatadietError, match="random subsets stand in it already; leave random out"):
        plan(name, tmp_path, scores=("random",))


def test_scores_that_follow_training_are_shown_from_when_they_are_defined(tmp_path: Path) -> None:
    _, numbers = rehearsed("score-time", tmp_path, scores=("aum", "dyn_unc"))
    at = {name: sorted({row["at"] for row in numbers if row["series"] == name}) for name in ("el2n", "aum", "dyn_unc")}
    data, runs = tiny(), 4
    for name, visits in (("aum", 1), ("dyn_unc", 2)):
        spec = plan_score(data, scores=["el2n"], runs=runs, at="4ep", recipe=RECIPE, setup=setup(tmp_path / "s"))
        from datadiet.data.order import Order

        def seen(step: int, visits: int = visits, spec: Any = spec) -> int:
            orders = [Order(np.arange(120), 16, task.spec.stream) for _, task in spec.tasks]
            return len(set().union(*(order.visited(step, visits).tolist() for order in orders)))

        assert at[name] == [step for step in at["el2n"] if step and seen(step) == 120]
    assert 0 < len(at["dyn_unc"]) <= len(at["aum"]) < len(at["el2n"])
    result = studies.execute(plan("score-time", tmp_path, scores=("aum", "dyn_unc"), runs=1))
    real = result.findings.numbers
    assert {name: sorted({row["at"] for row in real if row["series"] == name}) for name in at} == at


def test_made_up_scores_are_undefined_where_real_ones_are(tmp_path: Path) -> None:
    scoring = plan_score(
        tiny(), scores=["el2n", "forgetting", "dyn_unc"], runs=2, at=["3it", "1ep", "2ep"], recipe=RECIPE,
        setup=setup(tmp_path / "store"),
    )  # fmt: skip
    made_up = made_up_scores(scoring)
    real = dd.score(
        tiny(), scores=["el2n", "forgetting", "dyn_unc"], runs=2, at=["3it", "1ep", "2ep"], recipe=RECIPE,
        setup=setup(tmp_path / "store"),
    )  # fmt: skip
    holes = 0
    for key in real.shards:
        where = np.isnan(real.values(*key))
        assert np.array_equal(np.isnan(made_up.values(*key)), where), key
        holes += int(where.sum())
    assert holes


def test_random_subsets_beside_easy_ones_have_as_many_of_each_class(tmp_path: Path) -> None:
    planned = plan("coherence", tmp_path, data=tiny(240))
    labels, seen = tiny(240).labels, 0
    for _, stage in planned.stages:
        for label, task in stage.tasks:
            if "random" in label:
                counts = np.bincount(labels[np.asarray(task.rows)], minlength=3)
                assert counts.max() - counts.min() <= 1, label
                seen += 1
    assert seen


def test_a_class_too_small_for_balance_leaves_random_subsets_as_they_fall(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = arrays(240)
    rows = np.flatnonzero((found["y_train"] > 0) | (np.arange(240) < 30))  # 10 of the first class, 80 of the others
    data = dd.load(
        ((found["x_train"][rows], found["y_train"][rows]), (found["x_test"], found["y_test"])), name="uneven"
    )
    planned = plan("coherence", tmp_path, data=data)
    assert any("random" in label for _, stage in planned.stages for label, _ in stage.tasks)
    assert [_random(planned.job, size) for size in (31, 32, 33)] == ["balanced-random", "balanced-random", "random"]
    assert "are not class-balanced: a class has 10 examples" in caplog.text


def test_what_is_not_the_reverse_is_counted_among_the_hard_ones() -> None:
    rng = np.random.default_rng(0)
    lmc, el2n = np.where(rng.random((5, 400)) < 0.7, 0.0, 1.0).astype(np.float32), rng.random((5, 400), np.float32)
    numbers = lmc_scores._by_rank(lmc, el2n, "f", {"spawn_step": 1, "el2n_step": 2})
    for run in range(5):
        hard = np.argsort(el2n[run])[200:]
        (row,) = [row for row in numbers if row["run"] == run and row["bin"] == 0]
        assert row["connected_if_hard"] == pytest.approx(float((lmc[run][hard] < CONNECTED).mean()))
    implies, _, reverse = lmc_scores.judge(numbers)
    assert implies.outcome == "undecided", "LMC has nothing to do with EL2N here"
    assert reverse.outcome == "holds", "and so says nothing of it"
    strict = [{**row, "connected_if_hard": 0.0} for row in numbers]
    assert lmc_scores.judge(strict)[2].outcome == "does not hold"
