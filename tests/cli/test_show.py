"""`datadiet show`: all that is in a folder of `run`, the studies of a folder, and how a subset was chosen."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from tiny_cli import FLAGS, cli, ok

import datadiet as dd
from datadiet.cli import output
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


def test_what_lies_beside_and_cannot_be_read_is_said_and_hides_nothing(place: Path) -> None:
    ok("compare", "tiny.npz", *FLAGS, "--runs", 1, "--baseline", "full", "-o", "all")
    before = ok("show", "all").out
    Path("all/tuned.json").write_text('{"lr": 1}')
    shown = ok("show", "all")
    assert shown.out == before
    assert "all/tuned.json" in shown.err
    ok("study", "gallery", *STUDY, "-o", "mine")
    Path("mine/studies/other").mkdir()
    Path("mine/studies/other/verdicts.json").write_text("{")
    shown = ok("show", "mine")
    assert "gallery" in shown.out
    assert "other/verdicts.json" in shown.err


@pytest.mark.parametrize("policy", [{"by": "el2n", "at": "4ep"}, {"by": "el2n", "at": 21, "recipe": "mine.toml"}])
def test_a_subset_of_somebodys_own_making_is_shown(place: Path, policy: dict[str, object]) -> None:
    made = dd.Subset(np.arange(9), 120, None, {"name": "mine", "keep": 0.1, **policy})
    dd.save_subset(made, "mine.safetensors")
    assert f"by el2n after {policy['at']}" in ok("show", "mine.safetensors").out


@pytest.mark.parametrize("width", [40, 60])
def test_numbers_keep_their_digits_beside_a_long_name_of_one_word(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table()
    for heading in ("trained on", "examples", "mean %"):
        table.add_column(heading, justify="left" if heading == "trained on" else "right")
    table.add_row("el2n-window-balanced-from-40-at-4ep-50", "25,000", "94.73")
    written = io.StringIO()
    Console(file=written, width=width).print(output.whole_names(table))
    lines = written.getvalue().splitlines()
    assert "25,000" in written.getvalue()
    assert "94.73" in written.getvalue()
    name = "".join(line.split("│")[1].strip() for line in lines if line.startswith("│") and "trained" not in line)
    assert name == "el2n-window-balanced-from-40-at-4ep-50"


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


def test_a_subset_names_its_classes(place: Path) -> None:
    names = ["setosa", "versicolor", "virginica"]
    rows = [f"{k % 7}.{k % 3},{k % 5}.{k % 3},{names[k % 3]}" for k in range(90)]
    Path("flowers.csv").write_text("\n".join(["a,b,label", *rows]))
    ok("score", "flowers.csv", "--model", "mlp", "--steps", "8it", "--at", "4it", "--runs", 1, "-o", "flowers")
    chosen = ok("select", "flowers", "--by", "el2n", "--keep", 0.5, "-o", "half.safetensors").out
    shown = ok("show", "half.safetensors").out
    for text in (chosen, shown):
        assert [text.count(name) for name in names] == [1, 1, 1]
    assert shown.splitlines()[0].endswith("policy hardest, by el2n after 4 steps (4 epochs)")


@pytest.mark.parametrize("names", [None, 7, True, "ab", {"0": "a"}, [1, 2, 3], [["x"], ["y"]], []])
def test_class_names_of_somebodys_own_making_are_no_error(place: Path, names: object) -> None:
    policy = {"name": "mine", "classes": 2, "class_names": names}
    made = dd.Subset(np.arange(9), 120, None, policy, {"before": (60, 60), "after": (5, 4)})
    dd.save_subset(made, "mine.safetensors")
    assert "policy mine, classes 2" in ok("show", "mine.safetensors").out


def test_a_random_subset_says_its_seed_and_no_score(place: Path) -> None:
    ok("select", "scores", "--policy", "random", "-o", "half.safetensors")
    first = ok("show", "half.safetensors").out.splitlines()[0]
    assert first == "60 of 120 examples of tiny: keep 0.5, policy random, seed 0"
