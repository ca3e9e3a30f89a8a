"""What commands print: help, JSON and nothing else, plans that write nothing, no colours into a pipe."""

from __future__ import annotations

import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny_cli import FLAGS, cli, files, ok

from datadiet.cli import output
from datadiet.cli.app import COMMANDS
from datadiet.engines import Progress
from datadiet.flows.estimate import Estimate

WORDS = re.compile(r"[a-z]{4,}")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_agrees_with_its_docstring(command: str) -> None:
    ended = ok(command, "--help")
    assert f"Usage: datadiet {command}" in ended.out
    assert "--json" in ended.out
    function = importlib.import_module(f"datadiet.cli.{command}").command
    # The list of commands says it in words of its own, so that nothing need be imported for it.
    shared = set(WORDS.findall(COMMANDS[command].lower())) & set(WORDS.findall((function.__doc__ or "").lower()))
    assert shared, (COMMANDS[command], function.__doc__)


def test_the_list_of_commands_names_all_of_them() -> None:
    for words in ((), ("--help",)):
        ended = ok(*words)
        for name, about in COMMANDS.items():
            assert re.search(rf"^\W*{name}\s+{re.escape(about.split()[0])}", ended.out, re.M), name
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", ok("--version").out)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("datasets",), "datasets"),
        (("models",), "models"),
        (("show", "scores"), "scores"),
        (("show", "datadiet-runs"), "store"),
        (("score", "tiny.npz", *FLAGS, "--runs", 2, "--at", "1ep", "--score", "el2n", "-o", "scores"), "scores"),
        (("select", "scores", "--by", "el2n", "-o", "half.safetensors"), "subset"),
        (("compare", "tiny.npz", *FLAGS, "--runs", 1, "--baseline", "full", "-o", "compared"), "comparison"),
        (("train", "tiny.npz", *FLAGS, "-o", "trained"), "comparison"),
        (("score", "tiny.npz", *FLAGS, "--runs", 1, "--dry-run"), "plan"),
    ],
)
def test_json_is_one_object_and_nothing_else(place: Path, words: tuple[object, ...], what: str) -> None:
    ended = ok(*words, "--json")
    assert ended.json["what"] == what
    assert ended.err == ""


