"""Watch: trajectory scores in a loop that is not ours."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import datadiet as dd
from datadiet.errors import DatadietError
from datadiet.scores import Forgetting, Watch


def _epochs(n=20, classes=3, epochs=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    for _ in range(epochs):
        order = torch.randperm(n, generator=draw)
        yield [(rows, torch.randn(len(rows), classes, generator=draw), labels[rows]) for rows in order.split(6)]


def test_a_watch_sees_what_the_accumulator_sees():
    watch, alone = dd.Watch(20), Forgetting(20)
    for batches in _epochs():
        for rows, logits, labels in batches:
            watch.update(rows, logits, labels)
            alone.update(rows, logits, labels)
        watch.end_epoch()
    np.testing.assert_array_equal(watch.result()["forgetting"], alone.result()["forgetting"].numpy())
    np.testing.assert_array_equal(watch.table().mean("forgetting", at="4ep"), alone.result()["forgetting"].numpy())


def test_each_epoch_is_kept_as_it_was_at_its_end():
    watch, ends = dd.Watch(20, ["el2n_online"]), []
    for batches in _epochs():
        for batch in batches:
            watch.update(*batch)
        ends.append(watch.result()["el2n_online"])
        watch.end_epoch()
    table = watch.table()
    assert table.steps("el2n_online") == [1, 2, 3, 4]
    for epoch, end in enumerate(ends, 1):
        np.testing.assert_array_equal(table.values("el2n_online", f"{epoch}ep")[0], end)


def test_a_restored_watch_goes_on_where_it_was():
    straight, first, second = dd.Watch(20), dd.Watch(20), dd.Watch(20)
    for number, batches in enumerate(_epochs()):
        for batch in batches:
            straight.update(*batch)
            (first if number < 2 else second).update(*batch)
        if number == 1:
            second.load(first.state())
    for name, values in straight.result().items():
        np.testing.assert_array_equal(values, second.result()[name])


def test_what_needs_a_gradient_is_not_held_and_arrays_are_taken_too():
    watch = dd.Watch(5, ["forgetting"])
    watch.update(np.array([0, 4]), torch.randn(2, 3, requires_grad=True), [1, 2])
    assert np.isnan(watch.result()["forgetting"]).sum() == 3


@pytest.mark.parametrize(
    ("indices", "rows", "labels", "words"),
    [
        ([0, 5], 2, [0, 1], "from 0 to 5"),
        ([0, 1], 3, [0, 1], "one row of logits"),
        ([0, 1], 2, [0], "one row of logits"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(indices, rows, labels, words):
    with pytest.raises(DatadietError, match=words):
        dd.Watch(5).update(indices, torch.randn(rows, 3), labels)


def test_only_scores_of_a_trajectory_can_be_watched():
    with pytest.raises(DatadietError, match="el2n is no score of a trajectory"):
        dd.Watch(5, ["el2n"])


def test_a_batch_that_is_no_numbers_is_right_for_no_class():
    watch = dd.Watch(4)
    for _ in range(3):
        watch.update([0, 1, 2, 3], torch.full((4, 3), torch.nan), [0, 1, 2, 0])
    assert watch.result()["never_learned"].tolist() == [1, 1, 1, 1]
    assert watch.result()["correctness"].tolist() == [0, 0, 0, 0]


def test_only_the_rows_that_hold_a_nan_are_never_right():
    watch, logits = dd.Watch(3), torch.eye(3)
    logits[1, 1] = torch.nan
    watch.update([0, 1, 2], logits, [0, 1, 2])
    assert watch.result()["correctness"].tolist() == [1, 0, 1]
    assert np.isnan(watch.result()["el2n_online"]).tolist() == [False, True, False]


def test_a_watch_may_be_made_and_updated_under_inference_mode():
    with torch.inference_mode():
        watch = dd.Watch(3)
        watch.update([0, 1], torch.eye(3)[:2], [0, 2])
    same = dd.Watch(3)
    same.update([0, 1], torch.eye(3)[:2], [0, 2])
    for one in (watch, same):
        one.update([2, 0], torch.eye(3)[:2], [0, 2])
        one.end_epoch()
    for name, values in same.result().items():
        np.testing.assert_array_equal(watch.result()[name], values)


def test_a_table_can_be_pickled_and_is_of_its_time():
    watch = dd.Watch(3, "forgetting")
    watch.update([0, 1, 2], torch.eye(3), [0, 1, 2])
    watch.end_epoch()
    table = watch.table()
    again = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(again.values("forgetting"), table.values("forgetting"))
    watch.update([0], torch.eye(3)[:1], [2])
    assert table.labels.tolist() == [0, 1, 2]


FITS = ([0, 4, 2], [[1.0, 2, 3], [3, 2, 1], [0, 1, 0]], [1, 2, 0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": torch.tensor([0, -100, 1])}, "labels from -100 to 1 for 3 columns"),
        ({"labels": torch.tensor([0, 3, 1])}, "from 0 to 2"),
        ({"labels": torch.eye(3, dtype=torch.int64)}, "not one-hot"),
        ({"labels": torch.tensor([0.5, 1.0, 0.0])}, "labels are of type float32"),
        ({"labels": ["cat", "dog", "cat"]}, "labels are list, not numbers"),
        ({"labels": 1}, "one index and one label"),
        ({"indices": torch.tensor([True, False, True])}, "nonzero"),
        ({"indices": torch.tensor([0.9, 1.2, 2.7])}, "indices are of type float32"),
        ({"logits": torch.randn(3, 1), "labels": [0, 1, 0]}, "1 column of logits"),
    ],
)
@pytest.mark.parametrize("scores", [None, ["forgetting"]])
def test_a_refused_batch_leaves_the_watch_as_it_was(scores, change, words):
    watch = dd.Watch(5, scores)
    watch.update(FITS[0], torch.tensor(FITS[1]), FITS[2])
    before = watch.state()
    given = dict(zip(("indices", "logits", "labels"), FITS, strict=True))
    with pytest.raises(DatadietError, match=words):
        watch.update(**{**given, **change})
    assert all(torch.equal(value, before[key]) for key, value in watch.state().items())


def test_logits_may_be_arrays_and_a_batch_may_be_empty():
    watch, other = dd.Watch(5), dd.Watch(5)
    watch.update(np.array(FITS[0]), np.array(FITS[1], np.float32), np.array(FITS[2], np.uint8))
    watch.update([], torch.zeros(0, 3), [])
    other.update(FITS[0], torch.tensor(FITS[1]), FITS[2])
    for name, values in other.result().items():
        np.testing.assert_array_equal(values, watch.result()[name])


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 99))
def test_an_example_that_stands_in_a_batch_several_times_is_visited_that_often(n, size, seed):
    """As a sampler with replacement gives them: the same as one after another."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randint(n, (size,), generator=rng)
    logits, labels = torch.randn(size, 3, generator=rng), torch.randint(3, (size,), generator=rng)
    at_once, one_by_one = Watch(n), Watch(n)
    at_once.update(rows, logits, labels)
    for i in range(size):
        one_by_one.update(rows[i : i + 1], logits[i : i + 1], labels[i : i + 1])
    for name, values in one_by_one.result().items():
        assert np.allclose(at_once.result()[name], values, equal_nan=True), name


