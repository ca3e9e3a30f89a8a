"""The studies of pre-training: verdicts both ways, what they train, whole runs and again from the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_studies import RECIPE, environments, plan, rehearsed, setup, tiny, world

import datadiet as dd
from datadiet import studies
from datadiet.errors import DatadietError
from datadiet.flows import jobs
from datadiet.flows.compare import FULL
from datadiet.flows.tasks import RunTask, folder_of
from datadiet.studies import STUDIES, pretraining, warmup
from datadiet.studies.barrier_and_performance import NOTHING
from datadiet.studies.error_distribution import DENSE, distance, projected, shares
from datadiet.studies.pretraining import ALL, ALL_HALF, EASY, HARD, RANDOM
from datadiet.studies.tickets import Terms, terms
from datadiet.training.presets import PRESETS
from datadiet.training.recipe import Recipe

Row = dict[str, Any]
ROWS = 700
NAMES = ("barrier-and-performance", "error-distribution", "pretraining", "warmup")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this must not train")

    monkeypatch.setattr(jobs, "train", refuse)


# ---------------------------------------------------------------------------------------------- verdicts


def split(row: Row, low: float) -> dict[str, float]:
    """A histogram with the part `low` in its first bin and the rest in its second: two differ by that of their lows."""
    return {"share": {0: low, 1: 1 - low}.get(row["bin"], 0.0)}


# Of each pre-training the low part before the projection, and after it.
MOVES = {
    True: {"easiest, t*/2": (0.0, 0.8), "full, t*": (0.9, 0.9), "full, t*/2": (0.3, 0.3)},
    False: {"easiest, t*/2": (0.1, 0.1), "full, t*": (0.2, 0.9), "full, t*/2": (0.2, 0.4)},
}


def error_distribution_world(row: Row, good: bool) -> Row:
    before, after = MOVES[good][f"{'full' if row['subset'] == FULL else row['subset']}, {row['part']}"]
    wide = (row["subset"] == "easiest") == good
    return {
        "spread": 0.5 if wide else 0.2, "ends": 0.9 if wide else 0.5,
        **split(row, before if row["projection"] == DENSE else after),
    }  # fmt: skip


def pretraining_world(row: Row, good: bool) -> Row:
    better = (row["pretraining"] == EASY) == good
    return {
        **dict.fromkeys(("test", "train", "cosine"), 0.8 if better else 0.4),
        "spread": 0.5 if better else 0.2, "loss_barrier": 0.1 if better else 0.9,
    }  # fmt: skip


BARRIERS = {ALL: 0.1, EASY: 0.2, RANDOM: 0.4, ALL_HALF: 0.5, HARD: 0.7, NOTHING: 0.9}


def barrier_world(row: Row, good: bool) -> Row:
    barrier = BARRIERS[row["pretraining"]]
    if row["what"] == "barriers":
        low = {ALL: 0.9, EASY: 0.8 if good else 0.1, ALL_HALF: 0.3 if good else 0.4}
        return split(row, low.get(row["pretraining"], 0.5))
    # The network's own accuracy has little to do with the barrier.
    own = dict(zip(BARRIERS, (0.5, 0.7, 0.6, 0.4, 0.9, 0.3), strict=True))[row["pretraining"]]
    return {"barrier": barrier, "own": own, "sparse": 1 - barrier if good else barrier}


def warmup_world(row: Row, good: bool) -> Row:
    long = np.log2(row["warmup"])
    every = 0.5 + 0.02 * long if good else 0.5 - 0.02 * long
    easy = 0.9 if good else 0.1
    return {"accuracy": {"all": every, "easiest": easy}.get(row["subset"], 0.4)}


WORLDS = {
    "error-distribution": error_distribution_world, "pretraining": pretraining_world,
    "barrier-and-performance": barrier_world, "warmup": warmup_world,
}  # fmt: skip


def exactly(numbers: studies.Numbers, name: str, good: bool) -> studies.Numbers:
    """As `world`, but shares stay shares: those that add up to 1."""
    return [
        {**after, "share": WORLDS[name](before, good)["share"]} if "share" in before else after
        for before, after in zip(numbers, world(numbers, lambda row: WORLDS[name](row, good)), strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_can_hold_and_can_fail(name: str, tmp_path: Path, untrained: None) -> None:
    _, numbers = rehearsed(name, tmp_path, data=tiny(ROWS))
    study = STUDIES.get(name)
    for good, outcome in ((True, "holds"), (False, "does not hold")):
        found = study.judge(exactly(numbers, name, good))
        assert found
        assert {one.number for one in found} <= set(study.claims)
        for one in found:
            assert one.outcome == outcome, one


def test_a_barrier_that_orders_as_well_as_the_own_accuracy_is_no_better(tmp_path: Path) -> None:
    _, numbers = rehearsed("barrier-and-performance", tmp_path, data=tiny(ROWS))
    same = [
        {**row, "own": -row["barrier"], "sparse": -row["barrier"]} if row["what"] == "point" else row for row in numbers
    ]
    first, second = STUDIES.get("barrier-and-performance").judge(same)[:2]
    assert first.outcome == "holds"
    assert second.outcome == "undecided"
    assert second.mean == pytest.approx(0, abs=1e-12)


def test_a_network_that_loses_no_accuracy_has_no_correlation(tmp_path: Path) -> None:
    _, numbers = rehearsed("barrier-and-performance", tmp_path, data=tiny(ROWS))
    flat = [{**row, "sparse": 0.5} if row["what"] == "point" else row for row in numbers]
    for one in STUDIES.get("barrier-and-performance").judge(flat)[:2]:
        assert one.outcome == "undecided"
        assert "no value" in one.measured()


@given(
    st.lists(st.floats(0, 1.5), min_size=1, max_size=40), st.lists(st.floats(0, 1.5), min_size=1, max_size=40),
    st.integers(1, 9),
)  # fmt: skip
def test_the_distance_is_the_largest_difference_of_any_set_of_bins(a: list[float], b: list[float], bins: int) -> None:
    """Total variation by its definition: over all sets of bins, here by taking each bin where it adds."""
    edges = np.linspace(0.1, 1.4, bins + 1)
    p, q = shares(np.array(a), edges), shares(np.array(b), edges)
    counted = [sum(edges[i] <= min(max(v, 0.1), 1.4) < edges[i + 1] for v in a) for i in range(bins - 1)]
    assert np.allclose(p[:-1], np.array(counted) / len(a))
    assert p.sum() == pytest.approx(1)
    subsets = [[(i >> k) & 1 for k in range(bins)] for i in range(2**bins)]
    largest = max(abs(sum(x - y for x, y, one in zip(p, q, chosen, strict=True) if one)) for chosen in subsets)
    assert distance(p[None], q[None])[0] == pytest.approx(largest, abs=1e-12)


# ------------------------------------------------------------------------------------------- what is trained


def test_the_rehearsal_counts_the_runs_and_trains_nothing(tmp_path: Path, untrained: None) -> None:
    """Three replicates, the levels of quick, and two children of each pre-trained point."""
    job = plan("pretraining", tmp_path, data=tiny(ROWS)).job
    deep = 1 + terms(job).levels

    def counted(name: str) -> dict[str, int]:
        out: dict[str, set[str]] = {}
        for stage, one in plan(name, tmp_path, data=tiny(ROWS)).stages:
            out.setdefault(stage, set()).update(task.spec.name for _, task in one.tasks)
        return {stage: len(names) for stage, names in out.items()}

    # All data at t* and at t*/2 is one run; scoring takes 4. The projection is after two halvings.
    assert counted("error-distribution") == {
        "scoring by el2n": 4, "pre-training": 2 * 3, **{f"level {level}": 3 * 3 for level in range(3)},
    }  # fmt: skip
    assert counted("pretraining") == {
        "scoring by el2n": 4, "pre-training": 4 * 3, "level 0": 5 * 3, "children": 2 * 5 * 3,
    }  # fmt: skip
    assert counted("barrier-and-performance") == {
        "scoring by el2n": 4, "pre-training": 4 * 3, **{f"level {level}": 6 * 3 for level in range(deep)},
        "children": 2 * 6 * 3,
    }  # fmt: skip
    lengths = len(warmup.lengths_of(rehearsed("warmup", tmp_path, data=tiny(ROWS))[0]))
    runs = {"warm-up": 4 * 3 * lengths, "after the warm-up": 4 * 3 * lengths}
    assert counted("warmup") == {"scoring": 4, **runs}
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_run_on_tiny_data_and_again_from_the_store(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"data": tiny(ROWS), "runs": 2, "score_runs": 2}
    first = studies.execute(plan(name, tmp_path, **options))
    assert first.findings.verdicts
    assert environments(first) == {1}
    for row in first.findings.numbers:
        assert all(value is None or isinstance(value, (str, int, float, bool)) for value in row.values())
    assert list((tmp_path / "out").rglob("*.png"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this must not train")

    monkeypatch.setattr(jobs, "train", refuse)
    second = studies.execute(plan(name, tmp_path, **options))
    assert repr(second.findings.numbers) == repr(first.findings.numbers)


def test_what_is_measured_is_what_the_lottery_says(tmp_path: Path) -> None:
    """The rows of two studies against `find_tickets` called by hand, in a store of its own."""
    options = {"data": tiny(ROWS), "runs": 2, "score_runs": 2}
    numbers = studies.execute(plan("barrier-and-performance", tmp_path, **options)).findings.numbers
    job = plan("barrier-and-performance", tmp_path, **options).job
    asked = terms(pretraining.unsettled(job))
    by_hand = dd.find_tickets(
        tiny(ROWS), pretrain=[f"easiest:{asked.size}"], steps=asked.half, replicates=2, score_runs=2,
        levels=asked.levels, fraction=asked.fraction, recipe=asked.recipe, baselines=False,
        instruments=["barrier"], setup=setup(tmp_path / "other"),
    )  # fmt: skip
    (one,) = by_hand.outcomes.values()
    rows = [row for row in numbers if row["what"] == "point" and row["pretraining"] == EASY]
    assert one.barriers is not None
    assert [row["barrier"] for row in rows] == one.barriers.mean(1).tolist()
    assert [row["sparse"] for row in rows] == one.accuracy[:, -1].tolist()
    assert [row["own"] for row in rows] == one.test.tolist()


# ------------------------------------------------------------------------------------------------- warm-up


def pairs(folder: Path, **options: Any) -> list[tuple[RunTask, RunTask]]:
    """Each run of a warm-up with the one that goes on from it."""
    planned = plan("warmup", folder, data=tiny(ROWS), **options)
    stages = {stage: [task for _, task in one.tasks] for stage, one in planned.stages}
    before = {task.spec.name: task for task in stages["warm-up"]}
    after = stages["after the warm-up"]
    assert all(task.spec.parent is not None for task in after)
    return [(before[task.spec.parent[0]], task) for task in after if task.spec.parent is not None]


def test_the_subset_serves_the_warm_up_only_and_the_run_goes_on_with_its_momentum(tmp_path: Path) -> None:
    found = pairs(tmp_path)
    assert found
    for first, then in found:
        length = first.until
        assert first.spec.recipe == then.spec.recipe
        assert first.spec.recipe.warmup == f"{length}it"
        assert first.keep == (length,)
        assert then.spec.parent == (first.spec.name, length)
        assert then.spec.rewind is None  # a rewound run would start without momentum
        assert then.spec.start == length
        assert then.spec.subset is None
        assert then.rows is None
        assert then.until == then.spec.recipe.horizon(ROWS)
        assert then.evaluate == ("test",)
        assert (first.spec.subset is None) == (first.rows is None)
        assert first.spec.purpose != then.spec.purpose
    sizes = {None if first.rows is None else len(first.rows) for first, _ in found}
    assert sizes == {None, round(0.2048 * ROWS)}
    everything = [first.spec.subset for first, _ in found if first.spec.run == 0]
    assert len(set(everything)) == 4  # all, easiest, random, hardest
    random = {first.spec.subset for first, _ in found} - set(everything)
    assert len(random) == 2  # those of the other two runs are drawn anew


def test_the_run_after_the_warm_up_begins_with_its_momentum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the optimiser has at the first step of the second run, against the checkpoint of the first."""
    seen: list[tuple[str, int, list[np.ndarray]]] = []
    begun = jobs._Work._inherit

    def watch(self: Any, parent: str, step: int, rewind: int | None) -> None:
        begun(self, parent, step, rewind)
        moments = [state["momentum_buffer"].clone().numpy() for state in self.optimizer.state.values()]
        seen.append((parent, self.moment.step, moments))

    monkeypatch.setattr(jobs._Work, "_inherit", watch)
    planned = plan("warmup", tmp_path, data=tiny(ROWS), runs=1, score_runs=1)
    job = replace(planned.job, rehearsal=False, plans=[], _tables={})
    warmup.measure(job)
    parents = {task.spec.name: task for stage, one in job.plans if stage == "warm-up" for _, task in one.tasks}
    assert {parent for parent, _, _ in seen} == set(parents)
    for parent, step, moments in seen:
        assert step == parents[parent].until
        point = folder_of(parents[parent]).load_checkpoint(step)
        assert point is not None
        kept = [t.numpy() for name, t in point.tensors.items() if name.endswith("momentum_buffer")]
        assert any(np.abs(one).max() > 0 for one in moments)
        assert sorted(one.tobytes() for one in kept) == sorted(one.tobytes() for one in moments)


