"""Arguments of the library as people write them: a name for a list of names, numpy's numbers, `~`, files for tables."""

from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_flows import RECIPE, save_npz, setup, tiny
from torch.nn import Linear

import datadiet as dd
from datadiet.errors import DatadietError
from datadiet.flows.compare import plan_compare
from datadiet.flows.run import plan_run
from datadiet.flows.score import plan_score
from datadiet.flows.tune import grid_of
from datadiet.lottery import plan_tickets
from datadiet.models import build
from datadiet.training.masks import Mask
from datadiet.training.recipe import read_settings


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    return {"recipe": RECIPE, "setup": setup(tmp_path / "store")}


def test_one_name_or_number_is_a_list_of_one(given: dict[str, Any], tmp_path: Path) -> None:
    assert plan_score(tiny(), scores="el2n", runs=1, at="1ep", **given).scores == ["el2n"]
    assert plan_run(tiny(), keeps=np.array([0.3, 0.5]), runs=1, at="1ep", **given).keeps == (0.3, 0.5)
    plan = plan_run(tiny(), policies="hardest", keeps=0.5, runs=1, at="1ep", **given)
    assert (plan.policies, plan.keeps) == (("hardest",), (0.5,))
    assert [name for name, *_ in plan_compare(tiny(), {}, baselines="full", **given).groups] == ["full data"]
    tickets = plan_tickets(tiny(), pretrain="random:60@3", instruments="barrier", levels=1, **given)
    asked = {"pretrain": "easiest/el2n:60@3", "levels": 1, "scores_at": {"el2n": "1ep"}, **given}
    runs = [plan_tickets(tiny(), score_runs=count, **asked).scorings["el2n"].runs for count in (2, np.int64(2))]
    assert runs == [2, 2]
    assert [variant.label for variant in tickets.variants] == ["60 random, 3 steps"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g: plan_score(tiny(), runs=1.5, **g), "--runs: 1.5 runs; give a whole number, at least 1"),
        (lambda g: plan_score(tiny(), runs=True, **g), "--runs: True runs"),
        (lambda g: plan_run(tiny(), retrain_runs=1.5, runs=1, **g), "--retrain-runs: 1.5 retraining runs"),
        (lambda g: plan_score(tiny(), scores=7, at="1ep", runs=1, **g), "unknown score '7'"),
        (lambda g: plan_score(tiny(), scores={"el2n": 1}, at="1ep", runs=1, **g), "a mapping of scores; give a list"),
        (lambda g: plan_score(tiny(), scores=len, at="1ep", runs=1, **g), "builtin_function_or_method as scores"),
        (lambda g: plan_score(tiny(), model=Linear(3, 3), **g), "model is a Linear; name what builds it: 'package."),
        (lambda g: dd.score(tiny(), out="", runs=1, at="0", **g), "an empty path"),
        (lambda g: dd.Setup(store=""), "an empty path"),
        (lambda g: dd.compare(tiny(), [1, 2, 3], **g), 'subsets without names; give a mapping: {"mine": subset}'),
        (lambda g: dd.Setup(workers="2"), "--workers: '2' workers"),
        (lambda g: dd.Setup(threads=1.5), "--threads: 1.5 threads"),
        (lambda g: dd.Setup.of("somewhere"), "'somewhere' is no setup; give a Setup"),
        (lambda g: dd.score(tiny(), scores="el2n", out=3, runs=1, at="0", **g), "a path is meant, not int"),
        (lambda g: dd.select(np.arange(9.0), 0.3), "by is 0.3, no name of a score; say keep= for the part kept"),
        (lambda g: dd.select(np.arange(9.0), at="1ep"), "--at: plain values have no steps"),
        (lambda g: grid_of([0.5], [0.2, 0.9]), "offset 0.9 leaves no room for any keep"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line_before_any_training(call: Any, said: str, given: dict[str, Any]) -> None:
    with pytest.raises(DatadietError) as caught:
        call(given)
    assert said in str(caught.value)
    assert not Path(given["setup"].store).exists()


def test_the_own_folder_is_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    place = setup(Path("~/runs"))
    dd.score(tiny(), scores="el2n", runs=1, at="0", recipe=RECIPE, setup=place, out="~/scores")
    dd.compare(tiny(), {}, runs=1, recipe=RECIPE, setup=place, out="~/compared")
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["compared", "runs", "scores"]
    assert dd.load_table("~/scores").fingerprint == tiny().fingerprint
    dd.save_subset(dd.select("~/scores", "el2n", 0.5), "~/half.safetensors")
    assert len(dd.load_subset("~/half.safetensors", tiny())) == 60
    assert len(dd.select("~/scores/scores.parquet", "el2n@0it.mean", 0.5)) == 60
    recipe = Path("~/recipe.json").expanduser()
    recipe.write_text('{"lr": 0.05}')
    assert read_settings("~/recipe.json") == {"lr": 0.05}
    dd.load_table("~/scores").to_parquet("~/values.parquet")
    mask = Mask.full(build("mlp", (1, 6, 6), 3, seed=0))
    mask.save("~/mask.safetensors")
    assert Mask.load("~/mask.safetensors").digest == mask.digest
    assert not (tmp_path / "~").exists()
    for call in (dd.load_table, dd.load_subset, lambda path: dd.select(f"{path}.npy")):
        with pytest.raises(DatadietError, match=r"home directory.*; write the path out"):
            call("~nobody-of-that-name/x")


def test_a_table_may_be_given_by_its_folder(tmp_path: Path, given: dict[str, Any]) -> None:
    data = dd.load(save_npz(tmp_path / "tiny.npz"))
    dd.score(data, scores="el2n", runs=1, at="1ep", out=tmp_path / "scores", **given)
    tuned = dd.tune_window(data, tmp_path / "scores", "el2n", offsets=0.25, runs=1, test_runs=0, setup=given["setup"])
    assert (tuned.keep, tuned.offset, tuned.test) == (0.5, 0.25, None)


def test_a_mask_stands_for_rows_in_memory_and_in_a_file(tmp_path: Path) -> None:
    data = tiny()
    mask = np.random.default_rng(0).random(len(data)) < 0.4
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "short.npy", mask[:-1])
    rows = np.flatnonzero(mask)
    assert np.array_equal(dd.load_subset(tmp_path / "mask.npy", data), rows)
    plan = plan_compare(data, {"array": mask, "file": tmp_path / "mask.npy"}, recipe=RECIPE, runs=1, baselines=())
    assert {name: size for name, _, size, _ in plan.groups} == {"array": len(rows), "file": len(rows)}
    for given in (mask[:-1], tmp_path / "short.npy", mask[None]):
        with pytest.raises(DatadietError, match=r"a mask of shape \(.*\) for 120 examples; one truth value"):
            plan_compare(data, {"given": given}, recipe=RECIPE, runs=1)


