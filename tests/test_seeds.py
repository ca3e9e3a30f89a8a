"""Seeds: every use of chance has a stream of its own, the same in every process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datadiet import seeds
from datadiet.seeds import digest, stream, torch_seed

PARTS = st.lists(st.one_of(st.text(max_size=6), st.integers(-100, 100)), max_size=4).map(tuple)


def _draw(*parts):
    return tuple(stream(*parts).integers(0, 2**63, 4))


@given(PARTS, PARTS)
def test_digests_agree_only_where_all_parts_do(a, b):
    assert (digest(*a) == digest(*b)) == (a == b)


def test_text_and_number_differ_and_so_do_other_cuts_of_the_same_text():
    assert digest("1") != digest(1)
    assert digest("ab") != digest("a", "b")
    assert digest(np.int64(7)) == digest(7)


@given(st.integers(0, 2**40), st.sampled_from(["score", "retrain", "tune"]), st.integers(0, 200), PARTS)
def test_a_stream_is_a_pure_function_of_its_name(seed, purpose, run, names):
    assert _draw(seed, purpose, run, *names) == _draw(seed, purpose, run, *names)


def test_a_change_of_any_part_gives_another_stream():
    base = (0, "score", 0, "order", 0)
    others = [
        (1, "score", 0, "order", 0),
        (0, "retrain", 0, "order", 0),
        (0, "score", 1, "order", 0),
        (0, "score", 0, "augment", 0),
        (0, "score", 0, "order", 1),
        (0, "score", 0, "order"),
        (0, "score", 0),
    ]
    assert len({_draw(*parts) for parts in [base, *others]}) == len(others) + 1


def test_purposes_never_share_a_draw_whatever_the_seed_and_run():
    names = [
        (seed, purpose, run, *use)
        for seed in range(4)
        for purpose in ("score", "retrain", "tune", "subset", "noise")
        for run in range(6)
        for use in (("init",), ("order", 0), ("order", 1), ("augment", 0), ("torch",))
    ]
    assert len({_draw(*name) for name in names}) == len(names)
    assert len({torch_seed(*name) for name in names}) == len(names)


def test_torch_seeds_fit_torch():
    assert all(0 <= torch_seed(seed, "score", 0, "init") < 2**63 for seed in range(200))


# Results on disk are found again only while these stay what they are.
DIGEST, DRAWS, SEED = 692402991463421944, [583279, 24353, 85923], 7749069802941703713


def test_streams_have_the_values_they_have_always_had():
    assert digest("score", 3) == DIGEST
    assert stream(0, "score", 3, "order", 7).integers(0, 10**6, 3).tolist() == DRAWS
    assert torch_seed(0, "score", 3, "init") == SEED


@pytest.mark.parametrize("salt", ["1", "77"])
def test_another_process_with_another_hash_seed_draws_the_same(salt):
    # The file alone, with numpy: importing all of the package would take seconds.
    code = (
        "import runpy, sys; s = runpy.run_path(sys.argv[1]); print(s['digest']('score', 3), "
        "s['stream'](0, 'score', 3, 'order', 7).integers(0, 10**6, 3).tolist(), s['torch_seed'](0, 'score', 3, 'init'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, seeds.__file__],
        env={"PYTHONHASHSEED": salt},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{DIGEST} {DRAWS} {SEED}"
