"""A claim does not hold for a wrong reason, and a folder keeps the study that it holds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_studies import RECIPE, arrays, plan, rehearsed

import datadiet as dd
from datadiet import studies
from datadiet.errors import DatadietError
from datadiet.store import read_json, write_json
from datadiet.studies import STUDIES
from datadiet.studies.output import read_numbers
from datadiet.studies.transfer import others
from datadiet.studies.verdict import verdict


def run(name: str, folder: Path, **options: Any) -> studies.StudyResult:
    return studies.execute(plan(name, folder, **options))


def cut() -> dd.Dataset:
    """A dataset whose test rows are of the source, so that training rows have other numbers there."""
    found = arrays()
    return dd.load((found["x_train"], found["y_train"]), name="cut")


def test_memorisation_values_are_of_rows_of_the_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = cut()
    assert data.rows is not None
    values = np.linspace(0, 1, 120)
    with caplog.at_level(logging.INFO):
        job = plan("memorization", tmp_path, data=data, memorization=(np.arange(120), values)).job
    assert job.memorization is not None
    rows, kept = job.memorization
    np.testing.assert_array_equal(rows, np.arange(len(data)))
    np.testing.assert_array_equal(kept, values[data.rows])
    assert "24 of 120 memorisation values are of rows that are not trained on" in caplog.text
    for wrong in (np.setdiff1d(np.arange(120), data.rows), np.array([-1, 0]), np.array([500])):
        with pytest.raises(DatadietError, match="rows beyond the 96 training examples"):
            plan("memorization", tmp_path, data=data, memorization=(wrong, np.zeros(len(wrong))))


def test_estimated_values_that_are_noise_confirm_nothing(tmp_path: Path) -> None:
    _, numbers = rehearsed("memorization", tmp_path)
    judge = STUDIES.get("memorization").judge
    near = [{**row, "spearman": 0.001 * row["run"]} if row["what"] == "correlation" else row for row in numbers]
    far = [{**row, "spearman": 0.6 + 0.001 * row["run"]} if row["what"] == "correlation" else row for row in numbers]
    for reliability, outcome in ((0.9, "holds"), (0.01, "undecided"), (float("nan"), "undecided")):
        told = [{**row, "reliability": reliability} if row["what"] == "reliability" else row for row in near]
        whole = judge(told)[0]
        assert whole.outcome == outcome
        assert f"split-half reliability {reliability:.2f}" in whole.note
    told = [{**row, "reliability": 0.01} if row["what"] == "reliability" else row for row in far]
    assert judge(told)[0].outcome == "does not hold", "noise hides a correlation, it makes none"


def test_a_doubt_takes_back_only_what_holds() -> None:
    values = [1.0, 1.1, 0.9]
    assert verdict(1, "claim", values).outcome == "holds"
    doubted = verdict(1, "claim", values, note="more", doubt="too few")
    assert (doubted.outcome, doubted.note) == ("undecided", "too few; more")
    assert verdict(1, "claim", values, margin=2.0, doubt="too few").outcome == "does not hold"


@pytest.mark.parametrize(
    ("hidden", "other", "name"),
    [([64], [32], "smaller mlp"), ([8, 5], [4, 2], "smaller mlp"), ([1], [64], "larger mlp"), ([], [64], "larger mlp")],
)
def test_scores_are_carried_to_another_network_and_not_to_the_same(
    tmp_path: Path, hidden: list[int], other: list[int], name: str
) -> None:
    x = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    table = dd.load(((x, np.arange(120) % 3), (x[:30], np.arange(30) % 3)), name="table")
    job = plan("transfer", tmp_path, data=table, recipe={**RECIPE, "model_args": {"hidden": hidden}}).job
    found = others(job)
    assert list(found) == [name, "other setting"]
    assert found[name].model_args["hidden"] == other


def test_two_times_that_are_one_step_are_one_time(tmp_path: Path) -> None:
    _, numbers = rehearsed("averaging", tmp_path, recipe={**RECIPE, "steps": "4it"})
    seen = [(row["series"], row["step"], row["run"]) for row in numbers if row["what"] == "accuracy"]
    assert len(seen) == len(set(seen))


def test_forgetting_that_some_example_lacks_is_refused_before_training(tmp_path: Path, untrained: None) -> None:
    with pytest.raises(DatadietError, match="an example has no forgetting at the end of the run: it was in no batch"):
        plan("score-time", tmp_path, score_runs=1, recipe={**RECIPE, "steps": "1ep"})


@pytest.mark.parametrize("name", ["noise", "sliding-window", "kernel-velocity"])
def test_noise_that_changes_no_label_is_refused(name: str, tmp_path: Path, untrained: None) -> None:
    with pytest.raises(DatadietError, match="the noise changes no label; a larger part, or more data"):
        plan(name, tmp_path, noise="permute:0.0005")


@pytest.mark.parametrize(("name", "keep"), [("cifar100", 0.75), ("cinic10", 0.6), ("tiny", 0.5)])
def test_the_hardest_part_that_loses_nothing_is_the_one_that_is_claimed(tmp_path: Path, name: str, keep: float) -> None:
    found = arrays()
    data = dd.load(((found["x_train"], found["y_train"]), (found["x_test"], found["y_test"])), name=name)
    _, numbers = rehearsed("pruning-curve", tmp_path, data=data)
    verdicts = STUDIES.get("pruning-curve").judge(numbers)
    assert f"keeping the hardest {100 * keep:g}% by EL2N" in verdicts[0].claim


def test_tokens_have_no_norm_among_every_score(tmp_path: Path, untrained: None) -> None:
    from types import SimpleNamespace

    from datadiet.studies.scored import every_score

    for kind, there in (("tokens", False), ("table", True)):
        job: Any = SimpleNamespace(data=SimpleNamespace(kind=kind), scores=())
        assert ("input_norm" in every_score(job)) is there


def test_a_folder_keeps_its_study_and_loses_the_figures_of_an_earlier_call(tmp_path: Path) -> None:
    more = run("gallery", tmp_path, scores=["aum"])
    assert any("aum" in file.name for file in more.folder.iterdir())
    again = run("gallery", tmp_path)
    assert again.folder == more.folder
    assert {file.name for file in again.folder.iterdir()} == {file.name for file in again.files}
    before = {file: file.read_bytes() for file in again.folder.iterdir()}
    with pytest.raises(DatadietError, match=r"holds another study \(other seed\); choose another --out"):
        run("gallery", tmp_path, seed=1)
    assert before == {file: file.read_bytes() for file in again.folder.iterdir()}
    run("gallery", tmp_path, seed=1, out=tmp_path / "other")
    assert read_numbers(again.folder / "numbers.parquet") == again.findings.numbers


def test_a_study_of_before_a_field_of_recipes_was_there_is_the_same_study(tmp_path: Path) -> None:
    result = run("gallery", tmp_path)
    record = {key: value for key, value in read_json(result.folder / "study.json").items() if key != "checksum"}
    del record["recipe"]["optimizer"]  # which has its default
    write_json(result.folder / "study.json", record)
    assert run("gallery", tmp_path).folder == result.folder


def test_more_runs_of_a_study_take_the_place_of_fewer(tmp_path: Path) -> None:
    run("gallery", tmp_path, score_runs=2)
    assert run("gallery", tmp_path, score_runs=3).folder == tmp_path / "out" / "studies" / "gallery-tiny-quick"
