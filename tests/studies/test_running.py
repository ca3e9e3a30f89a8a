"""Studies from end to end on a tiny dataset: files, resuming, sharing, and what is refused before training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_studies import OURS, RECIPE, arrays, plan, rehearsed, setup, tiny

import datadiet as dd
from datadiet import studies
from datadiet.errors import DatadietError, Interrupted
from datadiet.flows import jobs
from datadiet.flows.estimate import estimates
from datadiet.store import read_json
from datadiet.studies import STUDIES
from datadiet.studies.output import read_numbers


@pytest.mark.parametrize("name", OURS)
def test_every_study_is_planned_and_drawn_without_training(name: str, tmp_path: Path, untrained: None) -> None:
    job, numbers = rehearsed(name, tmp_path)
    assert job.plans
    figures = STUDIES.get(name).draw(job, numbers)
    assert figures
    for one in estimates(job.plans):
        assert one[1].jobs > 0
    assert not (tmp_path / "store").exists()


def test_a_run_that_is_asked_for_at_several_steps_is_counted_once(tmp_path: Path, untrained: None) -> None:
    planned = plan("averaging", tmp_path)
    names = {task.spec.name for stage, one in planned.stages if stage == "retraining" for _, task in one.tasks}
    steps = [cost.steps for stage, cost in planned.estimates() if stage.startswith("retraining")]
    assert sum(steps) == 28 * len(names)


def run(name: str, folder: Path, **options: Any) -> studies.StudyResult:
    return studies.execute(plan(name, folder, **options))


def test_a_study_writes_numbers_figures_verdicts_and_how_to_make_it_again(tmp_path: Path) -> None:
    result = run("noise", tmp_path)
    folder = tmp_path / "out" / "studies" / "noise-tiny-quick"
    assert result.folder == folder
    assert {file.name for file in result.files} == {file.name for file in folder.iterdir()}
    assert {file.suffix for file in result.files} == {".parquet", ".png", ".svg", ".json"}
    assert read_numbers(folder / "numbers.parquet") == result.findings.numbers
    record = read_json(folder / "study.json")
    assert record["recipe"]["steps"] == "4ep"
    assert [(stage["steps"], stage["epochs"], stage["runs"]) for stage in record["stages"]] == [(14, 2, 4)] * 2
    assert [one["threads"] for one in record["stages"][0]["numerics"]] == [1]
    assert {row["outcome"] for row in read_json(folder / "verdicts.json")["verdicts"]} <= {
        "holds",
        "does not hold",
        "undecided",
    }


def test_numbers_are_those_of_the_library(tmp_path: Path) -> None:
    """The pruning curve's rows against score, select and compare called by hand, in a store of their own."""
    result = run("pruning-curve", tmp_path, runs=2, score_runs=2)
    data, by_hand = tiny(), setup(tmp_path / "other")
    table = dd.score(data, scores=["el2n", "forgetting"], runs=2, at=["4ep"], recipe=RECIPE, setup=by_hand)
    job = plan("pruning-curve", tmp_path).job
    early = dd.score(data, scores=["el2n"], runs=2, at=[job.early_step], recipe=RECIPE, setup=by_hand)
    subsets = {
        "el2n": dd.select(early, "el2n", 0.25),
        "forgetting": dd.select(table, "forgetting", 0.25),
        "ccs": dd.select(early, "el2n", 0.25, "stratified", beta=0.1),
    }
    expected = dd.compare(data, subsets, runs=2, setup=by_hand)
    for name in subsets:
        rows = [r for r in result.findings.numbers if r["series"] == name and r["keep"] == 0.25]
        assert tuple(r["accuracy"] for r in rows) == expected[name].accuracies
    rows = [r for r in result.findings.numbers if r["series"] == "random" and r["keep"] == 0.25]
    assert tuple(r["accuracy"] for r in rows) == expected["random 25%"].accuracies


def test_averaging_gives_each_run_the_subset_of_its_own_scoring_run(tmp_path: Path) -> None:
    result = run("averaging", tmp_path, runs=2)
    data, by_hand = tiny(), setup(tmp_path / "other")
    table = dd.score(data, scores=["grand"], runs=4, at="0", recipe=RECIPE, setup=by_hand)
    found = [r for r in result.findings.numbers if r["what"] == "accuracy" and r.get("series") == "grand, 1 run"]
    last = max(r["step"] for r in found)
    from datadiet.selection import select

    for run_number in range(2):
        own = select(table.values("grand")[run_number], 0.5, fingerprint=data.fingerprint)
        alone = dd.compare(data, {"own": own}, runs=2, recipe=RECIPE, baselines=(), setup=by_hand)
        (row,) = [r for r in found if r["step"] == last and r["run"] == run_number]
        assert row["accuracy"] == alone["own"].accuracies[run_number]
    steps = sorted({r["step"] for r in found})
    assert steps == [7, 14, 21, 25, 28]


