"""The lottery studies: verdicts both ways, rehearsal that counts and trains nothing, whole runs on tiny data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from tiny_studies import RECIPE, environments, plan, rehearsed, tiny, world

from datadiet import studies
from datadiet.data import Dataset
from datadiet.errors import DatadietError
from datadiet.flows.tasks import is_done
from datadiet.lottery import LOTTERIES, Pretraining
from datadiet.store.files import read_json
from datadiet.studies import STUDIES
from datadiet.studies.job import StudyJob
from datadiet.studies.lottery import ALL, FULL, NONE
from datadiet.studies.lottery_noise import clean_and_noises
from datadiet.studies.scales import SCALES
from datadiet.studies.tickets import MATCHED, PRUNED, TOLERANCE, by_sparsity, kept, rows_of, terms, tickets
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe

Row = dict[str, Any]
NAMES = ("lottery", "lottery-noise", "lottery-scores")
LEVELS, _ = PRUNED["quick"]
SHORT = {**RECIPE, "steps": "3ep"}


def lottery(row: Row, good: bool) -> Row:
    if row["kind"] == "easiest":
        accuracy = 0.9 if good else 0.9 - 0.1 * row["level"]
    elif row["kind"] == FULL:
        # Where nothing holds, all data keeps less than its dense network too, and is still above easy data.
        accuracy = 0.9 if good else 0.9 - 0.05 * row["level"]
    else:
        accuracy = 0.9 - (0.05 if good else 0.01) * row["level"]
    wrong = 0.1 if (row["kind"] == "easiest") == good else 0.3
    return {"accuracy": accuracy, **({"wrong": wrong} if "wrong" in row else {})}


def scores(row: Row, good: bool) -> Row:
    order = ("random", "forgetting", "lmc", "el2n")
    place = order.index(row["kind"])
    return {"accuracy": 0.5 + 0.1 * (place if good else -place)}


WORLDS = {"lottery": lottery, "lottery-noise": lottery, "lottery-scores": scores}


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_can_hold_and_can_fail(name: str, tmp_path: Path) -> None:
    _, numbers = rehearsed(name, tmp_path)
    study = STUDIES.get(name)
    for good, outcome in ((True, "holds"), (False, "does not hold")):
        changed = world(numbers, lambda row, good=good: WORLDS[name](row, good))
        found = study.judge(changed)
        assert len(found) == {"lottery": 7, "lottery-noise": 8, "lottery-scores": 3}[name]
        assert {one.number for one in found} == set(study.claims)
        for one in found:
            assert one.outcome == outcome, one
    assert not list((tmp_path / "store").rglob("*.safetensors"))


@pytest.mark.parametrize("worse", ["all data for t*/2", "random", "hardest", "no pre-training"])
def test_each_rival_is_judged_by_itself(worse: str, tmp_path: Path) -> None:
    """One rival above easy data turns its own verdict and no other."""
    kind = {"all data for t*/2": ALL, "no pre-training": NONE}.get(worse, worse)
    _, numbers = rehearsed("lottery", tmp_path)
    changed = world(numbers, lambda row: {"accuracy": 0.95} if row["kind"] == kind else lottery(row, True))
    found = STUDIES.get("lottery").judge(changed)
    turned = [one for one in found if one.outcome == "does not hold"]
    assert len(turned) == 1
    assert worse in turned[0].claim
    assert turned[0].mean == pytest.approx(-5, abs=1e-6)


@pytest.mark.parametrize(("lost", "outcome"), [(0.4, "holds"), (0.6, "does not hold")])
def test_the_tolerance_is_half_a_point(lost: float, outcome: str, tmp_path: Path) -> None:
    assert TOLERANCE == 0.5
    _, numbers = rehearsed("lottery", tmp_path)
    easy = {"accuracy": 0.9 - lost / 100}
    changed = world(numbers, lambda row: easy if row["kind"] == "easiest" else {"accuracy": 0.9})
    assert STUDIES.get("lottery").judge(changed)[0].outcome == outcome


def test_only_the_claims_size_is_judged(tmp_path: Path) -> None:
    _, numbers = rehearsed("lottery", tmp_path)
    changed = world(numbers, lambda row: lottery(row, True))
    spoiled = [{**row, "accuracy": 0.0} if not row["claimed"] else row for row in changed]
    judge = STUDIES.get("lottery").judge
    assert len({row["examples"] for row in numbers if row["kind"] == "easiest"}) == 3
    assert judge(spoiled) == judge(changed)


@drawn(st.data())
def test_kept_is_the_worst_level_of_those_that_must_match(data: st.DataObject) -> None:
    """Against a naive search over levels."""
    levels, runs = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 4))
    fraction = data.draw(st.sampled_from([0.2, 0.4, 0.5, 0.9]))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).random((levels + 1, runs))
    numbers = [
        {"kind": "easiest", "level": k, "run": r, "density": (1 - fraction) ** k, "accuracy": float(values[k, r])}
        for k in range(levels + 1)
        for r in reversed(range(runs))
    ]
    best: tuple[float, int] | None = None
    for k in range(1, levels + 1):
        if k > 1 and (1 - fraction) ** k < MATCHED:
            continue
        change = float(np.mean([values[k, r] - values[0, r] for r in range(runs)]))
        if best is None or change < best[0]:
            best = (change, k)
    assert best is not None
    change, level = kept(numbers, kind="easiest")
    assert level == best[1]
    assert change == pytest.approx(100 * (values[level] - values[0]))


def test_level_8_of_the_paper_is_among_those_that_must_match() -> None:
    levels, fraction = PRUNED["paper"]
    assert levels == 8
    assert (1 - fraction) ** levels >= MATCHED > (1 - fraction) ** (levels + 1)


@pytest.mark.parametrize("name", NAMES)
def test_rehearsal_counts_every_run_and_trains_nothing(name: str, tmp_path: Path) -> None:
    planned = plan(name, tmp_path)
    runs, given = 3, terms(planned.job)
    sizes = len(given.sizes)
    ways = {"lottery": 3 + 3 * sizes, "lottery-noise": 6, "lottery-scores": 4}[name]
    for level in range(LEVELS + 1):
        names = [t.spec.name for stage, one in planned.stages if stage == f"level {level}" for _, t in one.tasks]
        assert len(names) == len(set(names)) == runs * ways, level
    # All data for t*/2 lies on the way to t*, and no step of it at its beginning.
    own = {t.spec.name for stage, one in planned.stages if stage == "pre-training" for _, t in one.tasks}
    assert len(own) == runs * (ways - {"lottery": 2, "lottery-noise": 1, "lottery-scores": 0}[name])
    scoring = {t.spec.name for stage, one in planned.stages if stage.startswith("scoring") for _, t in one.tasks}
    assert len(scoring) == 4
    if name == "lottery-scores":
        (children,) = [one for stage, one in planned.stages if stage == "children of scoring runs"]
        assert len(children.tasks) == 2 * 3
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_run_on_tiny_data_and_again_from_the_store(name: str, tmp_path: Path) -> None:
    def again() -> studies.StudyPlan:
        return plan(name, tmp_path, runs=2, score_runs=2, recipe=SHORT)

    first = studies.execute(again())
    assert environments(first) == {1}
    assert first.findings.verdicts
    for row in first.findings.numbers:
        assert all(value is None or isinstance(value, (str, int, float, bool)) for value in row.values())
    assert {row["run"] for row in first.findings.numbers} == {0, 1}
    assert {row["level"] for row in first.findings.numbers} == set(range(LEVELS + 1))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.safetensors")}
    planned = again()
    for _, one in planned.stages:  # the rehearsal finds every run under its own name
        assert all(is_done(task, one.data) for _, task in one.tasks)
    second = studies.execute(planned)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*.safetensors")} == before
    assert repr(second.findings.numbers) == repr(first.findings.numbers)
    figures = {p.stem for p in (tmp_path / "out").rglob("*.png")}
    assert figures == {
        "lottery": {"lottery", "lottery-size"}, "lottery-noise": {"lottery-redraw0.5"},
        "lottery-scores": {"lottery-scores"},
    }[name]  # fmt: skip
    record = read_json(next((tmp_path / "out").rglob("study.json")), schema=1)
    assert record["runs"] == len({run for stage in record["stages"] for run in stage["run_names"]})


def test_the_numbers_are_those_of_the_lottery_itself(tmp_path: Path) -> None:
    """Each row beside the outcome it was taken from, and its mean and deviation beside numpy's."""
    job = replace(plan("lottery", tmp_path, runs=2, score_runs=2, recipe=SHORT).job, rehearsal=False)
    found = tickets(job, {"drawn": Pretraining("random", None, 30)}, levels=1)
    rows = rows_of(found, more="there")
    one = found["drawn"]
    assert one.step == terms(job).half
    assert len(rows) == 4
    for row in rows:
        column = one.accuracy[:, row["level"]]
        assert row["accuracy"] == column[row["run"]]
        assert row["mean"] == pytest.approx(sum(column) / 2)
        assert row["std"] == pytest.approx(abs(column[0] - column[1]) / np.sqrt(2))
        assert row["density"] == one.masks[row["run"]][row["level"]].density
        assert row["more"] == "there"


