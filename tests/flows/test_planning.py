"""Which recipe, which network, which environment: what a plan resolves to, and what travels with results."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_flows import RECIPE, arrays, setup, tiny
from torch import nn

import datadiet as dd
from datadiet.data.dataset import from_arrays
from datadiet.flows.plan import preset_for, recipe_for
from datadiet.flows.run import plan_run
from datadiet.flows.tune import plan_tune
from datadiet.selection import POLICIES
from datadiet.steps import Step


def _colour(name: str = "cifar10") -> dd.Dataset:
    rng = np.random.default_rng(0)
    return from_arrays(name, (rng.integers(0, 256, (40, 32, 32, 3), np.uint8), np.arange(40) % 10))


def test_the_environment_says_where_runs_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DATADIET_STORE", raising=False)
    assert dd.Setup().store == "datadiet-runs"
    monkeypatch.setenv("DATADIET_STORE", "elsewhere")
    assert dd.Setup().store == dd.Setup.of({"threads": 1}).store == "elsewhere"
    assert dd.Setup("here").store == "here"


def test_results_of_python_and_of_the_command_line_go_to_one_folder(tmp_path: Path):
    noisy = tiny().with_noise("permute", 0.2)
    assert plan_run(noisy, at="1ep", recipe=RECIPE, setup=setup(tmp_path)).out == Path("out/tiny-permute0.2")


def test_numbers_of_numpy_and_steps_are_taken_as_they_are_meant(tmp_path: Path):
    given = {"scores": ["el2n"], "runs": 1, "recipe": RECIPE, "setup": setup(tmp_path)}
    wanted = dd.score(tiny(), at=7, seed=1, **given).mean("el2n").tolist()
    assert dd.score(tiny(), at=np.int64(7), seed=np.int64(1), **given).mean("el2n").tolist() == wanted
    assert dd.score(tiny(), at=Step.parse("1ep"), seed=1, **given).mean("el2n").tolist() == wanted
    assert len(list(tmp_path.glob("??/*/run.json"))) == 1


def test_another_network_does_not_inherit_the_arguments_of_the_presets():
    data = tiny()
    assert recipe_for(data).model_args == {"width": 32}
    assert recipe_for(data, recipe={"model": "resnet20"}).model_args == {}
    assert recipe_for(data, model="resnet20").model_args == {}
    assert recipe_for(data, recipe={"model_args": {"width": 8}}, model="resnet20").model_args == {"width": 8}
    assert recipe_for(data, recipe={"model": "mlp", "model_args": {"hidden": [4]}}, model="resnet20").model_args == {}


@pytest.mark.parametrize(
    ("model", "name", "preset"),
    [
        (None, "cifar10", "cifar10-small"),
        ("resnet18", "cifar10", "dd-cifar10"),
        ("resnet50", "cinic10", "dd-cinic10"),
        ("resnet32", "cifar100", "lt-cifar100"),
        ("resnet18", "mine", "dd-cifar10"),
        ("mlp", "cifar10", "cifar10-small"),
    ],
)
def test_the_papers_networks_are_trained_as_the_papers_train_them(model, name, preset):
    assert preset_for(_colour(name), model=model)[0] == preset


def test_the_number_of_classes_is_part_of_what_a_run_is(tmp_path: Path):
    (x, y), test = arrays()
    three = dd.load(((x, y), test), name="three")
    eight = dd.load(((x, y), test), name="eight", classes=[str(c) for c in range(8)])
    assert three.fingerprint == eight.fingerprint
    for data in (three, eight):
        table = dd.score(data, scores=["loss"], runs=1, at="1ep", recipe=RECIPE, setup=setup(tmp_path))
        alone = dd.score(data, scores=["loss"], runs=1, at="1ep", recipe=RECIPE, setup=setup(tmp_path / data.name))
        np.testing.assert_array_equal(table.values("loss"), alone.values("loss"))


class Bag(nn.Module):
    """Mean embedding of masked tokens."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, classes)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weight = mask[..., None].to(self.embed.weight.dtype)
        return self.head((self.embed(tokens) * weight).sum(1) / weight.sum(1))


