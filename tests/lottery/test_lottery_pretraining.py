"""What to pre-train on: how it is written, which examples it takes, and the paper's numbers."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from tiny_lottery import RECIPE, UNTIL, tiny

import datadiet as dd
from datadiet.data.dataset import from_arrays
from datadiet.errors import DatadietError
from datadiet.flows import estimate
from datadiet.lottery import LOTTERIES, LotteryPreset, Pretraining, plan_tickets, stages
from datadiet.lottery.presets import lottery_preset
from datadiet.lottery.pruning import FRACTION
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "meant", "name"),
    [
        ("all", ("all", None, None, None), "all"),
        ("all@0", ("all", None, None, "0"), "all"),
        ("all@2ep", ("all", None, None, "2ep"), "all"),
        ("easiest:2048", ("easiest", "el2n", 2048, None), "2048 easiest"),
        ("easiest:2048@200", ("easiest", "el2n", 2048, "200it"), "2048 easiest"),
        ("easiest/forgetting:2048@200", ("easiest", "forgetting", 2048, "200it"), "2048 easiest by forgetting"),
        ("easiest/lmc:2048@400it", ("easiest", "lmc", 2048, "400it"), "2048 easiest by lmc"),
        ("hardest:7@0", ("hardest", "el2n", 7, "0"), "7 hardest"),
        (" random:16@0.5ep ", ("random", None, 16, "0.5ep"), "16 random"),
    ],
)
def test_a_pretraining_is_read_as_it_is_meant(text: str, meant: tuple[Any, ...], name: str) -> None:
    found = Pretraining.parse(text)
    assert found == Pretraining(*meant)
    assert found.name == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        (":256", "cannot be read"),
        ("easiest 256", "cannot be read"),
        ("easyest:256", "unknown pre-training 'easyest'; did you mean easiest"),
        ("easiest", "how many easiest examples?"),
        ("random", "how many random examples?"),
        ("all:256", "all examples have a size of their own"),
        ("random/el2n:256", "'random' needs no score"),
        ("all/el2n", "'all' needs no score"),
        ("easiest/el3n:256", "unknown score 'el3n'; did you mean el2n"),
        ("easiest:0", "'0' examples"),
        ("easiest:-5", "'-5' examples"),
        ("easiest:half", "'half' examples"),
        ("easiest:2.5", "'2.5' examples"),
        ("easiest:²", "'²' examples"),
        ("easiest:256@soon", "'soon' is not a step"),
        ("easiest:256@-3", "'-3' is not a step"),
        ("easiest:256@²", "'²' is not a step"),
        ("easiest:256@", "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_one_line_that_names_the_flag(text: str, said: str) -> None:
    with pytest.raises(DatadietError) as caught:
        Pretraining.parse(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith("--pretrain")
    assert "\n" not in str(caught.value)


def test_a_size_that_the_data_cannot_give_is_refused() -> None:
    data = tiny(counts=(70, 45, 5))
    Pretraining.parse("easiest:120").check(data, balanced=False)
    with pytest.raises(DatadietError, match="121 examples are more than the 120"):
        Pretraining.parse("easiest:121").check(data, balanced=False)
    Pretraining.parse("random:15").check(data, balanced=True)
    Pretraining.parse("random:60").check(data, balanced=False)
    with pytest.raises(DatadietError, match="class 2 has 5 examples, and balanced classes need 6 of it; take fewer"):
        Pretraining.parse("random:18").check(data, balanced=True)
    # The remainder of a ranked subset is one a class, so it must be there; that of a random one comes from the pool.
    with pytest.raises(DatadietError, match="class 1 has 5 examples, and balanced classes need 6 of it"):
        Pretraining.parse("easiest/forgetting:17").check(tiny(counts=(8, 5, 5)), balanced=True)
    Pretraining.parse("random:17").check(tiny(counts=(8, 5, 5)), balanced=True)


def test_the_paper_balances_random_and_forgetting_subsets_and_no_others() -> None:
    even = {text: Pretraining.parse(text).balanced for text in ("random:9", "easiest:9", "hardest:9", "easiest/lmc:9")}
    assert even == {"random:9": True, "easiest:9": False, "hardest:9": False, "easiest/lmc:9": False}
    assert Pretraining.parse("easiest/forgetting:9").balanced


def test_random_subsets_are_drawn_anew_for_each_replicate_and_seed() -> None:
    data = tiny()
    one = Pretraining.parse("random:30")
    found = {
        (seed, run): np.asarray(one.subset(data, None, None, True, seed, run)) for seed in (0, 1) for run in (0, 1)
    }
    assert len({tuple(rows) for rows in found.values()}) == 4
    for rows in found.values():
        assert np.bincount(data.labels[rows]).tolist() == [10, 10, 10]
        assert len(set(rows.tolist())) == 30
    again = one.subset(data, None, None, True, 1, 0)
    assert np.array_equal(found[1, 0], again)
    loose = [np.bincount(data.labels[np.asarray(one.subset(data, None, None, False, 0, run))]) for run in range(5)]
    assert any(counts.tolist() != [10, 10, 10] for counts in loose)


def test_all_examples_are_no_subset() -> None:
    data = tiny()
    for text in ("all", "random:120"):
        assert Pretraining.parse(text).subset(data, None, None, True, 0, 0) is None


# LT Table 1 and its appendices, as PRESET: network, batch, pre-training rate, steps at which the rate falls, all
# steps, t*, the easy subset of the main figures, steps of the scores.
TABLE = {
    "lt-cifar10": ("resnet20", 128, 0.4, (31_200, 46_800), 62_400, 400, 2048, 7_800),
    "lt-cifar100": ("resnet32", 128, 0.4, (31_200, 46_800), 62_400, 800, 2048, 7_800),
    "lt-cinic10": ("resnet56", 256, 0.1, (15_625, 23_440), 31_250, 400, 25_600, 8_000),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_presets_have_every_number_of_the_papers_table(name: str) -> None:
    model, batch, pretraining_lr, milestones, steps, matching, size, scored_at = TABLE[name]
    recipe, lottery = PRESETS.get(name).recipe, LOTTERIES.get(name)
    assert (recipe.model, recipe.batch_size) == (model, batch)
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.nesterov) == ("sgd", 0.1, 0.9, False)
    assert recipe.weight_decay == 1e-4
    assert (recipe.schedule, recipe.gamma, recipe.warmup) == ("steps", 0.1, "0")
    assert recipe.milestones == tuple(f"{step}it" for step in milestones)
    assert recipe.steps == f"{steps}it"
    assert (recipe.pad, recipe.pad_mode, recipe.flip) == (4, "zeros", True)
    assert (PRESETS.get(name).runs, PRESETS.get(name).at) == (10, (f"{scored_at}it",))
    assert (lottery.lr, lottery.steps, lottery.size) == (pretraining_lr, f"{matching}it", size)
    assert lottery.scores_at == f"{scored_at}it"
    assert FRACTION == 0.2
    usual = {key: p.default for key, p in inspect.signature(plan_tickets).parameters.items()}
    assert (usual["replicates"], usual["rule"], usual["rewind"], usual["exempt"]) == (4, "magnitude", "weights", ())
    assert usual["levels"] == 8
    assert round(100 * (1 - FRACTION) ** 8, 1) == 16.8


@pytest.mark.parametrize("name", TABLE)
def test_a_plan_by_such_a_preset_uses_them(name: str) -> None:
    model, batch, pretraining_lr, milestones, steps, matching, _, scored_at = TABLE[name]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3000, 32, 32, 3), np.uint8)
    data = from_arrays(name[3:], (images[:2900], np.arange(2900) % 10), (images[2900:], np.arange(100) % 10))
    plan = plan_tickets(data, preset=name, pretrain=["easiest:2048"], baselines=True)
    assert (plan.recipe.model, plan.recipe.batch_size, plan.until) == (model, batch, steps)
    assert plan.pre_recipe == plan.recipe.with_(lr=pretraining_lr)
    assert {v.label: v.step for v in plan.variants} == {
        f"2048 easiest, {matching // 2} steps": matching // 2,
        f"all, {matching} steps": matching,
        f"all, {matching // 2} steps": matching // 2,
        "no pre-training": 0,
    }
    assert (plan.levels, plan.replicates, plan.fraction, plan.rule) == (8, 4, 0.2, "magnitude")
    scoring = plan.scorings["el2n"]
    assert (scoring.marks, len(scoring.tasks)) == ([scored_at], 10)
    assert scoring.recipe == plan.recipe, "scores are of ordinary training, at its own rate"
    assert plan.recipe.milestones == tuple(f"{step}it" for step in milestones)


def test_of_other_recipes_pretraining_is_a_64th_of_the_run_at_its_own_rate() -> None:
    found = lottery_preset(dd.load("digits"), "digits", Recipe(lr=0.1), 420, "4ep")
    assert found == LotteryPreset(0.1, "7it", 160, "4ep")
    assert lottery_preset(tiny(), "none", Recipe(lr=0.1), UNTIL, "1ep") == LotteryPreset(0.1, "2it", 48, "1ep")
    paper = PRESETS.get("lt-cifar10").recipe
    assert LOTTERIES.get("lt-cifar10") is lottery_preset(tiny(), "lt-cifar10", paper.with_(steps="9ep"), 10, "1ep")
    for own in (paper.with_(lr=0.03), paper.with_(optimizer="adamw", lr=0.001)):
        found = lottery_preset(tiny(), "lt-cifar10", own, 10, "1ep")
        assert (found.lr, found.steps) == (own.lr, "400it"), "0.4 was chosen for SGD at 0.1"


def test_what_is_asked_for_is_planned_and_nothing_else() -> None:
    data = tiny()
    usual = plan_tickets(data, recipe=RECIPE)
    labels = ["48 easiest, 1 step", "48 random, 1 step", "all, 2 steps", "all, 1 step", "no pre-training"]
    assert [v.label for v in usual.variants] == labels
    named = plan_tickets(data, recipe=RECIPE, pretrain=["random:48", "all@1ep", "all@0", "all@7it"], steps=5)
    assert [v.label for v in named.variants] == ["48 random, 5 steps", "all, 7 steps", "no pre-training"]
    assert not named.scorings
    both = plan_tickets(data, recipe=RECIPE, pretrain=["random:48"], steps="5it", baselines=True)
    assert [v.step for v in both.variants] == [5, 10, 5, 0]
    assert plan_tickets(data, recipe=RECIPE, pretrain=["all"], pretrain_lr=0.3).pre_recipe.lr == 0.3
    balance = {
        given: [v.balanced for v in plan_tickets(
            data, recipe=RECIPE, pretrain=["random:48", "easiest:48", "all"], balanced=given
        ).variants]
        for given in ("paper", "yes", "no")
    }  # fmt: skip
    assert balance == {"paper": [True, False, False], "yes": [True, True, False], "no": [False, False, False]}


def test_scores_are_taken_at_the_usual_step_or_at_the_end_of_a_shorter_run() -> None:
    digits = dd.load("digits")
    assert plan_tickets(digits, pretrain=["easiest:100"], steps=5).scorings["el2n"].marks == [84]
    short = plan_tickets(digits, pretrain=["easiest:100"], steps=5, horizon="2ep")
    assert (short.until, short.scorings["el2n"].marks) == (42, [42])
    with pytest.raises(DatadietError, match="4ep is step 84, and the run has 42; take the score earlier"):
        plan_tickets(digits, pretrain=["easiest:100"], steps=5, horizon="2ep", scores_at={"el2n": "4ep"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("hard", "el2n", 5), "unknown pre-training 'hard'"),
        (("easiest", None, 5), "unknown score ''"),
        (("easiest", "el2n"), "how many easiest examples?"),
        (("all", None, 5), "a size of their own"),
        (("random", "el2n", 5), "'random' needs no score"),
        (("random", None, 0), "0 examples"),
    ],
)
def test_one_that_is_made_in_python_is_held_to_the_same(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(DatadietError, match=said):
        Pretraining(*given)


def test_no_steps_on_any_examples_are_no_pretraining_and_cost_no_scores() -> None:
    found = plan_tickets(tiny(), recipe=RECIPE, pretrain=["easiest:48@0", "random:30", "all@0"], steps=5)
    assert [v.label for v in found.variants] == ["no pre-training", "30 random, 5 steps"]
    assert found.variants[0].pretraining.size is None
    assert not found.scorings


def test_scoring_runs_are_as_many_as_asked_for_and_two_for_lmc() -> None:
    def runs(asked: Any) -> dict[str, int]:
        plan = plan_tickets(
            tiny(), recipe=RECIPE, pretrain=["easiest:48", "easiest/lmc:48"], steps=2, score_runs=asked,
            scores_at={"lmc": "6it"},
        )  # fmt: skip
        return {name: len(one.tasks) for name, one in plan.scorings.items()}

    assert runs(None)["lmc"] == 2
    assert runs(3) == {"el2n": 3, "lmc": 3}
    assert runs({"el2n": 4}) == {"el2n": 4, "lmc": 2}


def test_a_coherence_of_few_batches_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {"pretrain": ["random:31", "random:32"], "steps": 2, "instruments": ["coherence"]}
    plan_tickets(tiny(), recipe=RECIPE, **given)
    one, two = [record.getMessage() for record in caplog.records if "batches" in record.getMessage()]
    assert one.startswith("31 random, 2 steps: 31 examples make fewer than two batches of 16, for 16 gradients, which")
    assert one.endswith("agree by construction")
    assert "32 examples make 2 batches of 16, for 16 gradients, which agree the more" in two
    caplog.clear()
    plan_tickets(tiny(), recipe={**RECIPE, "batch_size": 2}, **{**given, "pretrain": ["random:32"]})
    assert "batches" not in caplog.text


def test_runs_of_which_several_scores_are_taken_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    plan = plan_tickets(
        tiny(), recipe=RECIPE, pretrain=["easiest:48", "easiest/forgetting:48"], steps=2, score_runs=2
    )  # fmt: skip
    scoring = {name: cost.planned for name, cost in estimate.estimates(stages(plan)) if name.startswith("scoring")}
    assert scoring == {"scoring by forgetting": 2}
