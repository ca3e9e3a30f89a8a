"""Recipes and the names of runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from datadiet.errors import DatadietError
from datadiet.training import recipe as recipe_module
from datadiet.training.recipe import Recipe, RunSpec

# One other legal value for every field.
CHANGED = {
    "model": "resnet8",
    "model_args": {"width": 32},
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 0.2,
    "momentum": 0.8,
    "nesterov": False,
    "weight_decay": 1e-4,
    "schedule": "linear",
    "milestones": ("5ep",),
    "gamma": 0.3,
    "warmup": "1ep",
    "steps": "30ep",
    "pad": 4,
    "pad_mode": "zeros",
    "flip": True,
}
SPEC = RunSpec(Recipe(), dataset="aa-bb")
SPECS = {
    "recipe": Recipe(lr=0.2),
    "dataset": "aa-cc",
    "seed": 1,
    "run": 1,
    "purpose": "retrain",
    "noise": {"kind": "permute", "fraction": 0.1},
    "subset": "ff",
    "parent": ("abc", 7),
    "mask": "ee",
    "rewind": 20,
    "weights": "dd",
    "classes": 10,
}


def test_every_field_has_a_changed_value_here():
    assert set(CHANGED) == {f.name for f in fields(Recipe)}
    assert set(SPECS) == {f.name for f in fields(RunSpec)}


# ------------------------------------------------------------------------------------------- what a recipe takes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": "0.1"}, "recipe: lr is '0.1'; a number is expected"),
        ({"lr": True}, "recipe: lr is True; a number is expected"),
        ({"lr": None}, "recipe: lr is None; a number is expected"),
        ({"lr": float("nan")}, "learning rate of nan"),
        ({"lr": -1}, "learning rate of -1.0; it must be positive"),
        ({"batch_size": 1.5}, "batch_size is 1.5; a whole number is expected"),
        ({"batch_size": 0}, "batch size of 0; at least 1"),
        ({"nesterov": 1}, "nesterov is 1; true or false is expected"),
        ({"momentum": 1.0}, "momentum lies in"),
        ({"momentum": 0.0}, "Nesterov without momentum"),
        ({"weight_decay": float("nan")}, "weight decay is not negative"),
        ({"gamma": float("nan"), "schedule": "steps", "milestones": ["1ep"]}, "gamma is nan"),
        ({"schedule": "cos"}, "unknown schedule 'cos'.*cosine"),
        ({"schedule": "steps"}, "a 'steps' schedule without milestones"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; did you mean adamw"),
        ({"pad_mode": "mirror"}, "unknown pad_mode 'mirror'"),
        ({"pad": -1}, "a pad of -1"),
        ({"flip": "yes"}, "flip is 'yes'; true or false is expected"),
        ({"steps": "3 epochs"}, "recipe, steps: '3 epochs' is not a step"),
        ({"steps": 3.5}, "steps is 3.5; a step is expected"),
        ({"warmup": "-1it"}, "recipe, warmup: '-1it' is not a step"),
        ({"milestones": "60ep"}, "milestones is '60ep'; a list of steps is expected"),
        ({"milestones": ["sixty"]}, "recipe, milestones: 'sixty' is not a step"),
        ({"model_args": ["width"]}, "a table of plain values is expected"),
        ({"model_args": {"layer": object()}}, "a table of plain values is expected"),
    ],
)
@pytest.mark.parametrize("make", [lambda v: Recipe(**v), lambda v: Recipe().with_(**v), Recipe.from_json])
def test_what_a_recipe_can_not_be_is_said_in_words_by_every_way_in(make, values, message):
    with pytest.raises(DatadietError, match=message):
        make(values)


@pytest.mark.parametrize("make", [lambda v: Recipe().with_(**v), Recipe.from_json])
def test_an_unknown_field_is_refused_with_the_nearest_known_one(make):
    with pytest.raises(DatadietError, match="unknown recipe field 'batchsize'; did you mean batch_size"):
        make({"batchsize": 1})


def test_changing_a_recipe_gives_a_copy_and_leaves_the_first_alone():
    first = Recipe(model_args={"width": 8})
    second = first.with_(lr=0.2)
    assert (first.lr, second.lr) == (0.1, 0.2)
    assert second.model_args == {"width": 8}
    assert first.with_() == first


def test_values_that_mean_the_same_make_the_same_recipe():
    assert Recipe(lr=1, steps="20.0ep", warmup=0, batch_size=np.int64(128)) == Recipe(lr=1.0, steps="20ep")
    assert Recipe(steps=300) == Recipe(steps="300it")
    a = Recipe(schedule="steps", milestones=["60.0ep", 5])
    b = Recipe(schedule="steps", milestones=("60ep", "5it"))
    assert RunSpec(a, "x").name == RunSpec(b, "x").name
    assert RunSpec(Recipe(lr=np.float64(1)), "x").name == RunSpec(Recipe(lr=1), "x").name


def test_a_recipe_reads_back_from_json_and_toml(tmp_path):
    recipe = Recipe(**{**CHANGED, "schedule": "steps"})
    (tmp_path / "r.json").write_text(json.dumps(recipe.to_json()))
    assert Recipe.from_file(tmp_path / "r.json") == recipe
    lines = []
    for key, value in recipe.to_json().items():
        text = "{ width = 32 }" if key == "model_args" else json.dumps(value)
        lines.append(f"{key} = {text}")
    (tmp_path / "r.toml").write_text("\n".join(lines))
    assert Recipe.from_file(tmp_path / "r.toml") == recipe


def test_what_a_file_does_not_say_comes_from_the_base(tmp_path):
    (tmp_path / "r.toml").write_text("lr = 1")
    base = Recipe(model="mlp", batch_size=7)
    assert Recipe.from_file(tmp_path / "r.toml", base=base) == base.with_(lr=1.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.json", b"{", "not valid JSON"),
        ("r.json", b"[1]", "a table of settings is expected"),
        ("r.json", b"\xff\xfe\x00", "cannot be read: is not text"),
        ("r.toml", b"lr = ", "not valid TOML"),
        ("r.toml", b'lr = "x"', "lr is 'x'"),
        ("r.toml", b"lr = 2026-01-01", "a number is expected"),
        ("r.json", b'{"lrr": 1}', "unknown recipe field 'lrr'; did you mean lr"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DatadietError, match=message):
        Recipe.from_file(file)


def test_a_missing_file_or_a_folder_is_no_recipe(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DatadietError, match="cannot be read"):
            Recipe.from_file(path)


def test_the_horizon_is_at_least_one_step():
    assert Recipe(steps="0.1ep").horizon(10) == 1
    with pytest.raises(DatadietError, match="a run of no steps; give one or more"):
        Recipe(steps="0").horizon(1000)
    assert Recipe(steps="2ep").horizon(50_000) == 780
    assert Recipe(steps="2ep").horizon(10) == 2


# ------------------------------------------------------------------------------------------------ names of runs


@pytest.mark.parametrize("field", CHANGED)
def test_a_runs_name_changes_with_every_field_of_its_recipe(field):
    base = Recipe(schedule="steps", milestones=("9ep",)) if field in ("milestones", "gamma") else Recipe()
    changed = base.with_(**{field: CHANGED[field]})
    assert RunSpec(changed, "aa-bb").name != RunSpec(base, "aa-bb").name


@pytest.mark.parametrize("field", SPECS)
def test_a_runs_name_changes_with_every_field_of_its_spec(field):
    assert replace(SPEC, **{field: SPECS[field]}).name != SPEC.name


def test_all_these_names_differ_from_each_other():
    names = [replace(SPEC, **{field: value}).name for field, value in SPECS.items()] + [SPEC.name]
    names += [replace(SPEC, parent=("abc", 8)).name, replace(SPEC, parent=("abd", 7)).name]
    assert len(set(names)) == len(names)


def test_the_horizon_is_part_of_the_name_and_where_a_run_stops_is_not():
    assert RunSpec(Recipe(steps="10ep"), "x").name != RunSpec(Recipe(steps="11ep"), "x").name
    assert not {"until", "at", "stop"} & {f.name for f in fields(RunSpec)}


def test_raising_the_numerics_version_renames_every_run(monkeypatch):
    before = SPEC.name
    assert SPEC.to_json()["numerics"] == recipe_module.NUMERICS_VERSION
    monkeypatch.setattr(recipe_module, "NUMERICS_VERSION", recipe_module.NUMERICS_VERSION + 1)
    assert SPEC.name != before


def test_a_field_added_later_leaves_the_names_of_old_runs_alone():
    @dataclass(frozen=True)
    class Later(Recipe):
        label_smoothing: float = 0.0

    @dataclass(frozen=True)
    class LaterSpec(RunSpec):
        site: str | None = None

    assert LaterSpec(Later(lr=0.3), "x", seed=2).name == RunSpec(Recipe(lr=0.3), "x", seed=2).name
    assert LaterSpec(Later(label_smoothing=0.1), "x").name != RunSpec(Recipe(), "x").name


def test_a_value_said_that_is_the_default_changes_no_name():
    said = RunSpec(Recipe(momentum=0.9, model_args={}), "x", seed=0, purpose="score")
    assert said.name == RunSpec(Recipe(), "x").name


def test_names_are_what_they_have_always_been():
    # Runs on disk are found again only while these stay.
    assert SPEC.name == "2dcd3739849430f5daad900f56bca1fe"
    older = {k: v for k, v in SPECS.items() if k not in ("recipe", "classes", "rewind")}
    whole = RunSpec(Recipe(**{**CHANGED, "schedule": "steps"}), **older)
    assert whole.name == "ce2919bbfdc631a0e1792380f4f1daa5"


def test_the_streams_of_a_run_are_keyed_by_seed_purpose_and_run():
    assert replace(SPEC, seed=3, purpose="tune", run=9).stream == (3, "tune", 9)
    assert replace(SPEC, recipe=Recipe(lr=0.5)).stream == SPEC.stream, "so that recipes are compared on equal draws"