def test_the_size_is_a_whole_number_and_one_score_may_be_named():
    with pytest.raises(DatadietError, match=r"Watch: 6\.0 examples"):
        Watch(6.0)
    assert set(Watch(np.int64(6), "forgetting").result()) == {"forgetting", "never_learned"}


def test_a_state_stays_as_it_was_taken():
    watch = dd.Watch(20)
    (first, second) = _epochs(epochs=2)
    for batch in first:
        watch.update(*batch)
    state = watch.state()
    kept = {key: value.clone() for key, value in state.items()}
    for batch in second:
        watch.update(*batch)
    assert all(torch.equal(value, kept[key]) for key, value in state.items())


@pytest.mark.parametrize(
    ("n", "scores", "words"),
    [
        (6, ["aum"], "the state follows aum, this watch forgetting"),
        (6, None, "it must be of a watch of the same scores"),
        (5, ["forgetting"], "this watch is of 6 examples"),
        (1, ["forgetting"], "this watch is of 6 examples"),
    ],
)
def test_a_state_of_another_watch_is_refused_and_changes_nothing(n, scores, words):
    watch = dd.Watch(6, ["forgetting"])
    watch.update(FITS[0], torch.tensor(FITS[1]), FITS[2])
    before = watch.state()
    with pytest.raises(DatadietError, match=words):
        watch.load(dd.Watch(n, scores).state())
    assert all(torch.equal(value, before[key]) for key, value in watch.state().items())


