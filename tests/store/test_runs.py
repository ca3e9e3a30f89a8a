"""Run folders keep what they were given, notice what was changed, and survive a kill."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.errors import DatadietError
from datadiet.store import Store, write_json
from datadiet.store.atomic import TEMPORARY

NAME, OTHER = "ab" * 16, "cd" * 16
SPEC = {"recipe": {"model": "mlp", "milestones": (1, 2)}, "seed": 0}


def test_states_and_results_come_back(tmp_path: Path) -> None:
    run = Store(tmp_path).run(NAME, SPEC)
    assert (run.steps(), run.shards(), run.evaluations(), run.latest()) == ([], [], [], None)
    assert not tmp_path.joinpath("store.json").exists()
    run.save_checkpoint(20, {"w": torch.ones(3).bfloat16()}, {"loss": 0.5})
    run.save_checkpoint(0, {"w": torch.zeros(3)})
    run.save_shard("el2n", 20, np.arange(4.0), {"fingerprint": "f"})
    run.save_shard("package:mine/2@x", 0, torch.ones(2), {})
    run.save_evaluation("test", 20, {"accuracy": 0.9, "n": np.int64(3)})
    run = Store(tmp_path).run(NAME)
    assert run.spec() == {"recipe": {"model": "mlp", "milestones": [1, 2]}, "seed": 0}
    assert run.steps() == [0, 20]
    point = run.load_checkpoint(20)
    assert point is not None
    assert (point.step, point.meta) == (20, {"loss": 0.5})
    assert torch.equal(point.tensors["w"], torch.ones(3).bfloat16())
    assert run.shards() == [("el2n", 20), ("package:mine/2@x", 0)]
    values, meta = run.load_shard("el2n", 20)  # type: ignore[misc]
    assert values.dtype == np.float32
    assert (values.tolist(), meta) == ([0.0, 1.0, 2.0, 3.0], {"fingerprint": "f"})
    assert run.has_shard("package:mine/2@x", 0)
    assert not run.has_shard("el2n", 0)
    assert run.evaluations() == [("test", 20)]
    assert run.load_evaluation("test", 20) == {"accuracy": 0.9, "n": 3}
    assert run.load_evaluation("test", 0) is None
    assert Store(tmp_path).runs() == [NAME]
    assert Store(tmp_path).bytes() == run.bytes() + tmp_path.joinpath("store.json").stat().st_size > 0


@settings(max_examples=30)
@given(
    good=st.sets(st.integers(0, 30), max_size=4),
    bad=st.sets(st.integers(0, 30), max_size=3),
    resume=st.none() | st.integers(0, 30),
    at_most=st.none() | st.integers(0, 30),
)
def test_latest_is_the_largest_good_state(
    tmp_path_factory: pytest.TempPathFactory,
    good: set[int],
    bad: set[int],
    resume: int | None,
    at_most: int | None,
) -> None:
    run = Store(tmp_path_factory.mktemp("store")).run(NAME, SPEC)
    for step in good | bad:
        run.save_checkpoint(step, {"w": np.array(step)})
    for step in bad:
        file = run.path / "checkpoints" / f"{step:08d}.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    if resume is not None:
        run.save_resume(resume, {"w": np.array(resume)})
    states = (good - bad) | ({resume} if resume is not None else set())
    fitting = [step for step in states if at_most is None or step <= at_most]
    point = run.latest(at_most)
    assert (point and point.step) == (max(fitting) if fitting else None)
    assert point is None or int(point.tensors["w"]) == point.step


def test_a_damaged_file_is_removed_with_a_line_and_counts_as_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Store(tmp_path).run(NAME, SPEC)
    run.save_checkpoint(5, {"w": np.ones(3)})
    run.save_shard("el2n", 5, np.ones(3))
    run.save_evaluation("test", 5, {"accuracy": 0.5})
    files = [file for file in run.path.rglob("*") if file.is_file()]
    assert len(files) == 4
    for file in files:
        content = bytearray(file.read_bytes())
        content[-20] ^= 1
        file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        run = Store(tmp_path).run(NAME, SPEC)
        assert run.latest() is None
        assert not run.has_shard("el2n", 5)
        assert run.load_evaluation("test", 5) is None
    assert caplog.text.count("redoing it") == 4
    assert "00000005.safetensors is damaged (its checksum does not match), redoing it" in caplog.text
    assert not any(file.exists() for file in files)
    run.save_shard("el2n", 5, np.ones(3))
    assert Store(tmp_path).run(NAME).spec() == {"recipe": {"model": "mlp", "milestones": [1, 2]}, "seed": 0}


def test_a_file_of_another_run_is_out_of_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    one, other = store.run(NAME, SPEC), store.run(OTHER, {**SPEC, "seed": 1})
    one.save_shard("el2n", 5, np.ones(3))
    other.save_shard("el2n", 5, np.zeros(3))
    (one.path / "shards/el2n@00000005.safetensors").replace(other.path / "shards/el2n@00000005.safetensors")
    assert not other.has_shard("el2n", 5)
    assert "out of place" in caplog.text


def test_a_folder_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.run(NAME, SPEC).save_resume(1, {})
    with pytest.raises(DatadietError, match="another run under the same name"):
        store.run(NAME, {**SPEC, "seed": 1})
    moved = tmp_path / OTHER[:2] / OTHER
    moved.parent.mkdir()
    (tmp_path / NAME[:2] / NAME).rename(moved)
    with pytest.raises(DatadietError, match=f"holds the run {NAME}"):
        store.run(OTHER)


def test_a_store_of_a_newer_version_is_refused_in_words(tmp_path: Path) -> None:
    write_json(tmp_path / "store.json", {}, schema=99)
    with pytest.raises(DatadietError, match="was written by a newer datadiet"):
        Store(tmp_path)
    assert tmp_path.joinpath("store.json").exists()


@pytest.mark.parametrize("content", ['{"shop": "of someone else"}', "{ half of", "[]"])
def test_a_store_json_of_someone_else_is_refused_and_stays(tmp_path: Path, content: str) -> None:
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(DatadietError, match=r"is no store\.json of datadiet"):
        Store(tmp_path)
    assert (tmp_path / "store.json").read_text() == content


def test_a_damaged_store_json_beside_runs_is_redone(tmp_path: Path) -> None:
    Store(tmp_path).run(NAME, SPEC).save_resume(1, {})
    whole = (tmp_path / "store.json").read_bytes()
    (tmp_path / "store.json").write_bytes(whole[:20])
    Store(tmp_path).run(NAME, SPEC).save_resume(2, {})
    assert (tmp_path / "store.json").read_bytes() == whole


def test_a_store_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatadietError, match="a file stands where a folder is needed"):
        Store(tmp_path / "file").run(NAME, SPEC).save_resume(0, {})


KILLED = """
import os, signal, sys
import numpy as np
from datadiet.store import Store, files
run = Store(sys.argv[1]).run(sys.argv[2], {"seed": 0})
with run.lock():
    run.save_resume(3, {"w": np.arange(1000.0)})
    write = files._header
    def die(*arguments):
        if arguments[-1].strip("0"):  # the data is written, the header with the checksum is not
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*arguments)
    files._header = die
    run.save_resume(4, {"w": np.zeros(1000)})
"""


def test_a_kill_in_the_middle_of_a_write_leaves_the_state_before_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), NAME], timeout=240)
    assert done.returncode == -signal.SIGKILL
    run = Store(tmp_path).run(NAME, {"seed": 0})
    assert len(list(run.path.glob(f"{TEMPORARY}*"))) == 1
    with run.lock():
        assert not list(run.path.glob(f"{TEMPORARY}*"))
        point = run.latest()
        assert point is not None
        assert point.step == 3
        assert torch.equal(point.tensors["w"], torch.arange(1000.0, dtype=torch.float64))
    run.drop_resume()
    assert run.latest() is None
