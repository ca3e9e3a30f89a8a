"""Every policy selects exactly what its plain definition says, ties and chunks included."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial

import numpy as np
import plain_selection as plain
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datadiet import seeds
from datadiet.errors import DatadietError
from datadiet.selection import (
    POLICIES,
    Order,
    Tie,
    count,
    easiest,
    hardest,
    options_of,
    order,
    quota,
    random,
    select,
    stratified,
    window,
)
from datadiet.selection.stratified import shares

TIE = Tie.of("some dataset")
OPTIONS = {"window": {"offset": 0}}
many = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SMALL = st.sampled_from([0.0, -0.0, 1.0, 2.5, -3.0])


def columns(elements=None):
    """Score columns of several types, most with many ties."""

    def of(dtype):
        if np.dtype(dtype).kind == "f":
            width = 8 * np.dtype(dtype).itemsize
            some = elements if elements is not None else st.floats(width=width, allow_nan=False)
            some = st.one_of(some, st.sampled_from([0.0, 1.0]).map(float))
        else:
            some = st.integers(0, 3)
        return hnp.arrays(dtype, st.integers(1, 60), elements=some)

    return st.sampled_from(["f4", "f8", ">f8", "f2", "i8", "u1", "i4"]).flatmap(of)


@pytest.fixture(params=[(1 << 17, 1 << 20), (7, 0), (16, 5)], ids=["sorted", "digits", "both"])
def chunked(request, monkeypatch):
    """The sort of small columns, and the digit search of large ones in small chunks."""
    monkeypatch.setattr(order, "CHUNK", request.param[0])
    monkeypatch.setattr(order, "SORT_BELOW", request.param[1])


@many
@given(scores=columns(), data=st.data())
def test_hardest_easiest_and_window_are_slices_of_the_full_sort(chunked, scores, data):
    n = len(scores)
    k = data.draw(st.integers(1, n))
    low = data.draw(st.integers(0, n - k))
    full = plain.ascending(scores, TIE)
    assert np.array_equal(hardest(scores, k, tie=TIE), plain.cut(full, n - k, n))
    assert np.array_equal(easiest(scores, k, tie=TIE), plain.cut(full, 0, k))
    assert np.array_equal(window(scores, k, tie=TIE, offset=Fraction(low, n)), plain.cut(full, low, low + k))


@many
@given(scores=columns(SMALL), data=st.data())
def test_groups_are_cut_each_at_its_own_place(chunked, scores, data):
    n = len(scores)
    groups = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)), np.int64)
    sizes = np.bincount(groups)
    lows = np.array([data.draw(st.integers(0, int(s))) for s in sizes])
    highs = np.array([data.draw(st.integers(int(a), int(s))) for a, s in zip(lows, sizes, strict=True)])
    found = Order(n, TIE, scores=scores, groups=groups).between(lows, highs)
    assert np.array_equal(found, plain.by_class(scores, TIE, groups, lambda c, _: (lows[c], highs[c])))
    drawn = Order(n, TIE, groups=groups).between(lows, highs)
    assert np.array_equal(drawn, plain.by_class(np.zeros(n), TIE, groups, lambda c, _: (lows[c], highs[c])))


def test_more_rows_than_are_sorted_are_cut_as_the_full_sort_does(monkeypatch):
    monkeypatch.setattr(order, "SORT_BELOW", 2000)
    rng = np.random.default_rng(0)
    normal = rng.normal(size=200_000)
    for scores in (normal, normal.astype("f4"), rng.poisson(0.4, 200_000)):
        ranks = TIE.rank(np.arange(len(scores)))
        full = np.lexsort((ranks, scores))
        assert np.array_equal(hardest(scores, 60_000, tie=TIE), np.sort(full[-60_000:]))
        found = window(scores, 80_000, tie=TIE, offset=0.4)
        assert np.array_equal(found, np.sort(full[80_000:160_000]))


@given(st.integers(0, 2**64 - 1), st.integers(1, 80))
def test_tie_ranks_are_splitmix64_and_all_different(key, n):
    ranks = Tie(key).rank(np.arange(n))
    assert np.array_equal(ranks, plain.ranks(n, key))
    assert len(np.unique(ranks)) == n


def test_splitmix64_starts_as_published():
    # The first outputs of the reference generator seeded with 1234567 (it adds the constant before mixing).
    first = Tie(1234567).rank(np.array([1, 2, 3]))
    assert first.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(1, 5000), st.integers(0, 1000))
def test_count_is_the_exact_floor_of_keep_n_plus_a_half(n, thousandths):
    keep = Fraction(thousandths + 1, 1001)
    assert count(keep, n) == max(1, math.floor(keep * n + Fraction(1, 2)))
    if thousandths:
        assert count(thousandths / 1000, n) == max(1, (2 * thousandths * n + 1000) // 2000)


def test_counts_are_those_of_the_number_as_written():
    assert count(0.29, 100) == 29
    assert count(0.145, 100) == 15  # 14.5 as written, a little less in binary
    assert count(0.5, 3) == 2
    assert count(np.float32(0.3), 10) == 3
    assert count("1/3", 9) == 3
    assert count(0.0001, 10) == 1


@pytest.mark.parametrize("keep", [0, -0.1, 1.0001, 50, float("nan"), float("inf"), "half", None, True])
def test_a_keep_outside_its_range_is_refused(keep):
    with pytest.raises(DatadietError, match="keep"):
        count(keep, 10)


@many
@given(
    st.integers(20, 60),
    st.integers(1, 14),
    st.integers(0, 3),
    st.sampled_from(["hardest", "easiest", "window"]),
)
def test_balanced_policies_cut_each_class_alike(chunked, n, k, seed, policy):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    scores = rng.integers(0, 4, n).astype(float)
    options = {"offset": 0.2} if policy == "window" else {}
    rows = POLICIES.get(policy)(scores, k, tie=TIE, labels=labels, balanced=True, **options)
    got = np.bincount(labels[rows], minlength=3)
    assert got.sum() == k
    assert got.max() - got.min() <= 1

    def places(c, size):
        if policy == "easiest":
            return 0, got[c]
        if policy == "hardest":
            return size - got[c], size
        low = min(math.floor(Fraction(1, 5) * size + Fraction(1, 2)), size - got[c])
        return low, low + got[c]

    assert np.array_equal(rows, plain.by_class(scores, TIE, labels, places))


def test_the_remainder_goes_to_the_largest_classes():
    labels = np.repeat([0, 1, 2, 4], [5, 9, 6, 9])
    rows = hardest(np.zeros(29), 10, tie=TIE, labels=labels, balanced=True)
    assert np.bincount(labels[rows]).tolist() == [2, 3, 2, 0, 3]


def test_a_class_too_small_for_its_part_is_named():
    labels = np.repeat([0, 1, 2], [20, 3, 20])
    for policy in (hardest, easiest, partial(window, offset=0), random):
        with pytest.raises(DatadietError, match="class 1 has 3 examples"):
            policy(np.zeros(43), 30, tie=TIE, labels=labels, balanced=True, rng=np.random.default_rng(0))
    with pytest.raises(DatadietError, match="class 1 has 3 examples"):
        window(np.zeros(43), 9, tie=TIE, labels=labels, balanced=True, offset=0.7)


def test_ties_do_not_lose_a_class_of_data_that_is_sorted_by_class():
    labels = np.repeat(np.arange(10), 500)
    scores = np.zeros(5000)
    for policy in ("hardest", "easiest", "window", "stratified"):
        for name in ("a", "b", None):
            subset = select(scores, 0.1, policy, labels=labels, fingerprint=name, **OPTIONS.get(policy, {}))
            after = np.array(subset.balance["after"])
            assert after.min() >= 25
            assert after.max() <= 80
            assert not subset.warnings


def test_another_dataset_breaks_ties_in_another_order():
    picks = [select(np.zeros(1000), 0.5, fingerprint=name).digest for name in ("a", "b", "a")]
    assert picks[0] == picks[2] != picks[1]


def test_a_random_subset_has_every_row_equally_often_and_a_new_draw_each_run():
    hits, pairs, draws = np.zeros(40), 0, 2000
    for run in range(draws):
        rows = random(np.zeros(40), 10, tie=TIE, rng=seeds.stream(0, "subset", run))
        hits[rows] += 1
        pairs += 0 in rows and 1 in rows
    deviation = np.sqrt(draws * 0.25 * 0.75)
    assert np.abs(hits - draws / 4).max() < 4.5 * deviation
    assert abs(pairs - draws * (10 * 9) / (40 * 39)) < 5 * np.sqrt(draws * 0.058)
    assert select(np.zeros(99), 0.5, "random", run=0) != select(np.zeros(99), 0.5, "random", run=1)
    assert select(np.zeros(99), 0.5, "random", seed=3) == select(np.ones(99), 0.5, "random", seed=3)


def test_balanced_random_takes_the_remainder_from_the_pool():
    labels = np.repeat([0, 1, 2], [30, 30, 30])
    seen = set()
    for run in range(30):
        rows = random(np.zeros(90), 32, tie=TIE, labels=labels, balanced=True, rng=np.random.default_rng(run))
        got = np.bincount(labels[rows])
        assert len(np.unique(rows)) == 32
        assert got.min() >= 10
        seen.add(tuple(got.tolist()))
    assert (12, 10, 10) in seen
    assert (11, 11, 10) in seen


def test_the_remainder_of_a_balanced_draw_is_a_uniform_draw_from_the_rest():
    labels, draws = np.repeat(np.arange(4), 25), 600
    shared = np.zeros(4)  # how often the three of the remainder are of one, two, three classes
    for run in range(draws):
        rows = random(np.zeros(100), 83, tie=TIE, labels=labels, balanced=True, rng=np.random.default_rng(run))
        shared[np.count_nonzero(np.bincount(labels[rows]) - 20)] += 1
    # Three of 4 x 5: all of one class in 4·C(5, 3) of C(20, 3) = 1140 cases, of three classes in 4·5³.
    for classes, cases in ((1, 40), (3, 500)):
        part = cases / 1140
        assert abs(shared[classes] - draws * part) < 5 * np.sqrt(draws * part * (1 - part))


def plain_strata(scores, tie, beta, strata):
    """Rows of each stratum, straight from the text of the algorithm."""
    scores = np.asarray(scores, np.float64)
    n = len(scores)
    rest = plain.ascending(scores, tie)[: n - math.floor(Fraction(str(beta)) * n + Fraction(1, 2))]
    low, high = scores[rest].min(), scores[rest].max()
    place = np.zeros(len(rest)) if high == low else np.floor((scores[rest] - low) / (high - low) * strata)
    place = np.minimum(place, strata - 1)
    return [set(rest[place == s].tolist()) for s in range(strata)]


def plain_budget(sizes, count):
    """Algorithm 1: the smallest stratum first takes its size or an even part of what is left."""
    left = {s: size for s, size in enumerate(sizes) if size}
    got = dict.fromkeys(range(len(sizes)), 0)
    while left:
        s = min(left, key=lambda s: (left[s], s))
        got[s] = min(left[s], count // len(left))
        count -= got[s]
        del left[s]
    return [got[s] for s in range(len(sizes))]


@many
@given(st.integers(10, 60), st.integers(0, 5), st.sampled_from([0, 0.1, 0.3]), st.integers(1, 12), st.data())
def test_stratified_spends_the_budget_as_the_algorithm_says(chunked, n, seed, beta, strata, data):
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=n).round(data.draw(st.integers(0, 3)))
    scores = scores.astype(data.draw(st.sampled_from(["f4", "f8"])))
    k = data.draw(st.integers(1, n - math.floor(Fraction(str(beta)) * n + Fraction(1, 2))))
    rows = stratified(scores, k, tie=TIE, rng=rng, beta=beta, strata=strata)
    groups = plain_strata(scores, TIE, beta, strata)
    budget = plain_budget([len(g) for g in groups], k)
    assert len(np.unique(rows)) == k == sum(budget)
    assert [len(g & set(rows.tolist())) for g in groups] == budget


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.data())
def test_shares_of_strata_add_up_and_never_exceed_a_stratum(sizes, data):
    sizes = [*sizes, 1]
    k = data.draw(st.integers(1, sum(sizes)))
    assert shares(np.array(sizes), k).tolist() == plain_budget(sizes, k)
    assert sum(plain_budget(sizes, k)) == k


def test_stratified_refuses_what_it_cannot_cut():
    rng = np.random.default_rng(0)
    with pytest.raises(DatadietError, match="finite"):
        stratified(np.array([0.0, 1.0, np.inf]), 1, tie=TIE, rng=rng)
    with pytest.raises(DatadietError, match="strata is 0"):
        stratified(np.arange(9.0), 1, tie=TIE, rng=rng, strata=0)
    with pytest.raises(DatadietError, match="beta"):
        stratified(np.arange(9.0), 5, tie=TIE, rng=rng, beta=0.6)
    assert len(stratified(np.array([0.0, 1.0, np.inf]), 1, tie=TIE, rng=rng, beta=0.34)) == 1


@many
@given(st.integers(12, 60), st.integers(4, 12), st.integers(0, 5), st.sampled_from([0, 0.5, 0.9, 1]))
def test_quota_is_the_hardest_of_each_class_up_to_its_floor_then_the_hardest_left(chunked, n, k, seed, floor):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(4), rng.choice(4, n - 4, p=[0.7, 0.1, 0.1, 0.1])])
    scores = labels * 2.0 + rng.integers(0, 3, n)
    rows = set(quota(scores, k, tie=TIE, labels=labels, floor_share=floor).tolist())
    sizes = np.bincount(labels)
    floors = [max(1, math.floor(Fraction(str(floor)) * k * int(s) / n)) for s in sizes]
    if sum(floors) <= k:
        full = plain.ascending(scores, TIE)[::-1]
        first = {r for c in range(4) for r in full[labels[full] == c][: floors[c]].tolist()}
        rest = [r for r in full.tolist() if r not in first][: k - len(first)]
        assert rows == first | set(rest)
    assert len(rows) == k
    assert set(labels[list(rows)]) == {0, 1, 2, 3}


def test_quota_pays_for_single_examples_with_the_largest_floor():
    labels = np.repeat([0, 1, 2], [98, 1, 1])
    rows = quota(np.arange(100.0)[::-1], 3, tie=TIE, labels=labels, floor_share=1)
    assert np.bincount(labels[rows]).tolist() == [1, 1, 1]
    with pytest.raises(DatadietError, match="2 examples are kept of 3 classes"):
        quota(np.zeros(100), 2, tie=TIE, labels=labels)
    with pytest.raises(DatadietError, match="floor_share"):
        quota(np.zeros(100), 50, tie=TIE, labels=labels, floor_share=1.5)


def test_a_window_may_reach_the_end_and_not_leave_it():
    scores = np.arange(10.0)
    assert select(scores, 0.4, "window", offset=0.6).indices.tolist() == [6, 7, 8, 9]
    # Both halves round up, and there are not four.
    assert select(np.arange(3.0), 0.5, "window", offset=0.5).indices.tolist() == [1, 2]
    for offset in (0.61, 0.7, -0.1, 1, "x"):
        with pytest.raises(DatadietError, match="offset"):
            select(scores, 0.4, "window", offset=offset)


def test_every_policy_has_the_same_shape_and_returns_ascending_rows():
    scores = np.random.default_rng(1).normal(size=200).astype("f4")
    labels = np.arange(200) % 4
    for name, policy in POLICIES.items():
        given = {"labels": labels, "rng": np.random.default_rng(0), **OPTIONS.get(name, {})}
        rows = policy(scores, 60, tie=TIE, **given)
        assert rows.dtype == np.int64, name
        assert rows.shape == (60,), name
        assert (np.diff(rows) > 0).all(), name
        assert "tie" not in options_of(policy)


def test_memory_mapped_scores_are_read_in_place(tmp_path):
    scores = np.random.default_rng(2).normal(size=5000).astype("f4")
    np.save(tmp_path / "scores.npy", scores)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    for policy in ("hardest", "window", "stratified"):
        options = OPTIONS.get(policy, {})
        assert select(mapped, 0.3, policy, **options) == select(scores, 0.3, policy, **options)


def test_scores_that_are_not_numbers_are_counted_and_located():
    scores = np.zeros(50)
    scores[[7, 30]] = np.nan
    for policy in POLICIES:
        with pytest.raises(DatadietError, match=r"2 of 50 scores are NaN, the first in row 7"):
            select(scores, 0.5, policy, labels=np.zeros(50, int))


@pytest.mark.parametrize("scores", [np.zeros((3, 2)), np.zeros(0), np.array(["a"]), np.zeros(3, complex)])
def test_scores_of_another_shape_or_type_are_refused(scores):
    with pytest.raises(DatadietError, match="score"):
        select(scores, 0.5)