def test_a_loaded_watch_has_the_scores_of_the_epoch_it_was_taken_at():
    first, second = dd.Watch(20), dd.Watch(20)
    for batches in _epochs(epochs=3):
        for batch in batches:
            first.update(*batch)
        first.end_epoch()
        if first.epochs < 3:
            second.end_epoch()
    second.end_epoch()
    second.end_epoch()
    second.load(first.state())
    table = second.table()
    assert table.steps() == [3], "notes of its own past are no part of it"
    np.testing.assert_array_equal(table.values("aum", "3ep"), first.table().values("aum", "3ep"))
    second.end_epoch()
    assert second.table().steps() == [4]


@given(st.integers(1, 40), st.integers(1, 4), st.integers(2, 4), st.integers(0, 99))
def test_watches_of_several_processes_are_one_watch(n, epochs, ranks, seed):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=draw)
    straight, parts = dd.Watch(n), [dd.Watch(n) for _ in range(ranks)]
    for _ in range(epochs):
        order, logits = torch.randperm(n, generator=draw), torch.randn(n, 3, generator=draw)
        straight.update(order, logits, labels[order])
        for rank, watch in enumerate(parts):
            mine = slice(rank, None, ranks)
            watch.update(order[mine], logits[mine], labels[order[mine]])
        states = [watch.state() for watch in parts]
        for watch in parts:
            watch.merge(states)
            watch.end_epoch()
        straight.end_epoch()
    for watch in parts:
        assert np.array_equal(watch.table().labels, straight.table().labels)
        for name in straight.table().names:
            for epoch in range(1, epochs + 1):
                np.testing.assert_array_equal(watch.table().mean(name, epoch), straight.table().mean(name, epoch))


def test_of_an_example_that_two_processes_saw_one_visit_counts_and_all_agree():
    first, second = dd.Watch(3, ["forgetting", "el2n_online"]), dd.Watch(3, ["forgetting", "el2n_online"])
    right, wrong, labels = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([0])
    first.update(torch.tensor([1]), right, labels)
    second.update(torch.tensor([1]), wrong, labels)
    second.update(torch.tensor([2]), wrong, labels)
    alone = first.result()["el2n_online"][1]
    states = [first.state(), second.state()]
    for watch in (first, second):
        watch.merge(states)
        assert watch.result()["never_learned"].tolist()[1:] == [0, 1]
        assert watch.result()["el2n_online"][1] == alone
        assert np.isnan(watch.result()["forgetting"][0])


def test_what_cannot_be_merged_is_said():
    watch, later, other = dd.Watch(3), dd.Watch(3), dd.Watch(3, ["aum"])
    later.end_epoch()
    with pytest.raises(DatadietError, match="after 0 and 1 epochs"):
        watch.merge([watch.state(), later.state()])
    with pytest.raises(DatadietError, match="the state follows aum"):
        watch.merge([watch.state(), other.state()])
    with pytest.raises(DatadietError, match="no state"):
        watch.merge([])


def test_a_score_of_ones_own_is_merged_by_its_own_rule_or_refused():
    class Visits:
        def __init__(self, n, device="cpu", task=None):
            self.count = torch.zeros(n, device=device)

        def update(self, indices, logits, labels):
            self.count[indices] += 1

        def result(self):
            return {"visits_of_mine": self.count.clone()}

        def state(self):
            return {"count": self.count}

        def load(self, state):
            self.count.copy_(state["count"])

    with pytest.MonkeyPatch.context() as patch:
        entry = dd.scores.Score("visits_of_mine", "trajectory", Visits, "higher", "")
        patch.setitem(dd.scores.SCORES._entries, "visits_of_mine", entry)
        first, second = dd.Watch(2, ["visits_of_mine"]), dd.Watch(2, ["visits_of_mine"])
        first.update(torch.tensor([0]), torch.zeros(1, 2), torch.tensor([0]))
        with pytest.raises(DatadietError, match="visits_of_mine cannot be merged"):
            first.merge([first.state(), second.state()])
        Visits.merge = lambda self, states: self.load({"count": sum(state["count"] for state in states)})
        first.merge([first.state(), second.state()])
        assert first.result()["visits_of_mine"].tolist() == [1, 0]
