"""Killed, interrupted, crowded: whatever happens to the process, the values are those of a straight run."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_flows import RECIPE, results, save_npz, setup, start, tiny

import datadiet as dd
from datadiet.errors import Interrupted
from datadiet.scores import SCORES
from datadiet.scores.base import Score
from datadiet.store import Store

LONG = {**RECIPE, "steps": "100ep"}  # 700 steps: a second or two, time enough to be killed in
SCORING: dict[str, Any] = {"scores": ["el2n", "forgetting", "el2n_online"], "runs": 2, "at": ["20ep", "99ep"]}

SCRIPT = """
import sys
import datadiet as dd

if __name__ == "__main__":
    data, store, engine = sys.argv[1:4]
    fixed = {"threads": 1, "precision": "float32", "compile": "off", "resume_every": 0.02, "workers": 2}
    dd.score(data, recipe=%r, setup={"store": store, "engine": engine, **fixed}, **%r)
""" % (LONG, SCORING)  # noqa: UP031


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, the script, and a store with the straight run."""
    folder = tmp_path_factory.mktemp("interruption")
    save_npz(folder / "tiny.npz")
    (folder / "long.py").write_text(SCRIPT)
    dd.score(str(folder / "tiny.npz"), recipe=LONG, setup=setup(folder / "straight"), **SCORING)
    return folder


@pytest.fixture
def children() -> Iterator[list[Any]]:
    """Processes that are ended with the test, whatever becomes of it."""
    started: list[Any] = []
    yield started
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def test_ctrl_c_while_scores_are_taken_stops_before_the_next_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def slow(model: Any, inputs: Any, labels: Any) -> Any:
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGINT))
        return model(inputs).detach()[:, 0]

    monkeypatch.setitem(
        SCORES._entries, "slow", Score("slow", "model", slow, "higher", "Interrupted at its beginning.")
    )
    options = {"scores": ["slow", "el2n"], "runs": 1, "at": "1ep", "recipe": RECIPE, "out": tmp_path / "out"}
    with pytest.raises(Interrupted, match="the same command goes on"):
        dd.run(tiny(), setup=setup(tmp_path / "store"), retrain_runs=1, **options)
    (name,) = Store(tmp_path / "store").runs()
    assert Store(tmp_path / "store").run(name).shards() == [], "it did not wait for the other score"
    found = dd.run(tiny(), setup=setup(tmp_path / "store"), retrain_runs=1, **options)
    straight = dd.run(tiny(), setup=setup(tmp_path / "straight"), retrain_runs=1, **options)
    assert found.table.mean("el2n").tolist() == straight.table.mean("el2n").tolist()


def wait_for(store: Path, pattern: str, child: Any, seconds: float = 120) -> None:
    """Until a file is there; its process must not have ended by then."""
    end = time.monotonic() + seconds
    while not any(store.glob(f"??/*/{pattern}")):
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end, f"no {pattern} after {seconds} s"
        time.sleep(0.002)


@pytest.mark.parametrize("engine", ["inline", "processes"])
def test_killed_at_several_moments_and_run_again_the_bytes_are_those_of_a_straight_run(
    place: Path, tmp_path: Path, engine: str, children: list[Any], stretches: list[tuple[int, int]]
) -> None:
    store, dice = tmp_path / "store", random.Random(engine)
    moments = ("resume.safetensors", "checkpoints/00000140.safetensors")
    for moment in moments if engine == "inline" else moments[:1]:  # workers take seconds to start
        child = start(place / "long.py", place / "tiny.npz", store, engine)
        children.append(child)
        wait_for(store, moment, child)
        time.sleep(dice.uniform(0, 0.1))
        os.killpg(child.pid, signal.SIGKILL)  # workers too: nobody is left to clean up
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        assert len(results(store)) < len(results(place / "straight")), "it was killed before the end"
    newest = max((point.step for name in Store(store).runs() if (point := Store(store).run(name).latest())), default=0)
    assert newest > 0
    dd.score(str(place / "tiny.npz"), recipe=LONG, setup=setup(store), **SCORING)
    assert results(store) == results(place / "straight")
    assert sum(stop - begin for begin, stop in stretches) <= 2 * 693 - newest, "it went on from where it was"
    assert not list(store.rglob("*tmp*")), "what the killed process left unfinished is cleared away"
    assert not list(store.glob("??/*/resume.safetensors"))


