"""What is in the store is not computed again, and what is missing continues from there."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_flows import PER_EPOCH, RECIPE, results, setup, tiny

import datadiet as dd
from datadiet.flows.execute import run_tasks
from datadiet.flows.score import plan_score
from datadiet.scores import SCORES
from datadiet.scores.base import Score
from datadiet.store import Store

Stretches = list[tuple[int, int]]


def score(tmp_path: Path, store: str = "store", **options: Any) -> dd.ScoreTable:
    given = {"recipe": RECIPE, "scores": ["el2n", "forgetting"], "runs": 2, "at": "2ep", **options}
    return dd.score(tiny(), setup=setup(tmp_path / store), **given)


def test_an_identical_scoring_trains_nothing_and_says_so(
    tmp_path: Path, stretches: Stretches, caplog: pytest.LogCaptureFixture
) -> None:
    first = score(tmp_path, out=tmp_path / "out")
    assert stretches == [(0, 14), (0, 14)]
    files = {f: f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}
    with caplog.at_level(logging.INFO, logger="datadiet"):
        second = score(tmp_path, out=tmp_path / "out")
    assert stretches == [(0, 14), (0, 14)]
    assert f"2 of 2 scoring runs are in {tmp_path / 'store'} already" in caplog.text
    assert first.values("el2n").tobytes() == second.values("el2n").tobytes()
    assert files == {f: f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}


def test_the_same_command_in_another_store_gives_the_same_bytes(tmp_path: Path) -> None:
    score(tmp_path, "one")
    score(tmp_path, "two")
    assert results(tmp_path / "one") == results(tmp_path / "two")


def test_a_later_step_continues(tmp_path: Path, stretches: Stretches) -> None:
    score(tmp_path, at="2ep")
    stretches.clear()
    later = score(tmp_path, at="3ep")
    assert stretches == [(14, 21), (14, 21)]
    straight = score(tmp_path, "straight", at="3ep")
    for name in ("el2n", "forgetting", "never_learned"):
        assert later.values(name).tobytes() == straight.values(name).tobytes()


def test_another_score_at_a_checkpoint_trains_nothing(tmp_path: Path, stretches: Stretches) -> None:
    score(tmp_path)
    stretches.clear()
    more = score(tmp_path, scores=["el2n", "loss"])
    assert stretches == []
    assert more.values("loss").tobytes() == score(tmp_path, "straight", scores=["loss"]).values("loss").tobytes()


def test_more_runs_train_only_the_new_ones(tmp_path: Path, stretches: Stretches) -> None:
    score(tmp_path, runs=1)
    stretches.clear()
    score(tmp_path, runs=3)
    assert stretches == [(0, 14)] * 2


def test_an_earlier_step_starts_over_even_when_a_later_checkpoint_was_looked_at(tmp_path: Path) -> None:
    score(tmp_path, scores=["el2n"], at="2ep")
    # At 2ep the checkpoint serves the new score; 1ep lies before everything that is there.
    both = score(tmp_path, scores=["el2n", "loss"], at=["1ep", "2ep"])
    straight = score(tmp_path, "straight", scores=["el2n", "loss"], at=["1ep", "2ep"])
    for name in ("el2n", "loss"):
        for at in ("1ep", "2ep"):
            assert both.values(name, at).tobytes() == straight.values(name, at).tobytes(), (name, at)


class Visits:
    """A trajectory score that counts how often an example was seen."""

    def __init__(self, n: int, device: Any = "cpu") -> None:
        self.count = torch.zeros(n)

    def update(self, indices: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.count[indices] += 1

    def result(self) -> dict[str, torch.Tensor]:
        return {"visits": self.count.clone()}

    def state(self) -> dict[str, torch.Tensor]:
        return {"count": self.count}

    def load(self, state: Any) -> None:
        self.count.copy_(state["count"])


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> Any:
    def register() -> None:
        entry = Score("visits", "trajectory", Visits, "higher", "How often an example was seen.")
        monkeypatch.setitem(SCORES._entries, "visits", entry)

    return register


def test_a_trajectory_score_registered_later_replays_the_run(tmp_path: Path, stretches: Stretches, visits: Any) -> None:
    score(tmp_path, runs=1)
    before = results(tmp_path / "store")
    stretches.clear()
    visits()
    table = score(tmp_path, runs=1, scores=["visits", "forgetting"])
    assert stretches == [(0, 14)]
    assert table.values("visits").sum() == 14 * RECIPE["batch_size"]
    assert before.items() <= results(tmp_path / "store").items(), "the replay changed what was there"


def test_a_replay_after_a_look_at_an_older_checkpoint_starts_over_too(tmp_path: Path, visits: Any) -> None:
    score(tmp_path, runs=1, scores=["el2n"], at=["1ep", "2ep"])
    visits()
    # el2n and loss at 1ep come from its checkpoint; visits at 2ep needs a run from the beginning.
    score(tmp_path, runs=1, scores=["el2n", "loss"], at="1ep")
    table = score(tmp_path, runs=1, scores=["loss", "visits"], at=["1ep", "2ep"])
    straight = score(tmp_path, "straight", runs=1, scores=["loss", "visits"], at=["1ep", "2ep"])
    for name in ("loss", "visits"):
        assert table.values(name, "2ep").tobytes() == straight.values(name, "2ep").tobytes()


def test_a_score_that_an_older_state_lacks_is_found_in_a_newer_one(tmp_path: Path, visits: Any) -> None:
    score(tmp_path, runs=1, scores=["el2n"], at="0")
    visits()
    score(tmp_path, runs=1, scores=["visits"], at="1ep")
    # The state of step 0 lacks visits, that of epoch 1 has it: one look at the first must not drop it for good.
    table = score(tmp_path, runs=1, scores=["loss", "visits"], at=["0", "2ep"])
    assert table.values("visits", "2ep").sum() == 14 * RECIPE["batch_size"]


def test_where_a_run_stops_is_no_part_of_its_name_but_its_horizon_is(tmp_path: Path) -> None:
    score(tmp_path, runs=1, at="1ep")
    score(tmp_path, runs=1, at="2ep")
    assert len(Store(tmp_path / "store").runs()) == 1
    score(tmp_path, runs=1, at="1ep", steps="8ep")
    assert len(Store(tmp_path / "store").runs()) == 2


def test_a_store_that_has_everything_may_be_one_to_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretches: list[tuple[int, int]]
) -> None:
    given = {"runs": 2, "scores": ["el2n"], "at": "1ep"}
    before = score(tmp_path, **given).mean("el2n")
    half = dd.select(score(tmp_path, **given), "el2n", 0.5)
    accuracies = dd.compare(tiny(), {"half": half}, runs=1, recipe=RECIPE, setup=setup(tmp_path / "store"))["half"]

    def refuse(path: object, *_: object) -> None:
        raise dd.DatadietError("read-only file system", where=path)

    stretches.clear()
    with monkeypatch.context() as patch:
        patch.setattr("datadiet.flows.execute.writable_folder", refuse)
        patch.setattr("datadiet.store.files.atomic", refuse)
        assert score(tmp_path, **given).mean("el2n").tolist() == before.tolist()
        again = dd.compare(tiny(), {"half": half}, runs=1, recipe=RECIPE, setup=setup(tmp_path / "store"))
        assert again["half"] == accuracies
        with pytest.raises(dd.DatadietError, match="store: read-only file system"):
            score(tmp_path, **{**given, "runs": 3})
    assert stretches == []


def test_a_score_added_to_a_folder_joins_those_that_are_there(tmp_path: Path) -> None:
    score(tmp_path, scores=["el2n"], at="1ep", out=tmp_path / "out")
    score(tmp_path, scores=["loss"], at="2ep", out=tmp_path / "out")
    table = dd.load_table(tmp_path / "out")
    assert set(table.shards) == {("el2n", PER_EPOCH), ("loss", 2 * PER_EPOCH)}
    assert np.isfinite(table.mean("el2n")).all()
    assert np.isfinite(table.mean("loss")).all()


def test_a_folder_whose_older_scores_are_damaged_takes_new_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    score(tmp_path, runs=3, scores=["el2n", "loss"], at="1ep", out=out)
    (out / "shards" / "run-001" / "el2n@00000007.safetensors").unlink()
    score(tmp_path, runs=2, scores=["loss"], at="2ep", out=out)
    assert "el2n at step 7 is left out of the table" in caplog.text
    table = dd.load_table(out)
    assert {key: len(runs) for key, runs in table.shards.items()} == {("loss", 7): 3, ("loss", 14): 2}
    # A column's own number of runs is what travels with a subset of it.
    assert [dd.select(table, "loss", at=at).policy["runs"] for at in ("1ep", "2ep")] == [3, 2]
    score(tmp_path, runs=3, scores=["el2n"], at="1ep", out=out)
    assert len(dd.load_table(out).shards["el2n", 7]) == 3


def test_the_numeric_environments_of_all_columns_stand_in_the_manifest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    score(tmp_path, runs=1, at="1ep", out=out)
    given = {"recipe": RECIPE, "scores": ["el2n"], "runs": 1, "at": "2ep", "out": out}
    dd.score(tiny(), setup=setup(tmp_path / "other", threads=2), **given)
    found = dd.load_table(out).provenance["numerics"]
    assert [one["threads"] for one in found] == [1, 2]
    assert "2 numeric environments" in caplog.text


def test_a_second_comparison_trains_nothing_and_shares_runs_with_an_earlier_one(
    tmp_path: Path, stretches: Stretches
) -> None:
    data = tiny()
    options = {"runs": 2, "recipe": RECIPE, "setup": setup(tmp_path / "store")}
    first = dd.compare(data, {"a": np.arange(60)}, **options)
    assert stretches == [(0, 28)] * 6  # full, random, a: two runs each
    stretches.clear()
    assert dd.compare(data, {"a": np.arange(60)}, **options).to_json() == first.to_json()
    dd.compare(data, {"b": np.arange(60, 120)}, **options)
    assert stretches == [(0, 28)] * 2


def test_a_smaller_question_leaves_the_state_of_an_interrupted_longer_run_alone(
    tmp_path: Path, stretches: Stretches
) -> None:
    from datadiet.store.runs import RunFolder

    score(tmp_path, runs=1, at="1ep")
    folder: RunFolder = Store(tmp_path / "store").run(Store(tmp_path / "store").runs()[0])
    point = folder.load_checkpoint(PER_EPOCH)
    assert point is not None
    folder.save_resume(20, point.tensors)  # as if a run to 28 had been stopped at 20
    score(tmp_path, runs=1, at="1ep", scores=["loss"])
    assert folder.load_resume() is not None
    stretches.clear()
    score(tmp_path, runs=1, at="3ep")
    assert stretches == [(20, 21)]
    assert folder.load_resume() is None


def test_runs_that_were_measured_alone_were_followed_all_the_same(tmp_path: Path, stretches: Stretches) -> None:
    plan = plan_score(tiny(), scores=["el2n"], runs=2, at="1ep", recipe=RECIPE, setup=setup(tmp_path / "store"))
    alone = [(label, replace(task, marks=(), scores=(), keep=(7, 14), until=14)) for label, task in plan.tasks]
    run_tasks(alone, tiny(), setup(tmp_path / "store"))
    stretches.clear()
    found = score(tmp_path, scores=["forgetting"], at="2ep")
    assert stretches == []
    assert found.values("forgetting").tobytes() == score(tmp_path, "straight", at="2ep").values("forgetting").tobytes()


def test_a_run_goes_on_from_the_newest_state_that_serves(tmp_path: Path, stretches: Stretches) -> None:
    score(tmp_path, at=["1ep", "2ep"], runs=1)
    store = Store(tmp_path / "store")
    (name,) = store.runs()
    point = store.run(name).load_checkpoint(14)
    assert point is not None
    plain = {key: value for key, value in point.tensors.items() if not key.startswith("observer/")}
    assert len(plain) < len(point.tensors)
    store.run(name).save_checkpoint(14, plain, point.meta)
    stretches.clear()
    found = score(tmp_path, at="3ep", runs=1)
    assert stretches == [(7, 21)], "not from the beginning"
    straight = score(tmp_path, "straight", at="3ep", runs=1)
    assert found.values("forgetting").tobytes() == straight.values("forgetting").tobytes()
