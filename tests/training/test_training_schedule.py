"""Learning rates against closed forms, and the presets against the papers' numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.steps import Step
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe
from datadiet.training.schedule import learning_rate, unreached

N = 1280  # ten steps an epoch of 128


@given(st.integers(0, 199))
def test_without_a_schedule_the_rate_is_constant(step):
    assert learning_rate(Recipe(schedule="constant", lr=0.3), N)(step) == 0.3


@given(st.integers(0, 199))
def test_linear_falls_in_a_straight_line_to_zero_at_the_horizon(step):
    rate = learning_rate(Recipe(schedule="linear", lr=0.4, steps="20ep"), N)
    assert rate(step) == pytest.approx(0.4 * (200 - step) / 200)
    assert rate(200) == 0


@given(st.integers(0, 199))
def test_cosine_is_half_a_cosine_over_the_horizon(step):
    rate = learning_rate(Recipe(schedule="cosine", lr=0.4, steps="200it"), N)
    assert rate(step) == pytest.approx(0.2 * (1 + math.cos(math.pi * step / 200)))
    assert rate(200) == pytest.approx(0, abs=1e-12)


def test_milestones_multiply_by_gamma_from_the_step_on_that_they_name():
    rate = learning_rate(
        Recipe(schedule="steps", lr=0.8, gamma=0.5, milestones=("30it", "1ep", "5ep"), steps="10ep"), N
    )
    expected = {0: 0.8, 9: 0.8, 10: 0.4, 29: 0.4, 30: 0.2, 49: 0.2, 50: 0.1, 99: 0.1}
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


@settings(max_examples=50)
@given(st.sampled_from(["constant", "linear", "cosine", "steps"]), st.integers(1, 60))
def test_warm_up_rises_in_a_straight_line_and_the_schedule_follows_it(schedule, warmup):
    more = {"milestones": (f"{warmup + 10}it",)} if schedule == "steps" else {}
    recipe = Recipe(schedule=schedule, lr=0.5, warmup=f"{warmup}it", steps=f"{warmup + 300}it", **more)
    rate = learning_rate(recipe, N)
    for step in range(warmup):
        assert rate(step) == pytest.approx(0.5 * (step + 1) / warmup)
    assert rate(warmup - 1) == rate(warmup) == pytest.approx(0.5)
    after = {
        "constant": 1.0,
        "linear": 1 - 199 / 300,
        "cosine": 0.5 * (1 + math.cos(math.pi * 199 / 300)),
        "steps": 0.1,
    }
    assert rate(warmup + 199) == pytest.approx(0.5 * after[schedule])


def test_the_rate_of_a_step_does_not_depend_on_where_a_run_stops_or_which_subset_it_trains_on():
    recipe = Recipe(schedule="cosine", steps="20ep")
    assert recipe.horizon(N) == 200
    assert learning_rate(recipe, N)(57) == learning_rate(recipe, N + 127)(57), "the partial batch is dropped"


# PROTOCOL: total steps; the rate at the first step, on both sides of each milestone, and at the last.
PAPERS = {
    ("dd-cifar10", 50_000): (
        78_000,
        {0: 0.1, 23_399: 0.1, 23_400: 0.02, 46_799: 0.02, 46_800: 0.004, 62_399: 0.004, 62_400: 0.0008, 77_999: 0.0008},
    ),
    ("dd-cinic10", 180_000): (
        140_600,
        {0: 0.1, 42_179: 0.1, 42_180: 0.02, 84_359: 0.02, 84_360: 0.004, 112_479: 0.004, 112_480: 8e-4, 140_599: 8e-4},
    ),
    ("lt-cifar10", 50_000): (62_400, {0: 0.1, 31_199: 0.1, 31_200: 0.01, 46_799: 0.01, 46_800: 0.001, 62_399: 0.001}),
    ("lt-cinic10", 180_000): (
        31_250, {0: 0.1, 15_624: 0.1, 15_625: 0.01, 23_439: 0.01, 23_440: 0.001, 31_249: 0.001},
    ),
}  # fmt: skip
PAPERS[("dd-cifar100", 50_000)] = PAPERS[("dd-cifar10", 50_000)]
PAPERS[("lt-cifar100", 50_000)] = PAPERS[("lt-cifar10", 50_000)]


@pytest.mark.parametrize(("preset", "examples"), PAPERS)
def test_a_papers_preset_has_its_horizon_and_its_rates(preset, examples):
    recipe = PRESETS.get(preset).recipe
    horizon, rates = PAPERS[(preset, examples)]
    rate = learning_rate(recipe, examples)
    assert recipe.horizon(examples) == horizon
    assert {step: rate(step) for step in rates} == pytest.approx(rates)


@pytest.mark.parametrize("preset", ["dd-cifar10", "dd-cifar100", "dd-cinic10"])
def test_the_data_diet_presets_are_those_of_its_appendix(preset):
    recipe, cinic = PRESETS.get(preset).recipe, preset == "dd-cinic10"
    assert (recipe.model, recipe.model_args) == ("resnet18", {})
    assert recipe.batch_size == (256 if cinic else 128)
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov, recipe.weight_decay) == ("sgd", 0.9, True, 5e-4)
    assert (recipe.pad, recipe.pad_mode, recipe.flip, recipe.warmup) == (4, "reflect", True, "0")
    assert PRESETS.get(preset).runs == 10
    assert PRESETS.get(preset).at == ("10ep", "20ep")


@pytest.mark.parametrize(
    ("preset", "model", "batch", "at"),
    [
        ("lt-cifar10", "resnet20", 128, 7800),
        ("lt-cifar100", "resnet32", 128, 7800),
        ("lt-cinic10", "resnet56", 256, 8000),
    ],
)
def test_the_lottery_ticket_presets_are_those_of_its_appendix(preset, model, batch, at):
    recipe = PRESETS.get(preset).recipe
    assert (recipe.model, recipe.batch_size) == (model, batch)
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov, recipe.weight_decay) == ("sgd", 0.9, False, 1e-4)
    assert (recipe.pad, recipe.pad_mode, recipe.flip) == (4, "zeros", True)
    assert PRESETS.get(preset).at == (f"{at}it",)
    assert PRESETS.get(preset).runs == 10


@pytest.mark.parametrize(("preset", "keep"), [("dd-cifar10", 0.5), ("dd-cinic10", 0.6), ("dd-cifar100", 0.75)])
def test_the_fractions_kept_include_those_of_figure_1(preset, keep):
    assert keep in PRESETS.get(preset).keeps


@pytest.mark.parametrize("preset", PRESETS.names())
def test_every_preset_takes_its_scores_within_its_horizon(preset):
    entry = PRESETS.get(preset)
    for examples in (1347, 50_000):
        per_epoch = entry.recipe.steps_per_epoch(examples)
        if preset.startswith(("dd-", "lt-")) and examples < 50_000:
            continue
        assert all(Step.parse(at).resolve(per_epoch) <= entry.recipe.horizon(examples) for at in entry.at)


def test_milestones_that_a_run_does_not_reach_are_named():
    steps = Recipe(schedule="steps", milestones=("60ep", "1200it"), steps="20ep")
    assert unreached(steps, N) == [
        "the milestones 60ep, 1200it are not within the run of 200 steps (20ep): its learning rate never falls"
    ]
    assert unreached(steps.with_(milestones=("10ep", "200it")), N) == [
        "the milestone 200it is not within the run of 200 steps (20ep): its learning rate never falls there"
    ]
    assert unreached(steps.with_(milestones=("0.5ep", "199it")), N) == []
    assert unreached(steps.with_(schedule="cosine"), N) == []


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_reaches_its_milestones(name):
    assert unreached(PRESETS.get(name).recipe, 50_000) == []
