"""A Subset holds each row once, says where it comes from, and how the classes fared."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import re
import struct

import numpy as np
import pytest
import torch

from datadiet.errors import DatadietError
from datadiet.selection import Subset, select
from datadiet.selection.balance import fallen


def test_a_subset_is_an_array_where_one_is_wanted():
    subset = Subset(np.array([5, 1, 3]), 10, "abc")
    assert subset.indices.tolist() == list(subset) == [1, 3, 5]
    assert np.asarray(subset).dtype == np.int64
    assert np.arange(10)[subset].tolist() == [1, 3, 5]
    assert len(subset) == 3
    assert subset[0] == 1
    assert subset[-2:].tolist() == [3, 5]
    assert subset.keep == 0.3
    assert np.array(subset, dtype=np.float32, copy=True).dtype == np.float32


def test_a_subset_cannot_be_changed():
    mine = np.array([1, 2, 3])
    subset = Subset(mine, 5)
    mine[0] = 0
    assert subset.indices.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        subset.indices[0] = 4
    view = np.array([1, 2, 3])[:2]
    view.setflags(write=False)
    view.base[0] = 0
    kept = Subset(view, 5)
    view.base[0] = 1
    assert kept.indices.tolist() == [0, 2]


def test_subsets_are_equal_by_rows_and_dataset_and_survive_a_pickle():
    one = Subset([1, 2], 5, "a", {"name": "x"})
    assert one == Subset([2, 1], 5, "a") == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(Subset([2, 1], 5, "a"))
    assert one != Subset([1, 2], 5, "b")
    assert one != Subset([1, 2], 6, "a")
    assert one != Subset([1, 3], 5, "a")
    assert one.digest == hashlib.blake2b(struct.pack("<2q", 1, 2), digest_size=16).hexdigest()
    assert one.digest != Subset([1, 3], 5, "a").digest


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([1, 2, 2, 4, 4], "row 2 is repeated"),
        ([0, 10], "row 10 is out of range"),
        ([-1, 3], "row -1 is out of range"),
        (np.array([2**64 - 1], np.uint64), "out of range"),
        ([], "type float64|no examples"),
        (np.zeros(0, int), "no examples"),
        ([0.5, 1.0], "type float64"),
        ([[1, 2]], r"shape \(1, 2\)"),
        ([True, False], "type bool"),
    ],
)
def test_rows_that_are_no_subset_are_refused(rows, words):
    with pytest.raises(DatadietError, match=words):
        Subset(rows, 10)


def test_a_subset_of_another_dataset_is_refused():
    subset = Subset([1, 2], 5, "a")
    subset.check("a", 5)
    subset.check(None, 5)
    Subset([1, 2], 5).check("b", 5)
    with pytest.raises(DatadietError, match="dataset a, this one is b"):
        subset.check("b", 5)
    with pytest.raises(DatadietError, match=r"half.npy: .*5 examples, this one has 6"):
        subset.check("a", 6, where="half.npy")


def test_a_selection_says_how_it_was_made_in_plain_values():
    subset = select(np.arange(10.0), np.float64(0.4), "window", offset=0.2, fingerprint="abc", seed=3)
    assert subset.indices.tolist() == [2, 3, 4, 5]
    assert (subset.fingerprint, subset.size, subset.balance) == ("abc", 10, None)
    policy = json.loads(json.dumps(subset.policy))
    assert policy == {"name": "window", "keep": 0.4, "seed": 3, "run": 0, "offset": 0.2}
    assert not subset.indices.flags.writeable


def test_the_class_balance_is_reported_and_a_class_that_falls_is_warned_about(caplog):
    labels = np.repeat([0, 1, 3], [100, 100, 100])
    scores = np.concatenate([np.arange(100.0), np.arange(100.0) + 95, np.arange(100.0) + 1000])
    with caplog.at_level(logging.WARNING, "datadiet.selection"):
        subset = select(scores, 0.5, labels=labels)
    assert subset.balance == {"before": (100, 100, 0, 100), "after": (0, 50, 0, 100)}
    assert subset.warnings == ("class 0 vanishes",)
    assert "hardest, keep 0.5: class 0 vanishes; balanced keeps the same number of each" in caplog.text
    named = select(scores, 0.5, labels=labels, class_names=["cat", "dog", "eel", "fox"], warn_below=1.1)
    assert named.warnings[0] == "class cat vanishes"
    assert named.warnings[1] == "class dog falls below 1.1 of the former share (33.333% before, 33.333% after)"
    subset = select(scores, 0.5, labels=labels, warn_below=1.1)
    assert "class 1 falls below 1.1 of the former share" in subset.warnings[1]
    assert "33.333% before, 33.333% after" in subset.warnings[1]
    assert fallen(np.array([10, 10, 10]), np.array([2, 1, 12]), 0.5, ["cat", "dog"]) == [
        "2 classes (cat, dog) fall below 0.5 of the former share (class dog: 33.333% before, 6.667% after)"
    ]
    assert select(scores, 0.5, labels=labels, balanced=True).warnings == ()


def test_a_class_too_small_for_the_balance_is_named():
    labels = np.repeat([0, 1], [8, 40])
    for names, said in (((), "class 0"), (("cat", "dog"), "class cat")):
        with pytest.raises(DatadietError, match=f"{said} has 8 examples, and balanced classes need 12 of it"):
            select(np.arange(48.0), 0.5, labels=labels, class_names=names, balanced=True)
        with pytest.raises(DatadietError, match=rf"{said} has 8 examples; a window from offset 0\.5 that keeps 6"):
            select(np.arange(48.0), 0.25, "window", offset=0.5, labels=labels, class_names=names, balanced=True)


def test_quota_is_named_where_it_helps_and_balanced_only_where_it_can_be(caplog):
    labels, scores = np.repeat([0, 1], [8, 40]), np.arange(48.0)[::-1]
    quota = "the policy quota keeps the hardest, but of each class at least half its share"
    for by, keep, policy, said in (
        (scores, 0.5, "hardest", f"class 1 falls .*; {quota}"),
        (-scores, 0.5, "hardest", f"keep 0.5: class 0 vanishes; {quota}"),
        (-scores, 0.25, "hardest", f"keep 0.25: class 0 vanishes; balanced keeps the same number of each; {quota}"),
        (scores, 0.25, "easiest", "keep 0.25: class 0 vanishes; balanced keeps the same number of each"),
        (scores, 0.5, "easiest", "keep 0.5: class 0 vanishes"),
        (-scores, "1/48", "hardest", "keep 1/48: class 0 vanishes; balanced keeps the same number of each"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "datadiet.selection"):
            select(by, keep, policy, labels=labels, warn_below=0.9)
        assert re.search(f"{said}$", caplog.messages[0]), caplog.messages
    with pytest.raises(DatadietError, match=f"of it; keep less, or leave the balance out; {quota}$"):
        select(scores, 0.5, labels=labels, balanced=True)
    with pytest.raises(DatadietError, match=r"of it; keep less, or leave the balance out$"):
        select(scores, 0.5, "easiest", labels=labels, balanced=True)


def test_scores_may_be_a_tensor_of_any_kind():
    scores = torch.arange(40.0)
    for given_ in (scores.clone().requires_grad_(), scores.bfloat16(), scores.half(), scores.double()):
        assert select(given_, 0.25).indices.tolist() == list(range(30, 40))


def test_options_and_names_are_checked_before_anything_is_chosen():
    scores = np.arange(10.0)
    with pytest.raises(DatadietError, match="did you mean hardest"):
        select(scores, 0.5, "hardset")
    with pytest.raises(DatadietError, match=r"no option 'ofset'; its options: offset, balanced"):
        select(scores, 0.5, "window", ofset=0.1)
    with pytest.raises(DatadietError, match="'window' needs the option 'offset'"):
        select(scores, 0.5, "window")
    with pytest.raises(DatadietError, match="no class-balanced form"):
        select(scores, 0.5, "stratified", labels=np.zeros(10, int), balanced=True)
    with pytest.raises(DatadietError, match="needs the labels"):
        select(scores, 0.5, "hardest", balanced=True)
    with pytest.raises(DatadietError, match=r"labels have shape \(9,\)"):
        select(scores, 0.5, labels=np.zeros(9, int))
    with pytest.raises(DatadietError, match="the label -1 in row 4"):
        select(scores, 0.5, labels=np.array([0, 0, 0, 0, -1, 0, 0, 0, 0, 0]))
    with pytest.raises(DatadietError, match=r"keep is 1\.5"):
        select(scores, 1.5)