def test_memorisation_is_feldman_and_zhangs_estimate() -> None:
    from datadiet.studies.memorization import memorization, subsets

    rng = np.random.default_rng(0)
    inside, correct = subsets(50, 9, 0), rng.random((9, 50)) < 0.6
    assert (inside.sum(1) == 35).all()
    found = memorization(correct, inside)
    for i in range(50):
        seen = [correct[t, i] for t in range(9) if inside[t, i]]
        unseen = [correct[t, i] for t in range(9) if not inside[t, i]]
        if seen and unseen:
            assert found[i] == pytest.approx(np.mean(seen) - np.mean(unseen))
        else:
            assert np.isnan(found[i])


def test_precision_counts_ties_at_the_border_by_their_mean() -> None:
    from datadiet.studies.noise import precision_at

    wrong = np.array([True, True, False, False, True, False])
    assert precision_at(np.array([6.0, 5, 4, 3, 2, 1]), wrong, 3) == pytest.approx(2 / 3)
    assert precision_at(np.array([6.0, 1, 1, 1, 1, 1]), wrong, 3) == pytest.approx((1 + 2 * 2 / 5) / 3)
    assert np.isnan(precision_at(np.full(6, np.nan), wrong, 3))


def test_what_is_in_the_store_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("gallery", tmp_path)
    monkeypatch.setattr(jobs, "train", None)
    again = run("gallery", tmp_path)
    assert (again.folder / "numbers.parquet").read_bytes() == (first.folder / "numbers.parquet").read_bytes()
    assert again.findings.verdicts == first.findings.verdicts


LONG: dict[str, Any] = {"recipe": {**RECIPE, "steps": "60ep"}, "scores": ["forgetting"]}
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tiny_studies import plan
from datadiet import studies
if __name__ == "__main__":
    studies.execute(plan("gallery", Path(sys.argv[2]), **%r))
