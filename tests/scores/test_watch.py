"""Watch: trajectory scores in a loop that is not ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import datadiet as dd
from datadiet.errors import DatadietError
from datadiet.scores import Forgetting


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
        ([0, 0], 2, [0, 1], "twice"),
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