def test_two_names_for_one_pre_training_have_one_outcome(tmp_path: Path) -> None:
    job = replace(plan("lottery", tmp_path).job, rehearsal=True, plans=[])
    wanted = {"a": Pretraining("all", steps="0"), "b": Pretraining("random", None, 30, "0"), "c": Pretraining("all")}
    found = tickets(job, wanted, levels=1)
    assert found["a"] is found["b"] is not found["c"]
    assert found["c"].step == terms(job).half


@pytest.mark.parametrize("levels", [0, 2])
def test_made_up_outcomes_have_the_shape_of_real_ones(levels: int, tmp_path: Path) -> None:
    job = plan("lottery", tmp_path, runs=2, score_runs=2, recipe=SHORT).job
    asked: dict[str, Any] = {"levels": levels, "instruments": ("barrier", "coherence", "errors")}
    wanted = {"all": Pretraining("all"), "none": Pretraining("all", steps="0")}
    imagined = tickets(replace(job, rehearsal=True), wanted, **asked)
    real = tickets(job, wanted, **asked)
    assert list(imagined) == list(real) == ["all", "none"]
    for name, one in real.items():
        other = imagined[name]
        assert (other.label, other.step) == (one.label, one.step)
        assert other.density == one.density
        assert [m.remaining for m in other.masks[0]] == [m.remaining for m in one.masks[0]]
        for field in ("accuracy", "test", "train", "barriers", "error_barriers", "cosines", "errors_dense"):
            assert getattr(other, field).shape == getattr(one, field).shape, field


