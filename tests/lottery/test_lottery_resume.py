"""A lottery takes from the store what is there, adds what is not, and survives whatever ends its process."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_lottery import (
    INSTRUMENTS,
    RECIPE,
    Stretches,
    arrays,
    fewer,
    files,
    one_run,
    options,
    runs,
    tiny,
)  # fmt: skip

import datadiet as dd
from datadiet.flows.tasks import is_done
from datadiet.lottery import RULES, Lottery, find_tickets, plan_tickets, stages


def test_the_same_lottery_again_trains_nothing_and_writes_the_same(
    straight: tuple[Lottery, Path], copied: Path, tmp_path: Path, stretches: Stretches
) -> None:
    before = files(copied)
    again = find_tickets(tiny(), out=tmp_path / "out", **options(copied, instruments=INSTRUMENTS))
    assert stretches == []
    assert files(copied) == before
    assert again.to_json() == straight[0].to_json()
    assert (
        files(tmp_path / "out").items()
        >= {
            name: content for name, content in files(straight[1] / "out").items() if not name.endswith((".png", ".svg"))
        }.items()
    )


def test_more_levels_and_replicates_only_add(copied: Path, stretches: Stretches) -> None:
    before = files(copied)
    plain = find_tickets(tiny(), **options(copied, levels=1, replicates=1))
    assert stretches == []
    more = find_tickets(tiny(), **options(copied, levels=3, replicates=3))
    assert sorted(stretches) == [(0, 6), *[(6, 28)] * 6], "a level of two replicates, and all of the third"
    assert files(copied).items() >= before.items()
    (short,), (long,) = plain.outcomes.values(), more.outcomes.values()
    assert np.array_equal(long.accuracy[:1, :2], short.accuracy)


def test_level_0_is_shared_by_rules_and_its_masks_are_not(copied: Path, stretches: Stretches) -> None:
    for rule in ("layerwise", "random"):
        stretches.clear()
        (one,) = find_tickets(tiny(), **options(copied, rule=rule, replicates=1)).outcomes.values()
        assert len(stretches) == 2, "levels 1 and 2"
        assert len([*runs(copied, "lottery level 0")]) == 2
        layers = one.masks[0][2].layers()
        even = all(left == fewer(fewer(total)) for left, total in layers.values())
        assert even is (rule == "layerwise")
    masks = {spec["mask"] for spec, _ in runs(copied, "lottery level 1")}
    assert len(masks) == 2 + 1 + 1, "of two replicates by magnitude, and of one by each other rule"


def test_the_code_of_a_rule_of_ones_own_is_part_of_its_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RULES, "_entries", dict(RULES._entries))
    monkeypatch.syspath_prepend(tmp_path)
    named = []
    for module, part in (("rule_of_mine", "[:1]"), ("rule_of_mine_edited", "[-1:]")):
        lines = f"def mine(layers, fraction, rng):\n    return [layer.argsort(){part} for layer in layers]\n"
        (tmp_path / f"{module}.py").write_text(lines)
        RULES._entries["mine"] = importlib.import_module(module).mine
        plan = plan_tickets(tiny(), **options(tmp_path / "store", rule="mine", levels=1, replicates=1))
        named.append((plan.pruning, plan.rule_code))
    assert len({mask for mask, _ in named}) == len({code for _, code in named}) == 2
    assert plan_tickets(tiny(), **options(tmp_path / "store", levels=1)).rule_code is None


def test_the_same_seed_gives_the_same_masks_and_another_others(straight: tuple[Lottery, Path], tmp_path: Path) -> None:
    (one,) = straight[0].outcomes.values()
    (again,) = find_tickets(tiny(), **options(tmp_path / "again", levels=1)).outcomes.values()
    (other,) = find_tickets(tiny(), **options(tmp_path / "other", levels=1, seed=1)).outcomes.values()
    digests = [[mask.digest for masks in found.masks for mask in masks[1:2]] for found in (one, again, other)]
    assert digests[0] == digests[1]
    assert len({*digests[0], *digests[2]}) == 4


def test_the_stages_count_what_is_missing(copied: Path, tmp_path: Path) -> None:
    def counted(store: Path, **changes: Any) -> dict[str, tuple[int, int]]:
        plan = plan_tickets(tiny(), **options(store, **changes))
        return {
            name: (len(one.tasks), sum(not is_done(task, one.data) for _, task in one.tasks))
            for name, one in stages(plan)
        }

    fresh = counted(tmp_path / "fresh", pretrain=["easiest:48@6", "all@6"], instruments=["barrier"])
    assert fresh == {
        "scoring by el2n": (2, 2), "pre-training": (4, 4), "level 0": (4, 4), "children": (8, 8), "level 1": (4, 4),
        "level 2": (4, 4),
    }  # fmt: skip
    assert not (tmp_path / "fresh").exists()
    done = counted(copied, instruments=INSTRUMENTS, levels=3)
    assert done == {
        "pre-training": (2, 0), "level 0": (2, 0), "children": (4, 0), "level 1": (2, 0), "level 2": (2, 0),
        "level 3": (2, 2),
    }  # fmt: skip


def test_planning_trains_no_child_of_a_scoring_run_that_is_done(tmp_path: Path, stretches: Stretches) -> None:
    usual = options(tmp_path, pretrain=["easiest/lmc:30@6"], scores_at={"lmc": "8it"}, levels=0)
    again = {name: usual[name] for name in ("recipe", "setup")}
    dd.score(tiny(), scores=["lmc"], runs=2, at="8it", **again)
    assert stretches
    for _, folder in runs(tmp_path, "score"):  # the runs and their checkpoints stay, the scores from their children go
        for shard in folder.path.glob("shards/lmc@*"):
            shard.unlink()
    for spec, folder in list(runs(tmp_path, "score, child of 0")):
        assert spec["parent"][1] == 8
        shutil.rmtree(folder.path)
    stretches.clear()
    found = {what: one.tasks for what, one in stages(plan_tickets(tiny(), **usual))}
    assert not stretches
    assert [sum(not is_done(task, tiny()) for _, task in found["children of scoring runs"])] == [3]


SCRIPT = """
import sys
from datadiet.lottery import find_tickets

