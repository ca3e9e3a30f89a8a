"""`datadiet select`: every policy, every kind of file, balance, ties on sorted data, tuning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_cli import FLAGS, RECIPE, arrays, cli, ok

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
    assert [(point["keep"], point["examples"]) for point in said["grid"]] == [(0.5, 48), (0.5, 48)]
    printed = ok(*words, "-o", "tuned.safetensors").out
    assert "Chosen by el2n: keep 0.5 from offset" in printed
    shown = ok("show", "tuned.json").out
    assert shown in printed, "the same tables"
    assert "tuned window 50%" in shown


def test_what_is_tuned_lies_together_under_a_tilde_that_no_shell_saw(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = ("select", "scores", "--by", "el2n", "--tune", "--keep", 0.5, "--runs", 1, "--offset", 0.0)
    ok(*words, "--engine", "inline", "--threads", 1, "--precision", "float32", "--out=~/there/tuned.safetensors")
    assert sorted(path.name for path in (tmp_path / "home/there").iterdir()) == ["tuned.json", "tuned.safetensors"]
    assert not Path("~").exists()


def test_other_values_and_other_parts_have_other_names(place: Path) -> None:
    np.save("a.npy", np.arange(50_000.0))
    np.save("b.npy", -np.arange(50_000.0))
    for name, keep in (("a", 0.5), ("a", 0.5004), ("b", 0.5)):
        ok("select", f"{name}.npy", "--keep", keep)
    for offset in ("0.1234", "0.1233", "1/3"):
        ok("select", "a.npy", "--policy", "window", "--keep", 0.5, "--option", f"offset={offset}")
    found = {path.name: len(load_subset(path)) for path in Path().glob("?-*.safetensors")}
    assert found == {
        "a-hardest-50.safetensors": 25_000, "a-hardest-50.04.safetensors": 25_020, "b-hardest-50.safetensors": 25_000,
        "a-window-50-from-12.34.safetensors": 25_000, "a-window-50-from-12.33.safetensors": 25_000,
        "a-window-50-from-33.33333333.safetensors": 25_000,
    }  # fmt: skip


def test_the_exported_table_selects_as_its_folder_does(place: Path) -> None:
    ok("score", "tiny.npz", *FLAGS, "--score", "aum", "--at", "4ep", "--runs", 2, "-o", "aum")
    mine = dd.select("aum/scores.parquet", "aum@28it.mean", 0.3)
    assert np.array_equal(mine, dd.select("aum", "aum", 0.3)), "lower is harder"
    assert mine.fingerprint == dd.load_table("aum").fingerprint
    single = dd.load_table("aum").values("aum")[1]
    assert np.array_equal(dd.select("aum/scores.parquet", "aum@28it.run1", 0.3), dd.select(-single, keep=0.3))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--validation", 0.3), "--validation: nothing is trained without --tune"),
        (("--runs", 3), "--runs: nothing is trained without --tune"),
        (("--engine", "inlin"), "--engine: nothing is trained without --tune"),
        (("--option", "run=x"), "--option: run is not given so"),
        (("--option", "warn_below=x"), "--option: warn_below is not given so"),
        (("--tune", "--offset", 0.2, "--offset", 0.9), "--offset: offset 0.9 leaves no room for any keep"),
        (("--tune", "-o", "folder.safetensors"), "folder.safetensors: is a folder where a file is meant"),
        (
            ("--tune", "-o", "mine.safetensors"),
            "mine.json: was not written by datadiet, and the tuning's results go there",
        ),
        (("--tune", "-o", "other.safetensors"), "other.json: is a folder where the tuning's results go"),
    ],
)
def test_what_would_be_ignored_or_written_over_is_refused(place: Path, words: tuple[object, ...], said: str) -> None:
    for folder in ("folder.safetensors", "other.json"):
        Path(folder).mkdir()
    Path("mine.json").write_text('{"of": "mine"}')
    before = sorted(str(path) for path in Path().rglob("*"))
    ended = cli("select", "scores", "--by", "el2n", "--keep", 0.5, *words)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert said in ended.err
    assert Path("mine.json").read_text() == '{"of": "mine"}'
    assert sorted(str(path) for path in Path().rglob("*")) == before


def test_a_validation_split_is_cut_once(place: Path) -> None:
    ok("score", "tiny.npz", *FLAGS, "--validation", 0.2, "--at", "2ep", "--runs", 1, "-o", "cut")
    ended = cli("select", "cut", "--by", "el2n", "--tune", "--validation", 0.5)
    assert (ended.code, "leave a validation split out already" in ended.err) == (2, True)
    ok("select", "cut", "--by", "el2n", "--keep", 0.5, "-o", "half.safetensors")
    words = ("train", "tiny.npz", *FLAGS, "--subset", "half.safetensors", "-o", "trained", "--json")
    assert cli(*words).code == 2
    assert ok(*words, "--validation", 0.2).json["rows"][0]["examples"] == 48
