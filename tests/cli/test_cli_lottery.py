"""`datadiet lottery`: what it prints and writes, its plan, its flags, and what it refuses before training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_cli import FLAGS, RECIPE, arrays, files, ok, refused

import datadiet as dd
from datadiet.lottery import Mask, find_tickets

SMALL = ("lottery", "tiny.npz", *FLAGS, "--levels", 1, "--replicates", 2, "--score-runs", 2)
WEIGHTS = 36 * 16 + 16 * 3


def test_it_prints_accuracies_and_files_and_json_says_the_same(place: Path) -> None:
    words = (*SMALL, "--pretrain", "easiest:30@6", "--pretrain", "all@0", "-o", "tickets")
    text = ok(*words)
    for part in (
        "tiny: test accuracy after 28 steps (4 epochs)", "30 easiest, 6 steps", "no pre-training", "dense",
        "80.0 % left", "The point that is rewound to", "2 replicates, 624 weights before pruning",
    ):  # fmt: skip
        assert part in text.out, part
    assert "barrier" not in text.out
    said = ok(*words, "--json")
    assert said.err == ""
    content = said.json
    assert (content["what"], content["out"], content["prunable_weights"]) == ("lottery", "tickets", WEIGHTS)
    assert [one["label"] for one in content["outcomes"]] == ["30 easiest, 6 steps", "no pre-training"]
    first = content["outcomes"][0]
    assert first["left"] == [WEIGHTS, WEIGHTS - 125]
    assert np.array(first["accuracy"]).shape == (2, 2)
    for level in (0, 1):
        values = np.array(first["accuracy"])[:, level]
        assert f"{100 * values.mean():.2f} ± {100 * values.std(ddof=1):.2f}" in text.out
    assert f"level {first['matching_to_level']}" in text.out
    for name in ("lottery.json", "lottery.parquet", "lottery.png", "masks"):
        assert (place / "tickets" / name).exists()
        assert f"tickets/{name}" in text.out
    assert ok("show", "tickets").out == text.out
    assert ok("show", "tickets/lottery.json", "--json").json["outcomes"] == content["outcomes"]
    mask = Mask.load(place / "tickets" / "masks" / "30-easiest-6-steps" / "replicate1-level1.safetensors")
    assert mask.remaining == WEIGHTS - 125


def test_what_instruments_measure_is_shown(place: Path) -> None:
    words = (*SMALL, "--pretrain", "random:30@6")
    words += ("--instrument", "barrier", "--instrument", "coherence", "--instrument", "errors")
    text = ok(*words, "-o", "tickets")
    (one,) = ok(*words, "-o", "tickets", "--json").json["outcomes"]
    for name in ("loss_barrier", "error_barrier", "coherence", "error_dense", "error_sparse"):
        assert f"{np.mean(one[name]):.4f}" in text.out
    assert all(heading in text.out for heading in ("barrier", "coherence", "error"))


def test_flags_mean_what_the_arguments_of_the_library_mean(place: Path) -> None:
    words: tuple[object, ...] = ("--pretrain", "random:30", "--steps", 5, "--baselines", "--fraction", 0.5)
    words += ("--prune", "layerwise", "--exempt", "1")
    words += ("--rewind", "rate", "--noise", "redraw:0.5", "--noise-seed", 4, "--pretrain-lr", 0.2, "--balanced", "no")
    words += ("--horizon", "5ep", "--seed", 2)
    said = ok("lottery", "tiny.npz", *FLAGS, "--levels", 1, "--replicates", 1, *words, "--json").json
    assert said["out"] == "out/tiny-redraw0.5-lottery"
    setup = {"store": "other", "engine": "inline", "threads": 1, "precision": "float32"}
    result = find_tickets(
        "tiny.npz", pretrain=["random:30"], steps=5, baselines=True, levels=1, replicates=1, fraction=0.5,
        rule="layerwise", exempt=["1"], rewind="rate", noise="redraw:0.5", noise_seed=4, pretrain_lr=0.2, balanced="no",
        horizon="5ep", seed=2, recipe="recipe.json", setup=setup,
    )  # fmt: skip
    assert {**result.to_json(), "out": said["out"]} == said
    assert [one["label"] for one in said["outcomes"]] == [
        "30 random, 5 steps", "all, 10 steps", "all, 5 steps", "no pre-training",
    ]  # fmt: skip
    assert said["outcomes"][0]["density_by_layer"]["1.weight"] == 1.0
    assert (said["steps"], said["pretraining_recipe"]["lr"], said["recipe"]["lr"]) == (35, 0.2, RECIPE["lr"])


def test_the_step_of_a_score_is_a_flag(place: Path) -> None:
    words = (*SMALL, "--pretrain", "easiest:30@6", "--score-at", "el2n=9it", "--dry-run", "--json")
    assert ok(*words).json["stages"]["scoring by el2n"]["steps"] == 2 * 2, "scored at 7 steps before"
    assert "--score-at" in refused(place, *SMALL, "--pretrain", "random:30", "--score-at", "el2n=9it")


@pytest.mark.usefixtures("untrained")
def test_a_dry_run_counts_each_stage_and_writes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datadiet.flows import estimate

    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    before = files(place)
    words = (*SMALL, "--pretrain", "easiest:30@6", "--levels", 3, "--instrument", "barrier", "--seed", 5, "--dry-run")
    stages = ok(*words, "--json").json["stages"]
    assert {name: (s["planned"], s["jobs"], s["steps"]) for name, s in stages.items()} == {
        "scoring by el2n": (2, 2, 2 * 14),
        "pre-training": (2, 2, 2 * 6),
        "level 0": (2, 2, 2 * 22),
        "children": (4, 4, 4 * 22),
        "level 1": (2, 2, 2 * 22),
        "level 2": (2, 2, 2 * 22),
        "level 3": (2, 2, 2 * 22),
    }
    text = ok(*words)
    assert "datadiet lottery" in text.out
    assert "ms/step" in text.out
    assert files(place) == before


def test_a_plan_of_what_is_done_has_only_the_levels_that_are_not(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datadiet.flows import estimate

    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    words = (*SMALL, "--pretrain", "random:30@6", "-o", "tickets")
    ok(*words)
    stages = ok(*words, "--levels", 2, "--dry-run", "--json").json["stages"]
    assert {name: stage["jobs"] for name, stage in stages.items()} == {
        "pre-training": 0, "level 0": 0, "level 1": 0, "level 2": 2,
    }  # fmt: skip
    again = ok(*words)
    assert again.err.splitlines() == ["2 of 2 runs are in datadiet-runs already, nothing to train"] * 3


# ------------------------------------------------------------------------------------------------ bad input


BAD = ("lottery", "tiny.npz", *FLAGS, "-o", "out", "--store", "fresh")


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pretrain", "easiest:121"), "121 examples are more than the 120 there are"),
        (("--pretrain", "random:0"), "'0' examples"),
        (("--pretrain", "easiest"), "how many easiest examples?"),
        (("--pretrain", "easyest:30"), "unknown pre-training 'easyest'; did you mean easiest"),
        (("--pretrain", "easiest/el3n:30"), "unknown score 'el3n'; did you mean el2n"),
        (("--pretrain", "easiest:30@later"), "'later' is not a step"),
        (("--pretrain", "all@28"), "rewinding to step 28 leaves nothing to train of 28"),
        (("--pretrain", "all@5ep"), "rewinding to step 35 leaves nothing to train of 28"),
        (("--pretrain", "all", "--steps", 28), "--steps: rewinding to step 28 leaves nothing"),
        (("--steps", 99), "--baselines: all data for twice 99 steps is more than the run has (28)"),
        (("--pretrain", "all", "--steps", "-1"), "'-1' is not a step"),
        (("--pretrain", "all", "--steps", "²"), "'²' is not a step"),
        (("--pretrain", "all", "--horizon", "2it", "--steps", 2), "leaves nothing to train of 2"),
        (("--fraction", 0), "--fraction: a part of 0.0 is pruned; more than 0 and less than 1"),
        (("--fraction", 1), "a part of 1.0"),
        (("--fraction", -0.2), "a part of -0.2"),
        (("--fraction", "nan"), "a part of nan"),
        (("--fraction", "half"), "'--fraction'"),
        (("--levels", -1), "--levels: -1 levels; give a whole number, at least 0"),
        (("--replicates", 0), "--replicates: 0 replicates; give a whole number, at least 1"),
        (("--score-runs", 0), "--score-runs: 0 score runs; give a whole number, at least 1"),
        (("--prune", "magnitud"), "--prune: unknown pruning rule 'magnitud'; did you mean magnitude"),
        (("--rewind", "wheels"), "--rewind: unknown choice 'wheels'; known: rate, weights"),
        (("--balanced", "maybe"), "--balanced: unknown choice 'maybe'"),
        (("--instrument", "barriers"), "--instrument: unknown instrument 'barriers'; did you mean barrier"),
        (("--exempt", "head"), "--exempt: unknown layer 'head'; known: 1, 1.weight, 3, 3.weight"),
        (("--exempt", "1", "--exempt", "3"), "--exempt: every layer is exempt"),
        (("--noise", "redraw:1.5"), "it must lie in (0, 1]"),
        (("--noise", "redrew:0.5"), "'redrew'; did you mean redraw"),
        (("--pretrain-lr", 0), "a learning rate of 0"),
        (("--score-at", "el2n"), "--score-at: 'el2n' is no option; write name=value"),
        (("--score-at", "loss=1ep"), "--score-at: unknown score of a pre-training 'loss'; known: el2n"),
        (("--score-at", "el2n=9ep"), "9ep is step 63, and the run has 28"),
        (("--score-at", "el2n=1.5"), "--score-at: "),
        (("--rewind", "rate", "--instrument", "errors"), "which --rewind rate does not go back to"),
        (("--validation", "0.2", "--noise", "redraw:0.1"), "--noise: a validation split"),
        (("--preset", "lt-cifar"), "unknown preset 'lt-cifar'; did you mean lt-cifar10"),
        (("--seed", -1), "'--seed'"),
        (("--validation", 1.5), "it must lie between 0 and 1"),
    ],
)  # fmt: skip
def test_a_bad_flag_is_one_line(place: Path, words: tuple[object, ...], said: str) -> None:
    assert said in refused(place, *BAD, *words)


@pytest.mark.usefixtures("untrained")
def test_a_balanced_subset_that_a_class_is_too_small_for_is_refused(place: Path) -> None:
    found = arrays()
    few = np.flatnonzero(found["y_train"] == 2)[5:]
    kept = np.setdiff1d(np.arange(120), few)
    np.savez("few.npz", **{**found, "x_train": found["x_train"][kept], "y_train": found["y_train"][kept]})
    words = ("lottery", "few.npz", *FLAGS, "-o", "out", "--store", "fresh", "--steps", 5, "--pretrain")
    for one in ("random:30", "easiest/forgetting:30"):
        assert "has 5 examples, and balanced classes need 10 of it; take fewer" in refused(place, *words, one)
    assert "balanced classes need 10" in refused(place, *words, "easiest:30", "--balanced", "yes")


@pytest.mark.usefixtures("untrained")
def test_data_without_a_test_split_and_networks_without_layers_are_refused(place: Path) -> None:
    data = dd.load((arrays()["x_train"], arrays()["y_train"]), test_fraction=None)
    with pytest.raises(dd.DatadietError, match="no test split to compare on"):
        find_tickets(data, recipe=RECIPE, setup={"store": "fresh"})
    (place / "mine.py").write_text(
        "from torch import nn\n\n"
        "def net(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.AdaptiveAvgPool1d(classes))\n"
    )
    (place / "bare.json").write_text(json.dumps({key: v for key, v in RECIPE.items() if key != "model_args"}))
    words = ("lottery", "tiny.npz", "--recipe", "bare.json", "--model", "mine.py:net", "-o", "out", "--store", "fresh")
    assert "has no convolution or linear layer to prune" in refused(place, *words)


def test_a_folder_that_holds_another_lottery_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*SMALL, "--pretrain", "random:30@6", "-o", "tickets")
    ok(*words)
    ok(*words, "--levels", 2)  # the same one, further
    easy = (*SMALL, "--pretrain", "easiest:30@6", "-o", "easy")
    ok(*easy)
    from datadiet.flows import jobs

    def trains(*_: object, **__: object) -> None:
        raise AssertionError("this must not train")

    monkeypatch.setattr(jobs, "train", trains)
    for other, differs in (
        (("--seed", 1), "seed"),
        (("--fraction", 0.3), "fraction"),
        (("--prune", "random"), "rule"),
        (("--exempt", "1"), "exempt"),
        (("--rewind", "rate"), "rewind"),
        (("--noise", "redraw:0.5"), "noise"),
        (("--horizon", "5ep"), "recipe"),
        (("--pretrain-lr", 0.3), "pretraining_recipe"),
        (("--balanced", "yes"), "balanced"),
    ):
        line = refused(place, *words, *other)
        assert "tickets: holds another lottery (other " in line
        assert differs in line
    for other in (("--score-at", "el2n=9it"), ("--score-runs", 3)):
        assert "easy: holds another lottery (other el2n scores)" in refused(place, *easy, *other)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("flag", ["-o", "--store"])
def test_a_place_that_cannot_be_written_is_refused(place: Path, flag: str) -> None:
    words = {"-o": "out", "--store": "fresh", flag: "recipe.json/below"}
    line = refused(place, *SMALL, "--pretrain", "random:30@6", *[word for pair in words.items() for word in pair])
    assert "recipe.json" in line


def test_lottery_of_a_class_that_a_subset_lacks_still_runs(place: Path) -> None:
    np.savez("two.npz", **arrays(sort=True))
    words = ("--levels", 0, "--replicates", 1, "--pretrain", "random:1@2", "--balanced", "no", "-o", "two")
    said = ok("lottery", "two.npz", *FLAGS, *words, "--json").json
    assert said["outcomes"][0]["examples"] == 1
    assert said["outcomes"][0]["std"] == [None]


def test_one_replicate_has_no_spread(place: Path) -> None:
    text = ok("lottery", "tiny.npz", *FLAGS, "--levels", 0, "--replicates", 1, "--pretrain", "all@0", "-o", "one")
    assert "±" not in text.out
    assert "1 replicate, 624 weights" in text.out


def test_two_instruments_on_eighty_columns_leave_every_name_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from datadiet.cli import lottery, output

    monkeypatch.setenv("COLUMNS", "80")
    fields = ("pretrained_accuracy", "pretrained_train_accuracy", "loss_barrier", "error_barrier")
    found = {field: [0.5] for field in (*fields, "error_dense", "error_sparse")}
    labels = ("512 easiest, 20 steps", "no pre-training")
    output.console().print(lottery.points({"outcomes": [{"label": label, **found} for label in labels]}))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert {"pre-trained", "pre-training", "easiest,", "steps", "0.5000"} <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