@pytest.mark.parametrize(
    ("engine", "number", "code", "group"),
    [
        ("inline", signal.SIGINT, 130, False),
        ("processes", signal.SIGINT, 130, False),
        ("inline", signal.SIGTERM, 143, True),
        ("processes", signal.SIGTERM, 143, True),
    ],
)
def test_a_signal_ends_in_its_code_and_a_line_and_the_same_command_completes(
    place: Path, tmp_path: Path, engine: str, number: int, code: int, group: bool, children: list[Any],
    stretches: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store, recipe, shared = tmp_path / "store", tmp_path / "recipe.json", tmp_path / "tmp"
    shared.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared))
    recipe.write_text(json.dumps(LONG))
    command = ["-m", "datadiet", "score", place / "tiny.npz", "--recipe", recipe, "--runs", 2, "--store", store]
    command += [word for name in SCORING["scores"] for word in ("--score", name)]
    command += [word for at in SCORING["at"] for word in ("--at", at)]
    command += ["--engine", engine, "--threads", 1, "--precision", "float32", "--compile", "off"]
    command += ["-o", tmp_path / "out"]
    child = start(*command)
    children.append(child)
    wait_for(store, "shards/el2n_online@00000140.safetensors", child)  # the last score of the first mark
    child.send_signal(number)
    if group:  # as `timeout` and batch systems do: the process, and all of its group with its workers
        os.killpg(child.pid, number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert out == ""
    assert err.strip().splitlines()[-1] == "stopped; what was finished is kept; the same command goes on from here"
    assert "Traceback" not in err
    assert list(store.glob("??/*/resume.safetensors"))
    assert not (tmp_path / "out").exists()
    assert not list(shared.glob("datadiet-shared-*"))
    dd.score(str(place / "tiny.npz"), recipe=LONG, setup=setup(store), **SCORING)
    assert results(store) == results(place / "straight")
    assert max(begin for begin, _ in stretches) >= 140, "it went on from where it was"


OUTSIDE = """
import os, signal, sys
from datadiet.cli import main, options

def held_up(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # as from `timeout`, which signals the process and then its group

options.dataset_of = held_up
code = main(["score", "digits"])
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
sys.exit(code)
"""


def test_sigterm_outside_of_jobs_is_one_line_and_143(tmp_path: Path, children: list[Any]) -> None:
    child = start("-c", OUTSIDE, cwd=tmp_path)
    children.append(child)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (143, ""), err
    (line,) = err.strip().splitlines()
    assert line == "stopped at once; what was finished is kept, the same command goes on from there"


def test_two_processes_on_one_store_both_finish_with_the_same_values(
    place: Path, tmp_path: Path, children: list[Any]
) -> None:
    store = tmp_path / "store"
    command = [place / "long.py", place / "tiny.npz", store, "inline"]
    children += [start(*command), start(*command)]
    ends = [child.communicate(timeout=200) for child in children]
    assert [child.returncode for child in children] == [0, 0], ends
    assert results(store) == results(place / "straight")


def test_inline_and_processes_give_the_same_bytes(tmp_path: Path) -> None:
    recipe = {**RECIPE, "model": "small-cnn", "model_args": {"width": 4}}
    scores = ["el2n", "forgetting", "loss"]
    for engine in ("inline", "processes"):
        given = setup(tmp_path / engine, engine=engine, workers=2)
        dd.score(tiny(), recipe=recipe, scores=scores, runs=3, at=["1ep", "3ep"], setup=given)
    assert len(results(tmp_path / "inline")) == 3 * 2 * 4
    assert results(tmp_path / "inline") == results(tmp_path / "processes")


def test_resume_points_change_no_value(tmp_path: Path) -> None:
    data, options = tiny(), {"recipe": RECIPE, "scores": ["el2n", "forgetting"], "runs": 1, "at": "4ep"}
    dd.score(data, setup=setup(tmp_path / "straight"), **options)
    dd.score(data, setup=setup(tmp_path / "often", resume_every=1e-9), **options)
    assert results(tmp_path / "straight") == results(tmp_path / "often")


@pytest.mark.parametrize("file", ["run.json", "store.json"])
@pytest.mark.parametrize("content", [None, b"", b'{"name": '])
def test_what_tells_of_a_finished_run_is_written_again_where_nothing_else_is_missing(
    tmp_path: Path, file: str, content: bytes | None, stretches: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"recipe": RECIPE, "scores": ["el2n"], "runs": 2, "at": "1ep"}
    store = tmp_path / "store"
    before = dd.score(tiny(), setup=setup(store), **given).mean("el2n").tolist()
    lost = store / "store.json" if file == "store.json" else min(store.glob("??/*/run.json"))
    runs, whole = Store(store).runs(), lost.read_bytes()
    stretches.clear()

    def harm() -> None:
        lost.unlink(missing_ok=True) if content is None else lost.write_bytes(content)

    def refuse(path: object, *_: object) -> None:
        raise dd.DatadietError("read-only file system", where=path)

    harm()
    with monkeypatch.context() as patch:
        patch.setattr("datadiet.store.files.atomic", refuse)
        patch.setattr("datadiet.store.files.write_bytes", refuse)
        assert dd.score(tiny(), setup=setup(store), **given).mean("el2n").tolist() == before, "one to read only"
    harm()
    assert dd.score(tiny(), setup=setup(store), **given).mean("el2n").tolist() == before
    assert lost.read_bytes() == whole
    assert Store(store).runs() == runs
    assert stretches == []