""" % (LONG,)  # noqa: UP031


def test_what_is_recorded_of_a_tuned_window_is_what_was_trained_the_first_time_as_the_second(tmp_path: Path) -> None:
    records = []
    for _ in range(2):
        result = run("sliding-window", tmp_path)
        records.append(read_json(result.folder / "study.json")["stages"])
    assert records[0] == records[1]
    known = {path.parent.name for path in (tmp_path / "store").glob("??/*/run.json")}
    named = {name for stage in records[0] for name in stage["run_names"]}
    assert named <= known
    assert any(stage["stage"] == "windows" for stage in records[0])


def test_killed_and_run_again_the_numbers_and_figures_are_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, tmp_path / "script.py", Path(__file__).parent, tmp_path / "killed"]
    killed = subprocess.Popen(list(map(str, words)), env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        end = time.monotonic() + 120
        while not any((tmp_path / "killed" / "store").glob("??/*/shards/*")):
            assert killed.poll() is None
            assert time.monotonic() < end
            time.sleep(0.002)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    out = Path("out") / "studies" / "gallery-tiny-quick"
    assert not (tmp_path / "killed" / out / "study.json").exists(), "it was killed before the end"
    for folder in ("killed", "straight"):
        run("gallery", tmp_path / folder, **LONG)
    for name in ("numbers.parquet", "verdicts.json", "gallery-el2n.png", "gallery-el2n.svg"):
        assert (tmp_path / "killed" / out / name).read_bytes() == (tmp_path / "straight" / out / name).read_bytes()


def test_one_failing_study_leaves_the_others_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def fail(job: studies.StudyJob) -> studies.Numbers:
        if job.rehearsal:
            return []
        raise DatadietError("it went wrong", where="somewhere")

    broken = replace(STUDIES.get("noise"), measure=fail)
    monkeypatch.setitem(STUDIES._entries, "noise", broken)
    options = {"recipe": RECIPE, "setup": setup(tmp_path / "store"), "runs": 2, "score_runs": 2}
    results, failed, page = studies.run_all(["noise", "gallery"], data=tiny(), out=tmp_path / "out", **options)
    assert [one.study.name for one in results] == ["gallery"]
    assert str(failed["noise"]) == "somewhere: it went wrong"
    text = page[0].read_text()
    assert "**noise** failed: somewhere: it went wrong" in text
    assert "| 11 | gallery |" in text
    assert read_json(page[1])["failed"] == {"noise": "somewhere: it went wrong"}


def test_an_interruption_is_not_taken_for_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def stop(job: studies.StudyJob) -> studies.Numbers:
        if job.rehearsal:
            return []
        raise Interrupted("stopped")

    monkeypatch.setitem(STUDIES._entries, "noise", replace(STUDIES.get("noise"), measure=stop))
    with pytest.raises(Interrupted):
        studies.run_all(["noise", "gallery"], data=tiny(), out=tmp_path, setup=setup(tmp_path / "store"))


def noisy_labels(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    labels[:10] = (labels[:10] + 1) % 3
    return labels


def test_human_labels_are_judged_beside_added_noise(tmp_path: Path) -> None:
    human = noisy_labels(tiny().labels)
    result = run("noise", tmp_path, human=human)
    noise = {row["noise"] for row in result.findings.numbers if row["what"] == "detector"}
    assert noise == {"added", "human"}
    assert any("people" in one.claim for one in result.findings.verdicts)
    assert (result.folder / "noise-detectors-human.png").exists()


def test_given_memorisation_values_are_taken_instead_of_estimated_ones(tmp_path: Path) -> None:
    rows, values = np.array([3, 1, 3, 7, 50]), np.array([0.9, 0.3, 0.9, 0.5, 0.26])
    result = run("memorization", tmp_path, memorization=(rows, values))
    examples = [row for row in result.findings.numbers if row["what"] == "example"]
    assert [(row["index"], row["memorization"]) for row in examples] == [(1, 0.3), (3, 0.9), (7, 0.5), (50, 0.26)]
    assert all("given" in one.note for one in result.findings.verdicts)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an unknown study": ("galery", {}, "did you mean gallery"),
    "an unknown scale": ("gallery", {"scale": "tiny"}, "unknown scale"),
    "an unknown score": ("gallery", {"scores": ["el3n"]}, "did you mean el2n"),
    "too few examples for the window": ("sliding-window", {"data": "few"}, "too few"),
    "no test split": ("pruning-curve", {"data": "untested"}, "no test split"),
    "a table for the gallery": ("gallery", {"data": "table"}, "shows images"),
    "noisy data for a study of noise": ("noise", {"data": "noisy"}, "noisy already"),
    "labels of another length": ("noise", {"human": np.zeros(7, int)}, "7"),
    "labels that are the same": ("noise", {"human": "same"}, "the first ones"),
    "values of other rows": ("memorization", {"memorization": (np.array([500]), np.array([0.3]))}, "beyond"),
    "one scoring run to average": ("averaging", {"score_runs": 1}, "4 at least"),
    "the papers' scale on other data": ("gallery", {"scale": "paper", "recipe": None}, "no recipe"),
    "two kept parts that are one number": ("pruning-curve", {"data": "twelve"}, "10% and 5% of 12 examples are both 1"),
    "no epoch for forgetting": ("score-time", {"recipe": {**RECIPE, "steps": "1it"}}, "forgetting needs an epoch"),
    "no epoch for the kernel": ("kernel-velocity", {"recipe": {**RECIPE, "steps": "3it"}}, "needs an epoch of 7 steps"),
    "no run": ("gallery", {"runs": 0}, "--runs: 0 runs"),
    "half a run": ("gallery", {"runs": 1.5}, "whole number"),
    "less than no scoring run": ("gallery", {"score_runs": -2}, "--score-runs: -2 runs"),
    "noise that is none": ("noise", {"noise": "shuffle:0.1"}, "label noise"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_training(case: str, tmp_path: Path, untrained: None) -> None:
    name, options, words = REFUSED[case]
    data = tiny()
    found = arrays(40)
    x, y = found["x_train"], found["y_train"]
    kinds = {
        "few": dd.load(((x, y), (x, y)), name="few"),
        "twelve": dd.load(((x[:12], y[:12]), (x, y)), name="twelve"),
        "untested": dd.load((x, y), name="untested", test_fraction=0),
        "table": dd.load(((x.reshape(40, -1).astype(np.float32), y),) * 2, name="table"),
        "noisy": data.with_noise("permute", 0.2),
    }
    options = {k: kinds.get(v, v) if isinstance(v, str) and k == "data" else v for k, v in options.items()}
    if isinstance(options.get("human"), str):
        options["human"] = data.labels
    with pytest.raises(DatadietError, match=words):
        studies.execute(plan(name, tmp_path, **options))
    assert not (tmp_path / "store").exists()


def test_a_mistake_in_one_study_is_its_failure_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    def judge(numbers: studies.Numbers) -> list[studies.Verdict]:
        raise ValueError("5 runs cannot\nbe paired")

    monkeypatch.setitem(STUDIES._entries, "noise", replace(STUDIES.get("noise"), judge=judge))
    options = {"recipe": RECIPE, "setup": setup(tmp_path / "store"), "runs": 2, "score_runs": 2}
    results, failed, page = studies.run_all(["noise", "gallery"], data=tiny(), out=tmp_path / "out", **options)
    assert [one.study.name for one in results] == ["gallery"]
    assert "ValueError: 5 runs cannot be paired" in str(failed["noise"])
    assert "**noise** failed: ValueError: 5 runs cannot be paired" in page[0].read_text()
    assert "test_running.py" in caplog.text, "the traceback is logged"


def test_a_mistake_in_planning_one_study_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def measure(job: studies.StudyJob) -> studies.Numbers:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(STUDIES._entries, "noise", replace(STUDIES.get("noise"), measure=measure))
    plans = studies.plan_all(["noise", "gallery"], data=tiny(), recipe=RECIPE, setup=setup(tmp_path / "store"))
    assert "ZeroDivisionError: division by zero" in str(plans["noise"])
    assert isinstance(plans["gallery"], studies.StudyPlan)


def test_a_figure_named_by_a_path_stays_in_the_studys_folder() -> None:
    from datadiet.studies.output import file_name

    assert file_name("transfer-/tmp/nets/my.py:net") == "transfer-tmp-nets-my.py-net"
    assert file_name("transfer-../../x.py:f") == "transfer-..-..-x.py-f"
    assert file_name("lottery-redraw0.5") == "lottery-redraw0.5"
