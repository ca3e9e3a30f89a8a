"""What a dry run says that a plan will cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_flows import RECIPE, setup, tiny

import datadiet as dd


def test_the_estimate_counts_a_gradient_norm_as_a_training_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from datadiet.flows import estimate
    from datadiet.flows.score import plan_score

    monkeypatch.setattr(estimate, "measure", lambda *_: (1.0, 0.0))  # a second a step, scoring for nothing

    def seconds(*scores: str) -> float:
        plan = plan_score(tiny(), scores=scores, runs=2, at=["1ep", "2ep"], recipe=RECIPE, setup=setup(tmp_path))
        ((_, cost),) = estimate.estimates(plan.stages())
        return cost.seconds

    assert seconds("loss") == 2 * 14  # two runs of two epochs of seven steps
    assert seconds("loss", "grand") == 2 * 14 + 2 * 2 * 120 / 16  # and two passes over 120 examples in each


def test_the_estimate_counts_the_lines_between_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from datadiet.flows import estimate
    from datadiet.flows.connectivity import plan_connectivity
    from datadiet.flows.plan import Runs
    from datadiet.flows.score import plan_score

    monkeypatch.setattr(estimate, "measure", lambda *_: (0.0, 1.0))  # training for nothing, a second an example
    place = setup(tmp_path)
    plan = plan_score(tiny(), scores=["lmc"], runs=2, at="1ep", recipe=RECIPE, setup=place)

    def seconds(stages: Any) -> float:
        return sum(cost.seconds for name, cost in estimate.estimates(stages) if name.startswith("children"))

    # Of each run three children and the three midpoints between them, on 120 examples each.
    assert seconds(plan.stages()) == 2 * (3 + 3) * 120
    # Twice the same lines are walked once; they are still to be walked where all networks are there.
    assert seconds([*plan.stages(), *plan.stages()]) == 2 * (3 + 3) * 120
    dd.score(tiny(), scores=["lmc"], runs=2, at="1ep", recipe=RECIPE, setup=place)
    assert seconds(plan.stages()) == 0
    for file in tmp_path.rglob("path@*"):
        file.unlink()
    for file in tmp_path.rglob("lmc@*"):
        file.unlink()
    assert seconds(plan.stages()) == 2 * (3 + 3) * 120
    ((_, cost), (_, walks)) = estimate.estimates(plan.stages())
    assert (cost.jobs, walks.jobs, walks.steps) == (0, 0, 0)

    def walked(**options: Any) -> int:
        found = plan_connectivity(tiny(), at=["1ep"], recipe=RECIPE, setup=place, **options)
        scoring, grown = found.scoring, found.families
        paths = list(grown.paths.values())
        runs = Runs(found.data, scoring.recipe, scoring.network, scoring.numerics, place, [], paths)
        ((_, cost),) = estimate.estimates([("children", runs)])
        return cost.seconds

    assert walked(children=4, alphas=[0.25, 0.5]) == (4 + 6 * 2) * 120
    # For statistics anew 7 whole batches of 16 go through at each point between two, of the 50 that are wanted.
    assert walked(children=2, statistics="re-estimated") == (2 + 1) * 120 + 7 * 16


def test_the_estimate_counts_measures_and_times_a_network_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from datadiet.flows import estimate
    from datadiet.flows.measures import Accuracies, Errors, GradientCoherence, Kernel, TrainingGradientNorms
    from datadiet.flows.score import plan_score

    timed = []
    monkeypatch.setattr(estimate, "measure", lambda *what: timed.append(what) or (16.0, 1.0))  # a second an example
    data = tiny()

    def planned(recipe: Any) -> Any:
        return plan_score(data, scores=["loss"], runs=1, at=["1ep"], recipe=recipe, setup=setup(tmp_path))

    def seconds(*measures: Any) -> float:
        plan = planned(RECIPE)
        ((label, task),) = plan.tasks
        asked = [(label, replace(task, measures=tuple((3, one) for one in measures)))]
        ((_, cost),) = estimate.estimates([("scoring", replace(plan, tasks=asked))])
        return cost.seconds

    plain = seconds()
    assert plain == 7 * 16 + 120
    tests, rows = len(data.test), np.arange(10)
    assert seconds(Accuracies()) - plain == 120 + tests
    assert seconds(Accuracies(), Errors()) - plain == 240 + tests
    assert seconds(Kernel(rows)) - plain == 10 * len(data.classes)
    assert seconds(GradientCoherence(rows, 4, 8)) - plain == 4 * 8
    assert seconds(GradientCoherence(rows, 4, 16)) - plain == 4 * 10
    assert seconds(TrainingGradientNorms(5)) - plain == 5 * 16
    timed.clear()
    recipe = planned(RECIPE).recipe
    stages = [("one", recipe), ("two", recipe.with_(lr=0.5, steps="9ep")), ("three", recipe.with_(batch_size=8))]
    costs = dict(estimate.estimates([(name, planned(one)) for name, one in stages]))
    assert costs["one"].seconds == costs["two"].seconds == plain
    assert len(timed) == 2, "the rate and the length do not change what a step takes"


def test_what_a_gpu_still_computes_is_waited_for_before_the_clock_starts(monkeypatch: pytest.MonkeyPatch):
    from datadiet.flows import estimate
    from datadiet.numerics import Numerics
    from datadiet.training.recipe import Recipe

    done: list[str] = []

    class Logits:
        def cpu(self) -> None:
            done.append("waited")

    def predict(*_: Any) -> Logits:
        done.append("asked")
        return Logits()

    monkeypatch.setattr(estimate, "predict", predict)
    estimate.measure(Recipe(**{**RECIPE, "steps": 2}), tiny(), Numerics())
    assert done == ["asked", "waited"] * 2
