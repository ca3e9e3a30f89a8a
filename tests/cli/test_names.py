"""Names of files and folders that are no text: bytes that are no UTF-8, as an archive of another system leaves them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_cli import FLAGS, files, ok

import datadiet as dd

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have file names in UTF-8 alone")
ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture
def odd(place: Path) -> str:
    os.link("tiny.npz", f"{ODD}.npz")
    return ODD


def same(first: Path, second: Path) -> None:
    a, b = files(first), files(second)
    assert a.keys() == b.keys()
    assert [name for name in a if name.endswith((".safetensors", ".parquet", ".png")) and a[name] != b[name]] == []


def test_outputs_may_have_any_name(place: Path, odd: str) -> None:
    common = (*FLAGS, "--steps", "6it")
    run = ("run", "tiny.npz", *common, "--at", "3it", "--runs", 1, "--retrain-runs", 1, "--keep", 0.5)
    lottery = ("lottery", "tiny.npz", *common, "--pretrain", "random:60@2it", "--levels", 1, "--replicates", 1)
    study = ("study", "pruning-curve", "--dataset", "tiny.npz", *FLAGS, "--runs", 1, "--score-runs", 1)
    for number, words in enumerate((run, lottery, study)):
        ok(*words, "-o", f"out{number}")
        for _ in range(2):  # what is there is known again
            ok(*words, "-o", f"{odd}{number}")
        same(place / f"out{number}", place / f"{odd}{number}")
        ok("show", f"{odd}{number}")
    ok("select", f"{odd}0/scores/scores.parquet", "--by", "el2n@3it.mean", "--keep", 0.5, "-o", f"{odd}.safetensors")
    chosen = ok("select", "out0/scores", "--by", "el2n", "--keep", 0.5, "-o", "half.safetensors")
    assert "60 of 120" in chosen.out
    assert np.array_equal(dd.load_subset(f"{odd}.safetensors"), dd.load_subset("half.safetensors"))


def test_data_may_have_any_name(place: Path, odd: str) -> None:
    words = (*FLAGS, "--steps", "6it", "--at", "3it", "--runs", 1, "--retrain-runs", 1, "--keep", 0.5)
    done = ok("run", f"{odd}.npz", *words, "-o", "out")
    assert "caf\\xe9: test accuracy" in done.out
    assert dd.load_table("out/scores").provenance["source"]["source"] == str(Path(f"{odd}.npz").resolve())
    ok("run", f"{odd}.npz", *words, "-o", "out")