def test_wrong_labels_are_counted_among_the_rows_that_were_trained_on(tmp_path: Path) -> None:
    planned = plan("lottery-noise", tmp_path, runs=2, score_runs=2, recipe=SHORT)
    found = studies.execute(planned).findings.numbers
    noisy = planned.job.data.with_noise("redraw", 0.5, planned.job.seed)
    row = next(r for r in found if r["kind"] == FULL)
    assert row["wrong"] == pytest.approx(float(np.mean(noisy.labels != planned.job.data.labels)))
    assert all("wrong" not in r for r in found if r["kind"] == NONE)
    shares = [r["wrong"] for r in found if r["kind"] == "random" and r["level"] == 0]
    assert len(set(shares)) > 1  # drawn anew for every replicate
    # Pre-training is on noisy labels, what follows on clean ones.
    after = {one.data.fingerprint for stage, one in planned.stages if stage.startswith("level")}
    assert after == {planned.job.data.fingerprint}
    assert noisy.fingerprint in {one.data.fingerprint for stage, one in planned.stages if stage == "pre-training"}


def job_of(data: Dataset, scale: str, recipe: Recipe) -> StudyJob:
    return StudyJob(data=data, scale=SCALES.get(scale), recipe=recipe, early="1ep")


def test_the_noise_that_is_asked_for_is_that_of_pre_training() -> None:
    clean = tiny()
    noisy = clean.with_noise("permute", 0.25, 3)
    found, noises, seed = clean_and_noises(job_of(noisy, "quick", Recipe()))
    assert seed == noisy.noise.seed
    assert found.fingerprint == clean.fingerprint
    assert np.array_equal(found.labels, clean.labels)
    assert noises == ("permute:0.25",)
    assert clean_and_noises(job_of(clean, "paper", Recipe()))[1] == ("redraw:0.1", "redraw:0.5")


