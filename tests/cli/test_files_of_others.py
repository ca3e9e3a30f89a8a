"""What somebody has under the names that a command would write stays as it is, and nothing is trained first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_cli import FLAGS, cli, ok, refused

import datadiet as dd

SELECT = ("select", "scores", "--by", "el2n", "--keep", 0.4)
SHORT = ("tiny.npz", *FLAGS)
LOTTERY = ("lottery", *SHORT, "--pretrain", "random:30@1it", "--levels", 1, "--replicates", 1)


def test_select_takes_the_place_of_subsets_only(place: Path) -> None:
    np.save("values.npy", np.arange(120.0))
    np.save("counts.npy", np.zeros(120, np.int64))
    Path("notes.txt").write_text("bread, milk\n")
    save_file({"w": np.zeros(3)}, "weights.safetensors")
    for name in ("values.npy", "counts.npy", "notes.txt", "weights.safetensors", "scores/examples.safetensors"):
        assert f"{name}: is in the way, and is no subset" in refused(place, *SELECT, "-o", name)
    for name in ("half.npy", "half.txt", "half.safetensors"):
        ok(*SELECT, "-o", name)
        ok("select", "scores", "--by", "el2n", "--keep", 0.2, "-o", name)
        assert len(dd.flows.select.load_subset(name, dd.load("tiny.npz"))) == 24


def test_select_does_not_write_over_what_it_reads(place: Path) -> None:
    np.save("values.npy", np.random.default_rng(0).permutation(120))  # which could be rows
    assert "values.npy: is what is selected from" in refused(
        place, "select", "values.npy", "--keep", 0.5, "-o", "values.npy"
    )


def test_a_damaged_subset_or_tuning_of_ours_is_redone_with_a_line(place: Path) -> None:
    words = (*SELECT, "-o", "half.safetensors")
    ok(*words)
    file = Path("half.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    assert "half.safetensors is damaged" in ok(*words).err
    assert file.read_bytes() == whole
    tune = (*SELECT[:-1], 0.5, "--tune", "--offset", 0.25, "--runs", 1, "-o", "tuned.safetensors")
    ok(*tune)
    beside = Path("tuned.json")
    whole = beside.read_bytes()
    beside.write_bytes(whole[:-10])
    assert "tuned.json is damaged" in ok(*tune).err
    assert beside.read_bytes() == whole


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("job", ["run", "train", "compare"])
def test_a_comparison_that_never_was_ours_opens_no_folder(place: Path, job: str) -> None:
    Path("mine").mkdir()
    Path("mine/comparison.json").write_text("epoch 1 accuracy .9")
    Path("mine/weights-0.safetensors").write_text("other weights")
    Path("mine/accuracy.png").write_text("a picture")
    assert "mine/comparison.json: is in the way" in refused(place, job, *SHORT, "-o", "mine")


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", ["lottery.png", "lottery.parquet", "lottery.json"])
def test_a_lottery_writes_over_nobody_elses_files(place: Path, name: str) -> None:
    Path("mine").mkdir()
    Path("mine", name).write_text("mine")
    assert f"mine/{name}: is in the way" in refused(place, *LOTTERY, "-o", "mine")


def test_a_lottery_that_was_stopped_before_its_record_goes_on(place: Path) -> None:
    ok(*LOTTERY, "-o", "mine")
    Path("mine/lottery.json").unlink()
    ok(*LOTTERY, "-o", "mine")
    assert Path("mine/lottery.json").exists()


@pytest.mark.usefixtures("untrained")
def test_scores_are_not_put_into_the_folder_of_a_run(place: Path) -> None:
    Path("run/scores").mkdir(parents=True)
    Path("run/comparison.json").write_text(json.dumps({"mine": 1}))
    assert "run: holds a run, whose scores are in scores/" in refused(place, "score", *SHORT, "-o", "run")
    assert cli("score", *SHORT, "--dry-run").code == 0


def test_a_number_that_one_changed_letter_made_infinite_is_a_damaged_file(place: Path) -> None:
    words = ("train", *SHORT, "--runs", 1)
    ok(*words, "-o", "first")
    (file,) = (place / "datadiet-runs").rglob("evaluations/*.json")
    whole = file.read_bytes()
    place_of_loss = whole.index(b'"loss": 0.') + len('"loss": 0.') + 3
    file.write_bytes(whole[:place_of_loss] + b"e" + b"9" * 5 + whole[place_of_loss + 6 :])
    ended = ok(*words, "-o", "second")
    assert "is damaged" in ended.err
    assert file.read_bytes() == whole