def test_run_does_the_whole_flow_and_says_it_in_json(place: Path) -> None:
    words = ("run", "tiny.npz", *FLAGS, "--runs", 2, "--at", "1ep", "--score", "el2n", "--retrain-runs", 1)
    words += ("--noise", "permute:0.1", "--keep", 0.5, "-o", "all")
    said = ok(*words, "--json").json
    names = [row["name"] for row in said["comparison"]["rows"]]
    assert names == ["full data", "random 50%", "el2n hardest 50%", "el2n easiest 50%", "el2n window 50%"]
    assert {row["runs"] for row in said["comparison"]["rows"]} == {1}
    assert 0 <= said["auroc"]["el2n"] <= 1
    endings = {Path(file).name for file in said["files"]}
    assert {"scores.parquet", "comparison.json", "el2n-hardest-50.safetensors"} <= endings
    assert all((place / file).exists() for file in said["files"])
    assert ok("show", "all", "--json").json == said["comparison"]
    text = ok(*words)
    assert "full data" in text.out
    assert "Split-half reliability of el2n at step 7: " in text.out
    assert "in datadiet-runs already" in text.err
    shown = ok("show", "all").out
    for name in ("scores", "subsets/el2n-hardest-50.safetensors", "accuracy.png"):
        assert f"  all/{name}\n" in shown


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    "words",
    [
        ("score", "tiny.npz", *FLAGS, "--runs", 1, "--seed", 9),
        ("compare", "tiny.npz", *FLAGS, "--runs", 1),
        ("train", "tiny.npz", *FLAGS),
        ("run", "tiny.npz", *FLAGS, "--runs", 1, "--at", "1ep", "--seed", 9, "--keep", 0.5),
        ("select", "scores", "--by", "el2n", "--policy", "window", "--tune", "--runs", 1),
    ],
)
def test_a_dry_run_trains_nothing_and_writes_nothing(
    place: Path, words: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from datadiet.flows import estimate

    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    before = files(place)
    said = ok(*words, "--dry-run", "--json").json
    stage = next(iter(said["stages"].values()))
    assert stage["jobs"] == stage["planned"] > 0
    assert stage["steps"] > 0
    assert stage["disk_bytes"] > 0
    assert stage["seconds"] > 0
    text = ok(*words, "--dry-run")
    assert "ms/step" in text.out
    assert files(place) == before


def test_run_says_in_words_that_there_is_no_reliability(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datadiet.cli.run import _reliability
    from datadiet.scores import ScoreTable, load_table

    ok("score", "tiny.npz", *FLAGS, "--score", "el2n", "--at", "1ep", "--runs", 1, "-o", "one")
    assert _reliability(load_table("one"), "el2n", 7) == "One run: no split-half reliability of el2n at step 7"
    two = load_table("scores")
    assert _reliability(two, "el2n", 7).endswith(f"el2n at step 7: {two.reliability('el2n', 7):.3f}")
    monkeypatch.setattr(ScoreTable, "reliability", lambda *_: float("nan"))
    assert "cannot be told: " in _reliability(two, "el2n", 7)


def test_the_help_of_tune_says_how_many_runs_it_takes() -> None:
    assert "4 runs of each" in " ".join(ok("run", "--help").out.split())


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        (("--help",), ("level by level.",)),
        (("study", "list"), ("barrier-and-performance", "error-distribution")),
        (("show", "noisy", "--top", 0), ("grand_calibrated", "never_learned", "reliability")),
    ],
)
def test_no_name_loses_a_letter_on_eighty_columns(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], whole: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    if "noisy" in words:
        scores = ("--score", "grand_calibrated", "--score", "forgetting", "--at", "1ep", "--runs", 2)
        ok("score", "tiny.npz", *FLAGS, "--noise", "permute:0.2", *scores, "-o", "noisy")
    shown = ok(*words).out
    assert "…" not in shown
    assert "..." not in shown.replace("[ARGS]...", "")
    assert all(word in shown for word in whole)
    assert max(len(line) for line in shown.splitlines() if line[:1] in "┃│") <= 80


def test_a_plan_of_hours_is_whole_on_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = Estimate(20, 20, 124_800, 0.0671, 4200.0, 152_700_000, 2, "processes")
    monkeypatch.setattr(output, "estimates", lambda stages: [("scoring", cost), ("retraining", cost)])
    monkeypatch.setenv("COLUMNS", "80")
    output.print_plan("datadiet run", [], [], False)
    printed = capsys.readouterr().out
    assert "…" not in printed
    for whole in ("retraining", "249,600", "67.1", "305.4 MB", "70 min", "2.3 h"):
        assert whole in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_the_bar_knows_the_whole_and_does_not_count_what_was_done_before() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with output.Progress(
        output.BarColumn(), output._Rate(), console=console, get_time=iter(range(1000)).__next__
    ) as bars:
        stages = output._Stages(bars)

        def report(key: str, done: int, **info: object) -> None:
            label = "scoring run 0" if key in "ab" else "full data, run 0"
            stages(Progress(key, label, done, 100, info))

        for key in "abc":
            report(key, 0)
        scoring, training = bars.tasks
        assert (scoring.total, training.total) == (200, 100)
        report("a", 60, resumed=True)
        assert (scoring.completed, scoring.total) == (0, 140)
        for done in (61, 65, 65, 80):
            report("a", done)
        report("b", 10)
        assert scoring.completed == 30
        assert scoring.description.strip() == "scoring run 0"
        assert 0 < scoring.speed < 30
        report("c", 40, waiting="process 7")
        assert "waits for process 7" in training.description
        report("c", 100)
        assert training.finished
    drawn = console.file.getvalue()
    assert "steps/s" in drawn