if __name__ == "__main__":
    data, store, out = sys.argv[1:]
    fixed = {"threads": 1, "precision": "float32", "compile": "off", "resume_every": 0.02, "engine": "inline"}
    find_tickets(data, out=out, setup={"store": store, **fixed}, **%r)
"""


def test_killed_within_a_level_and_run_again_it_ends_with_the_bytes_of_a_straight_run(
    tmp_path: Path, stretches: Stretches
) -> None:
    np.savez(tmp_path / "tiny.npz", **arrays())
    given = {"pretrain": ["random:48@6"], "levels": 2, "replicates": 1, "recipe": {**RECIPE, "steps": "150ep"}}
    (tmp_path / "long.py").write_text(SCRIPT % given)
    store, data = tmp_path / "store", str(tmp_path / "tiny.npz")
    fixed = {"threads": 1, "precision": "float32", "compile": "off", "engine": "inline"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "long.py"), data, str(store), str(tmp_path / "out")],
        stderr=subprocess.PIPE, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_level(store, 1, child)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    resumed = one_run(store, "lottery level 1")[1].load_resume()
    assert resumed is not None
    assert 6 < resumed.step < 1050
    assert not (tmp_path / "out" / "lottery.json").exists()
    find_tickets(data, out=tmp_path / "out", setup={"store": store, **fixed}, **given)
    assert sum(stop - begin for begin, stop in stretches) <= 2 * 1044 - (resumed.step - 6), "it went on where it was"
    find_tickets(data, out=tmp_path / "whole", setup={"store": tmp_path / "other", **fixed}, **given)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    both = [
        {name: content for name, content in files(folder).items() if "/results/" in name or "/evaluations/" in name}
        for folder in (store, tmp_path / "other")
    ]
    assert both[0] == both[1]
    assert not list(store.glob("??/*/resume.safetensors"))


def wait_for_level(store: Path, level: int, child: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Until a run of this level has a resume point; its process must not have ended by then."""
    end = time.monotonic() + seconds
    while True:
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end, f"no level {level} after {seconds} s"
        if store.exists() and any(
            (folder.path / "resume.safetensors").exists() for _, folder in runs(store, f"lottery level {level}")
        ):
            return
        time.sleep(0.002)