def test_labels_of_others_are_refused_before_training(tmp_path: Path) -> None:
    labels = (tiny().labels + 1) % 3
    with pytest.raises(DatadietError, match="noisy already"):
        plan("lottery-noise", tmp_path, data=tiny().with_labels(labels))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_run_too_short_to_rewind_into_is_refused_before_training(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatadietError, match="leaves nothing to train"):
        plan(name, tmp_path, recipe={**RECIPE, "steps": "1it"})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("preset", "full", "size"), [("lt-cifar10", 400, 2048), ("lt-cifar100", 800, 2048), ("lt-cinic10", 400, 25600)]
)
def test_the_papers_terms_are_the_papers(preset: str, full: int, size: int) -> None:
    assert preset in LOTTERIES
    given = terms(job_of(tiny(), "paper", PRESETS.get(preset).recipe))
    assert (given.preset, given.full, given.half) == (preset, full, full // 2)
    assert (given.levels, given.fraction, given.replicates) == (8, 0.2, 4)
    assert given.size == min(size, len(tiny())) == max(given.sizes)


def test_a_recipe_of_ones_own_keeps_its_length() -> None:
    preset = PRESETS.get("digits").recipe
    assert terms(job_of(tiny(), "quick", preset)).recipe == preset.with_(steps="10ep")
    own = preset.with_(lr=0.07)
    assert terms(job_of(tiny(), "quick", own)).recipe == own
    asked = replace(job_of(tiny(), "quick", preset), own=True)
    assert terms(asked).recipe == preset, "asked for, it is not shortened"


@pytest.mark.parametrize("name", ["lottery", "pretraining", "warmup"])
def test_at_the_papers_scale_a_recipe_of_ones_own_is_kept(name: str, tmp_path: Path) -> None:
    own = plan(name, tmp_path, scale="paper", recipe={**RECIPE, "steps": "500it"}, runs=2, score_runs=2)
    assert {run.recipe.model for _, run in own.stages} == {RECIPE["model"]}
    assert all(task.until <= 500 for _, run in own.stages for _, task in run.tasks)


@pytest.mark.parametrize("preset", ["images-small", "cifar10-small"])
def test_at_small_images_go_through_a_narrow_resnet20(preset: str) -> None:
    usual = PRESETS.get(preset).recipe
    found = terms(job_of(tiny(), "small", usual)).recipe
    assert (found.model, found.model_args, found.steps) == ("resnet20", {"width": 8}, "1ep")
    assert (found.pad, found.pad_mode, found.flip) == (usual.pad, usual.pad_mode, usual.flip)
    own = usual.with_(steps="2ep")
    assert terms(job_of(tiny(), "small", own)).recipe == own
    assert terms(job_of(tiny(), "quick", usual)).recipe == usual


def test_a_fraction_of_noise_may_be_numpys(tmp_path: Path) -> None:
    job = plan("lottery", tmp_path, data=tiny().with_noise("redraw", np.float64(0.1))).job
    assert clean_and_noises(job)[1] == ("redraw:0.1",)


def test_a_level_with_nothing_left_has_no_place_on_the_axis() -> None:
    numbers = [{"level": k, "run": 0, "density": d, "accuracy": 0.9} for k, d in enumerate((1.0, 0.5, 0.0))]
    assert by_sparsity(numbers) == {1.0: [0.9], 2.0: [0.9]}
