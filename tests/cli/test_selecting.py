"""`datadiet select`: every policy, every kind of file, balance, ties on sorted data, tuning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_cli import FLAGS, RECIPE, arrays, ok

import datadiet as dd
from datadiet.flows.select import load_subset

POLICIES = [
    ("hardest", ()),
    ("easiest", ()),
    ("random", ()),
    ("window", ("--offset", 0.2)),
    ("stratified", ()),
]


@pytest.mark.parametrize(("policy", "options"), POLICIES)
def test_every_policy_keeps_what_python_keeps(place: Path, policy: str, options: tuple[object, ...]) -> None:
    words = ("select", "scores", "--by", "el2n", "--keep", 0.4, "--policy", policy, *options, "-o", "s.safetensors")
    said = ok(*words, "--json").json
    extra = {"offset": 0.2} if policy == "window" else {}
    assert load_subset("s.safetensors") == dd.select("scores", "el2n", 0.4, policy, **extra)
    assert (said["kept"], said["of"], said["policy"]["name"]) == (48, 120, policy)
    assert sum(said["balance"]["after"]) == 48


def test_hardest_window_and_easiest_are_where_they_should_be(place: Path) -> None:
    mean = dd.load_table("scores").mean("el2n")
    order = np.argsort(mean, kind="stable")
    kept = {}
    for policy, options in POLICIES:
        ok("select", "scores", "--by", "el2n", "--keep", 0.25, "--policy", policy, *options, "-o", "s.txt")
        kept[policy] = set(map(int, Path("s.txt").read_text().split()))
    assert kept["easiest"] == set(order[:30].tolist())
    assert kept["window"] == set(order[24:54].tolist())
    assert kept["hardest"] == set(order[90:].tolist())


def test_other_subsets_have_other_names(place: Path) -> None:
    words = ("select", "scores", "--by", "el2n", "--keep", 0.25)
    for more, name in (
        ((), "el2n-hardest-25"),
        (("--balanced",), "el2n-balanced-hardest-25"),
        (("--at", "1ep"), "el2n-hardest-25-at-1ep"),
        (("--policy", "window", "--offset", 0.2), "el2n-window-25-from-20"),
        (("--policy", "window", "--offset", 0.125), "el2n-window-25-from-12.5"),
        (("--policy", "stratified", "--option", "beta=0.1", "--seed", 3), "el2n-stratified-25-beta-0.1-seed-3"),
    ):
        assert ok(*words, *more, "--json").json["file"] == f"scores/{name}.safetensors"
    assert len(list(Path("scores").glob("*25*.safetensors"))) == 6


@pytest.mark.parametrize("ending", ["safetensors", "npy", "txt"])
def test_a_subset_file_round_trips_and_trains(place: Path, ending: str) -> None:
    ok("select", "scores", "--by", "el2n", "--keep", 0.5, "-o", f"half.{ending}")
    data = dd.load("tiny.npz")
    wanted = dd.select("scores", "el2n", 0.5)
    assert np.array_equal(load_subset(f"half.{ending}", data), wanted)
    words = ("compare", "tiny.npz", *FLAGS, "--runs", 1, "--subset", f"half={Path(f'half.{ending}')}", "-o", "c")
    rows = ok(*words, "--json").json["rows"]
    said = ok("select", "scores", "--by", "el2n", "--keep", 0.5, "-o", f"half.{ending}").out
    assert ("Plain rows carry no recipe" in said) == (ending != "safetensors")
    assert [(row["name"], row["examples"]) for row in rows] == [("full data", 120), ("random 50%", 60), ("half", 60)]


def test_plain_files_hold_the_rows(place: Path) -> None:
    ok("select", "scores", "--by", "el2n", "--keep", 0.5, "-o", "half.txt")
    ok("select", "scores", "--by", "el2n", "--keep", 0.5, "-o", "half.npy")
    rows = [int(line) for line in Path("half.txt").read_text().splitlines()]
    assert rows == sorted(set(rows)) == np.load("half.npy", allow_pickle=False).tolist()


def test_balanced_keeps_the_same_number_of_each_class(place: Path) -> None:
    said = ok("select", "scores", "--by", "el2n", "--keep", 0.5, "--balanced", "-o", "b.txt", "--json").json
    assert said["balance"]["after"] == [20, 20, 20]


def test_forgetting_on_data_sorted_by_class_loses_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("sorted.npz", **arrays(sort=True))
    Path("recipe.json").write_text(json.dumps(RECIPE))
    ok("score", "sorted.npz", *FLAGS, "--score", "forgetting", "--at", "4ep", "--runs", 1, "-o", "scores")
    mean = dd.load_table("scores").mean("forgetting")
    assert np.bincount(mean.astype(int))[0] > 60, "most are never forgotten: the ties decide"
    for policy in ("easiest", "hardest"):
        said = ok(
            "select", "scores", "--by", "forgetting", "--keep", 0.5, "--policy", policy, "-o", "s.txt", "--json"
        ).json
        assert min(said["balance"]["after"]) >= 8, said["balance"]


def test_tune_reports_the_grid_and_tests_the_choice_once(place: Path) -> None:
    words = ("select", "scores", "--by", "el2n", "--tune", "--keep", 0.5, "--runs", 1)  # what is tuned is a window
    words += ("--offset", 0.0, "--offset", 0.5, "--engine", "inline", "--threads", 1, "--precision", "float32")
    said = ok(*words, "-o", "tuned.safetensors", "--json").json["tuned"]
    assert [(point["keep"], point["offset"]) for point in said["grid"]] == [(0.5, 0.0), (0.5, 0.5)]
    assert said["validation_examples"] == 24
    assert [row["runs"] for row in said["test"]["rows"]] == [1, 1, 1]
    assert load_subset("tuned.safetensors").policy["offset"] == said["offset"]
    assert Path("tuned.json").exists()
    assert "Chosen: keep 0.5 from offset" in ok(*words, "-o", "tuned.safetensors").out