def bag(classes: int) -> nn.Module:
    return Bag(classes)


def test_inputs_of_several_arrays_go_the_whole_way(tmp_path: Path):
    rng = np.random.default_rng(0)

    def part(count: int):
        labels = np.arange(count) % 2
        tokens = rng.integers(0, 10, (count, 6)) + 10 * labels[:, None]
        return {"tokens": tokens, "mask": np.ones((count, 6), bool)}, labels

    data = from_arrays("words", part(60), part(40))
    recipe = {"batch_size": 10, "steps": "6ep", "lr": 0.5}
    options = {"model": f"{__file__}:bag", "recipe": recipe, "setup": setup(tmp_path)}
    table = dd.score(data, scores=["el2n", "grand", "forgetting"], runs=2, at="2ep", **options)
    assert np.isfinite(table.mean("grand")).all()
    result = dd.compare(data, {"half": dd.select(table, "el2n", 0.5)}, runs=1, setup=setup(tmp_path))
    assert result["full data"].mean > 0.9


SCRIPT = """
import sys
import datadiet as dd
from datadiet.models import MODELS
from datadiet.scores import score
from torch import nn

@score("margin", needs="logits", harder="lower")
def margin(logits, labels):
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], float("-inf")).amax(1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(36, 3)

    def forward(self, x):
        return self.head(x.flatten(1))

def net(input_shape, classes):
    return Net()

MODELS.register("net", net)

if __name__ == "__main__":
    import logging
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    recipe = {"model": "net", "batch_size": 16}
    table = dd.score(sys.argv[1], scores=["margin"], runs=2, at="1ep", recipe=recipe,
                     setup=dd.Setup(store=sys.argv[2], engine="processes", workers=2, threads=1))
    print(table.mean("margin").shape)
"""