def test_a_dry_run_of_the_main_job_counts_the_tuned_window_and_children_too(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datadiet.flows import estimate

    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    words = ("run", "tiny.npz", *FLAGS, "--runs", 2, "--at", "1ep", "--score", "el2n", "--score", "lmc")
    words += ("--retrain-runs", 1, "--keep", 0.5, "--policy", "hardest", "--tune", "--seed", 11)

    def jobs() -> dict[str, tuple[int, int]]:
        return {
            name: (stage["planned"], stage["jobs"])
            for name, stage in ok(*words, "--dry-run", "--json").json["stages"].items()
        }

    # Full data and random are tested once, whoever asks; six offsets fit beside a half.
    assert jobs() == {
        "scoring": (2, 2), "children": (6, 6), "retraining": (3, 3), "scoring, cut": (2, 2),
        "windows": (24, 24), "tuned window": (1, 1),
    }  # fmt: skip
    ok(*words)
    left = jobs()
    assert left.pop("retraining") == (3, 0)
    assert all(new == 0 for _, new in left.values())
    assert {"scoring", "scoring, cut", "windows"} <= left.keys()


@pytest.mark.usefixtures("untrained")
def test_the_same_command_again_says_that_nothing_is_left_to_do(place: Path) -> None:
    words = ("score", "tiny.npz", *FLAGS, "--runs", 2, "--score", "el2n", "--at", "1ep", "-o", "scores")
    ended = ok(*words)
    assert ended.err == "2 of 2 scoring runs are in datadiet-runs already, nothing to train\n"
    assert "el2n" in ended.out


@pytest.mark.usefixtures("untrained")
def test_a_dry_run_of_what_is_done_plans_nothing(place: Path) -> None:
    words = ("score", "tiny.npz", *FLAGS, "--score", "el2n", "--at", "3ep", "--runs", 2, "--dry-run", "--json")
    stage = ok(*words).json["stages"]["scoring"]
    assert (stage["planned"], stage["jobs"], stage["steps"]) == (2, 0, 0)


def test_what_goes_into_a_pipe_has_no_colours(place: Path) -> None:
    for words in (
        ("show", "scores"),
        ("models",),
        ("datasets",),
        ("show", "datadiet-runs"),
        ("score", "tiny.npz", *FLAGS, "--runs", 2, "--score", "el2n", "--at", "1ep", "-o", "scores"),
        ("select", "scores", "--by", "nosuch"),
        ("score", "--help"),
    ):
        ended = cli(*words)
        assert "\x1b" not in ended.out + ended.err


def test_show_lists_the_ends_and_the_store(place: Path) -> None:
    said = ok("show", "scores", "--by", "el2n", "--top", 3, "--json").json
    assert (len(said["easiest"]), len(said["hardest"])) == (3, 3)
    store = ok("show", "datadiet-runs", "--json").json
    assert [run["purpose"] for run in store["runs"]] == ["score", "score"]
    assert all(run["checkpoints"] == [7, 21] for run in store["runs"])
    assert "hardest by el2n" in ok("show", "scores").out


def test_names_with_brackets_are_printed_as_they_are(place: Path) -> None:
    content = dict(np.load("tiny.npz"))
    np.savez("tiny[red].npz", **content, classes=np.array(["a [bold]", "b [/x]", "c"]))
    said = ok("score", "tiny[red].npz", *FLAGS, "--score", "el2n", "--at", "1ep", "--runs", 1, "-o", "out [/red]")
    assert "Scores in out [/red]/scores.parquet" in said.out
    assert "a [bold]" in ok("show", "out [/red]", "--top", 60).out
    said = ok("select", "out [/red]", "--by", "el2n", "-o", "[half].safetensors")
    assert all(word in said.out for word in ("a [bold]", "b [/x]", "Subset in [half].safetensors"))


def test_an_encoding_without_a_character_is_no_error(place: Path) -> None:
    code = "import sys; from datadiet.cli import main; sys.exit(main(['show', 'scores']))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert b"el2n" in ended.stdout


def test_a_score_that_is_undefined_gives_no_nan_in_json(place: Path) -> None:
    words = ("--noise", "permute:0.3", "--score", "dyn_unc", "--at", "1ep", "--runs", 1, "-o", "noisy")
    (row,) = ok("score", "tiny.npz", *FLAGS, *words, "--json").json["summary"]
    assert (row["mean"], row["auroc"], row["undefined"]) == (None, None, 120)


def test_ctrl_c_before_any_job_runs_is_exit_130_and_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datadiet.cli import options

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "dataset_of", interrupted)
    ended = cli("score", "tiny.npz", *FLAGS)
    assert (ended.code, ended.out) == (130, "")
    (line,) = ended.err.strip().splitlines()
    assert "the same command goes on from there" in line