def test_the_papers_warm_up_is_its_own() -> None:
    """Batch 1,024, rate 3.2, 160 epochs of 49 steps, divided by 10 at 80 and 120."""
    data = tiny(ROWS)
    job = replace(
        plan("warmup", Path("unused"), data=data).job,
        scale=studies.SCALES.get("paper"), recipe=PRESETS.get("dd-cifar10").recipe, own=False, own_runs=False,
    )  # fmt: skip

    class Fifty:
        def __len__(self) -> int:
            return 50_000

    job = replace(job, data=Fifty())  # type: ignore[arg-type]
    recipe = warmup.recipe_of(job)
    assert (recipe.model, recipe.batch_size, recipe.steps) == ("resnet20", 1024, f"{160 * 49}it")
    assert recipe.lr == pytest.approx(3.2)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 1e-4)
    assert (recipe.schedule, recipe.milestones, recipe.gamma) == ("steps", (f"{80 * 49}it", f"{120 * 49}it"), 0.1)
    assert warmup.lengths_of(job) == [100, 200, 400, 800, 1600, 3200]
    assert warmup.sizes_of(job) == [5120, 10240, 25600]
    assert warmup.runs_for(job) == 8
    assert warmup.runs_for(replace(job, own_runs=True)) == 4
    own = warmup.recipe_of(replace(job, own=True))
    assert (own.model, own.steps, own.batch_size) == ("resnet18", "200ep", 1024)


def test_a_run_that_is_too_short_for_a_warm_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatadietError, match="warm-up"):
        plan("warmup", tmp_path, data=tiny(ROWS), recipe={**RECIPE, "steps": "1it"})
    assert not (tmp_path / "store").exists()


@given(st.floats(0.05, 0.9), st.integers(1, 30))
def test_the_projection_leaves_about_what_six_levels_of_the_paper_leave(fraction: float, levels: int) -> None:
    found = projected(Terms(Recipe(), None, 10, 10, (10,), levels, fraction, 4))
    off = [abs(level * np.log(1 - fraction) - 6 * np.log(0.8)) for level in range(1, levels + 1)]
    assert off[found - 1] == pytest.approx(min(off), abs=1e-9)