def test_a_score_and_a_network_that_a_script_registers_reach_the_workers_and_are_the_same_there(tmp_path: Path):
    (tmp_path / "mine.py").write_text(SCRIPT)
    (x, y), (x_test, y_test) = arrays()
    np.savez(tmp_path / "tiny.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    command = [sys.executable, "mine.py", "tiny.npz", "runs"]
    for said in ([], ["2 of 2 scoring runs are in runs already, nothing to train"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.stdout.splitlines() == [*said, "(120,)"], done.stderr


class Restless(nn.Module):
    """Draws in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x + 0.1 * torch.randn_like(x))


def restless() -> nn.Module:
    return Restless()


def test_taking_a_score_does_not_move_the_random_stream_of_training(tmp_path: Path):
    options = {"model": f"{__file__}:restless", "recipe": {**RECIPE, "model_args": {}}, "scores": ["loss"], "runs": 1}
    once = dd.score(tiny(), at="3ep", setup=setup(tmp_path / "a"), **options)
    twice = dd.score(tiny(), at=["1ep", "3ep"], setup=setup(tmp_path / "b"), **options)
    np.testing.assert_array_equal(once.values("loss", "3ep"), twice.values("loss", "3ep"))


def test_a_job_leaves_the_process_as_it_was(tmp_path: Path):
    torch.manual_seed(5)
    before = (torch.get_rng_state(), torch.get_num_threads(), torch.backends.cudnn.allow_tf32)
    dd.score(tiny(), scores=["loss"], runs=1, at="1ep", recipe=RECIPE, setup=setup(tmp_path, threads=2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_num_threads(), torch.backends.cudnn.allow_tf32)


def test_ranking_by_what_some_examples_will_not_have_is_refused_before_anything_is_trained(
    tmp_path: Path, stretches: list[tuple[int, int]]
):
    common = {"recipe": RECIPE, "scores": ["forgetting"], "runs": 1, "setup": setup(tmp_path / "store")}
    with pytest.raises(dd.DatadietError, match="examples will have no forgetting at step 7") as caught:
        dd.run(tiny(), at="1ep", keeps=[0.5], out=tmp_path / "out", **common)
    assert stretches == []
    # As many as there really are.
    undefined = np.isnan(dd.score(tiny(), at="1ep", **common).mean("forgetting")).sum()
    assert undefined == 120 % 16
    assert str(caught.value).startswith(f"--at: {undefined} examples")


def test_a_score_that_needs_two_visits_is_not_ranked_by_after_one(tmp_path: Path, stretches: list[tuple[int, int]]):
    common = {"recipe": RECIPE, "scores": ["dyn_unc"], "runs": 8, "keeps": [0.5], "setup": setup(tmp_path / "store")}
    with pytest.raises(dd.DatadietError, match="120 examples will have no dyn_unc at step 7"):
        dd.run(tiny(), at="1ep", out=tmp_path / "out", **common)
    plan_run(tiny(), at="3ep", out=tmp_path / "out", **common)
    assert stretches == []


def test_the_main_job_balances_its_subsets_and_its_windows(tmp_path: Path):
    data = tiny()
    options = {"recipe": RECIPE, "scores": ["el2n"], "runs": 1, "setup": setup(tmp_path / "store"), "out": tmp_path}
    done = dd.run(data, at="1ep", keeps=[0.25], balanced=True, tune=True, retrain_runs=1, **options)
    assert list(done.subsets) == [f"el2n balanced {policy} 25%" for policy in ("hardest", "easiest", "window")]
    assert done.tuned is not None
    for subset in (*done.subsets.values(), done.tuned.subset):
        assert np.bincount(data.labels[np.asarray(subset)]).tolist() == [10, 10, 10]
    assert [row.name for row in done.comparison.rows] == ["full data", "balanced random 25%", *done.subsets]
    assert [row.name for row in done.tuned.test.rows][:2] == ["full data", "balanced random 25%"]


def few(*counts: int) -> dd.Dataset:
    """So many of each class in training."""
    (x, y), test = arrays()
    rows = np.concatenate([np.flatnonzero(y == label)[:count] for label, count in enumerate(counts)])
    return dd.load(((x[rows], y[rows]), test), name="few")


def test_a_class_too_small_to_be_balanced_is_refused_before_anything_is_trained(
    tmp_path: Path, stretches: list[tuple[int, int]]
):
    options = {"recipe": RECIPE, "scores": ["el2n"], "runs": 1, "setup": setup(tmp_path / "store"), "out": tmp_path}
    with pytest.raises(dd.DatadietError, match="class 0 has 10 examples, and balanced classes need 15 of it"):
        dd.run(few(10, 40, 40), at="1ep", keeps=[0.5], balanced=True, **options)
    with pytest.raises(dd.DatadietError, match="no class-balanced form"):
        dd.run(tiny(), at="1ep", keeps=[0.25], policies=["stratified"], balanced=True, **options)
    with pytest.raises(dd.DatadietError, match=r"class 0 has 16 examples; a window from offset 0\.4"):
        plan_tune(
            few(20, 40, 32), "el2n", 7, plan_run(tiny(), at="1ep", **options).scoring.recipe, score_runs=1,
            offsets=[0.1, 0.4], balanced=True, setup=setup(tmp_path / "store"),
        )  # fmt: skip
    assert stretches == []


def test_balanced_windows_stay_within_the_smallest_class(tmp_path: Path):
    data = few(20, 40, 32)  # half of all is 46: 15 or 16 of each, so that a quarter of class 0 may be left out
    options = {"recipe": RECIPE, "scores": ["el2n"], "runs": 1, "setup": setup(tmp_path / "store")}
    plan = plan_run(data, at="1ep", keeps=[0.5], balanced=True, tune=True, out=tmp_path / "out", **options)
    assert plan.tuning is not None
    assert [offset for _, offset in plan.tuning.grid] == pytest.approx([0, 0.1, 0.2, 0.25])
    done = dd.run(data, at="1ep", keeps=[0.5], policies=["window"], balanced=True, out=tmp_path / "out", **options)
    window = done.subsets["el2n balanced window 50%"]
    assert np.bincount(data.labels[np.asarray(window)]).tolist() == [15, 16, 15]
    assert window.policy["offset"] == pytest.approx(0.25)


def test_a_policy_of_ones_own_is_not_tried_on_made_up_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def whole(difficulty: np.ndarray, count: int, *, tie: Any, labels: Any = None, rng: Any = None) -> np.ndarray:
        assert np.all(difficulty == np.round(difficulty)), "only of counts"
        return np.arange(count)

    monkeypatch.setitem(POLICIES._entries, "whole-numbers", whole)
    options = {"recipe": RECIPE, "scores": ["forgetting"], "runs": 1, "setup": setup(tmp_path / "store")}
    done = dd.run(tiny(), at="2ep", keeps=[0.5], policies=["whole-numbers"], out=tmp_path / "out", **options)
    assert done.subsets["forgetting whole-numbers 50%"].indices.tolist() == list(range(60))


def test_a_run_of_the_main_job_may_keep_a_third_and_tune_it(tmp_path: Path):
    common = {"recipe": RECIPE, "scores": ["el2n"], "runs": 1, "setup": setup(tmp_path / "store")}
    plan = plan_run(tiny(), at="1ep", keeps=[1 / 3], tune=True, out=tmp_path / "out", **common)
    assert len(plan.stages()) == 5


def test_results_of_two_environments_are_named_and_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    options = {"scores": ["loss"], "runs": 1, "recipe": RECIPE}
    dd.score(tiny(), at="1ep", setup=setup(tmp_path, threads=1), **options)
    with caplog.at_level(logging.WARNING, "datadiet"):
        table = dd.score(tiny(), at=["1ep", "2ep"], setup=setup(tmp_path, threads=2), **options)
    assert [environment["threads"] for environment in table.provenance["numerics"]] == [1, 2]
    assert "2 numeric environments" in caplog.text
    assert "another numeric environment" in caplog.text, "the run went on from a state of the other"


def test_a_subset_chosen_under_other_labels_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    noisy = tiny().with_noise("permute", 0.3)
    subset = dd.select(np.arange(120.0), keep=0.5)
    subset = dd.Subset(np.asarray(subset), 120, noisy.fingerprint)
    options = {"runs": 1, "recipe": RECIPE, "setup": setup(tmp_path), "baselines": ()}
    with caplog.at_level(logging.WARNING, "datadiet"):
        dd.compare(noisy, {"half": subset}, **options)
        assert "other labels" not in caplog.text
        dd.compare(tiny(), {"half": subset}, **options)
    assert "half was chosen under other labels" in caplog.text


def test_corrected_labels_are_not_corrupted():
    clean = tiny()
    assert not clean.with_noise("permute", 0.5).with_labels(clean.labels).corrupted.any()


def test_the_line_that_is_printed_next_loads_the_same_data(tmp_path: Path):
    from datadiet.cli.options import STORE, again

    provenance = {
        "source": {"source": "my data.csv", "label": "y", "drop": ["a"], "data_dir": None},
        "noise": {"kind": "permute", "fraction": 0.1, "seed": 3},
        "validation": [0.2, 0],
    }
    words = again(provenance, STORE)
    assert words[0] == "my data.csv"
    assert " ".join(words[1:]) == (
        '--label y --data-option drop=["a"] --noise permute:0.1 --noise-seed 3 --validation 0.2'
    )


def test_milestones_beyond_the_run_are_warned_of(caplog: pytest.LogCaptureFixture):
    recipe = {**RECIPE, "schedule": "steps", "milestones": ["100ep"]}
    with caplog.at_level(logging.WARNING, "datadiet"):
        recipe_for(tiny(), recipe={**recipe, "milestones": ["1ep"]})
        assert not caplog.text
        recipe_for(tiny(), recipe=recipe)
    assert "the milestone 100ep is not within the run of 28 steps (4ep): its learning rate never falls" in caplog.text


def test_an_unknown_engine_is_told_of_auto_too():
    with pytest.raises(dd.DatadietError, match="--engine: unknown engine 'slurm'; known: auto, inline, processes"):
        dd.Setup(engine="slurm")
    with pytest.raises(dd.DatadietError, match="did you mean auto"):
        dd.Setup(engine="aut")
