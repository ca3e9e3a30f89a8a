"""`datadiet show`: all that is in a folder of `run`, the studies of a folder, and how a subset was chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_cli import FLAGS, cli, ok

from datadiet.store import read_json
from datadiet.store.files import write_json

STUDY = ("--dataset", "tiny.npz", *FLAGS, "--score-runs", 2)


def test_the_window_that_run_tuned_is_shown_after_its_comparison(place: Path) -> None:
    ok("compare", "tiny.npz", *FLAGS, "--runs", 1, "--baseline", "full", "-o", "all")
    before = ok("show", "all").out
    grid = [{"name": "a window", "keep": 0.5, "offset": at, "examples": 48, "accuracies": [at]} for at in (0.2, 0.4)]
    window = {"what": "tuned window", "keep": 0.5, "offset": 0.4, "validation_examples": 24, "grid": grid, "test": None}
    write_json(Path("all/tuned.json"), window)
    shown = ok("show", "all").out
    assert shown.startswith(before)
    assert shown.removeprefix(before) == ok("show", "all/tuned.json").out
    assert "Chosen: keep 0.5 from offset 0.4" in shown
    said = ok("show", "all", "--json").json
    assert (said["what"], said["tuned"]["grid"]) == ("comparison", grid)
    assert ok("show", "all/comparison.json").out == before, "a file is shown alone"


def test_the_studies_of_a_folder_are_shown_as_each_alone_is(place: Path) -> None:
    ok("study", "gallery", *STUDY, "-o", "mine")
    ok("study", "gallery", *STUDY, "--noise", "permute:0.2", "-o", "mine")
    names = ("gallery-tiny-permute0.2-quick", "gallery-tiny-quick")
    for folder in ("mine", "mine/studies"):
        shown = ok("show", folder).out
        assert shown == "".join(f"mine/studies/{name}:\n" + ok("show", f"mine/studies/{name}").out for name in names)
        said = ok("show", folder, "--json").json["studies"]
        assert {name: said[name]["verdicts"] for name in names} == {
            name: read_json(Path(f"mine/studies/{name}/verdicts.json"))["verdicts"] for name in names
        }
    Path("empty/below").mkdir(parents=True)
    assert "nothing of datadiet" in cli("show", "empty").err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--keep", 0.3), "keep 0.3, policy hardest, by el2n after 21 steps (3 epochs)"),
        (
            ("--at", "1ep", "--policy", "window", "--offset", 0.4, "--balanced", "--seed", 3),
            "keep 0.5, policy window, by el2n after 7 steps (1 epoch), offset 0.4, balanced",
        ),
        (
            ("--policy", "stratified", "--option", "strata=5", "--seed", 3),
            "keep 0.5, policy stratified, by el2n after 21 steps (3 epochs), strata 5, seed 3",
        ),
    ],
)
def test_a_subset_says_how_it_was_chosen(place: Path, words: tuple[object, ...], line: str) -> None:
    ok("select", "scores", "--by", "el2n", *words, "-o", "half.safetensors")
    shown = ok("show", "half.safetensors").out
    kept = 36 if 0.3 in words else 60
    assert shown.splitlines()[0] == f"{kept} of 120 examples of tiny: {line}"
    assert "Class balance" in shown


def test_a_random_subset_says_its_seed_and_no_score(place: Path) -> None:
    ok("select", "scores", "--policy", "random", "-o", "half.safetensors")
    first = ok("show", "half.safetensors").out.splitlines()[0]
    assert first == "60 of 120 examples of tiny: keep 0.5, policy random, seed 0"