def test_an_offset_that_was_computed_is_taken(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(1000)
    for keep, offset in ((0.7, 1 - 0.7), (0.7, float(np.arange(0, 0.5, 0.1)[3])), (0.9, 1 - 0.9)):
        found = np.asarray(dd.select(values, keep=keep, policy="window", offset=offset))
        wanted = np.sort(np.argsort(values)[-round(keep * 1000) :])  # the hardest, to the end of the range
        assert np.array_equal(found, wanted)
    with pytest.raises(DatadietError, match="leave the range"):
        dd.select(values, keep=0.7, policy="window", offset=0.301)


def test_a_class_too_small_is_named_also_beyond_a_process(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], [95, 5])
    with pytest.raises(DatadietError) as caught:
        dd.select(np.arange(100.0), keep=0.5, labels=labels, policy="window", offset=0.1, balanced=True)
    for other in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert type(other) is type(caught.value)
        assert str(other) == str(caught.value)


def test_scores_of_a_loop_of_ones_own_select_from_any_dataset_of_as_many_rows(given: dict[str, Any]) -> None:
    import torch

    watch = dd.Watch(120)
    watch.update(torch.arange(120), torch.rand(120, 3), torch.arange(120) % 3)
    subset = dd.select(watch.table(), by="el2n_online", keep=0.5)
    assert subset.fingerprint is None
    assert dd.compare(tiny(), {"mine": subset}, runs=1, **given)["mine"].examples == 60
    other = tiny(seed=5)
    told = dd.select(watch.table(other.fingerprint), by="el2n_online", keep=0.5)
    with pytest.raises(DatadietError, match="is of the dataset"):
        dd.compare(tiny(), {"mine": told}, runs=1, **given)


def test_a_warm_up_longer_than_the_run_is_warned_of(given: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plan_score(tiny(), runs=1, at="1ep", recipe={**RECIPE, "warmup": "4ep"}, setup=given["setup"])
        assert not caplog.text
        plan_score(tiny(), runs=1, at="1ep", recipe={**RECIPE, "warmup": "100ep"}, setup=given["setup"])
    assert "the warm-up of 700 steps (100ep) is longer than the run of 28" in caplog.text


def test_numbers_of_numpy_build_a_network() -> None:
    one, other = (build("mlp", (6,), classes, seed=seed) for classes, seed in ((3, 1), (np.int64(3), np.int64(1))))
    assert all(bool((a == b).all()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: dd.run(tiny(), keep=[0.5]), "run: unknown argument 'keep'; did you mean keeps"),
        (lambda: dd.run(tiny(), keeps="0.5"), "--keep: keep is '0.5'"),
        (lambda: dd.compare(tiny(), {}, presets="x"), "compare: unknown argument 'presets'; did you mean preset"),
        (lambda: dd.find_tickets(tiny(), pretrains=[]), "find_tickets: unknown argument 'pretrains'; did you mean"),
    ],
)
def test_an_argument_that_nothing_takes_is_named_with_the_nearest(call: Any, said: str) -> None:
    with pytest.raises(dd.DatadietError) as refused:
        call()
    assert said in str(refused.value)
