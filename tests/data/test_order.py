"""The order of examples: permutations by pass, a pure function of the step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.data.order import Order

STREAM = (0, "score", 0)


@st.composite
def subsets(draw):
    count = draw(st.integers(1, 40))
    rows = draw(st.lists(st.integers(0, 999), min_size=count, max_size=count, unique=True))
    return np.array(rows), draw(st.integers(1, 50))


def _same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


@settings(max_examples=60)
@given(subsets(), st.integers(0, 5))
def test_a_pass_visits_the_subset_once_without_the_partial_batch(subset, number):
    rows, batch = subset
    order = Order(rows, batch, STREAM)
    first = number * order.steps_per_pass
    batches = [order.batch(first + k)[0] for k in range(order.steps_per_pass)]
    seen = torch.cat(batches).tolist()
    size = min(batch, len(rows))
    assert all(len(part) == size for part in batches)
    assert len(seen) == len(rows) // size * size
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(rows.tolist())


@settings(max_examples=60)
@given(subsets(), st.integers(0, 70), st.integers(1, 3))
def test_the_rows_that_steps_visit_are_those_of_their_batches(subset, steps, times):
    order = Order(*subset, STREAM)
    seen = Counter(row for step in range(steps) for row in order.batch(step)[0].tolist())
    assert order.visited(steps, times).tolist() == sorted(row for row, count in seen.items() if count >= times)


@settings(max_examples=60)
@given(subsets(), st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_a_batch_depends_on_its_step_alone_in_whatever_order_steps_are_asked(subset, steps):
    rows, batch = subset
    order = Order(rows, batch, STREAM, pad=2, flip=True)
    for step in steps:
        fresh = Order(rows, batch, STREAM, pad=2, flip=True)
        assert _same(order.batch(step), fresh.batch(step))


def test_a_run_resumed_in_the_middle_of_a_pass_goes_on_with_the_same_batches():
    rows = np.arange(50)
    straight = Order(rows, 8, STREAM, pad=1, flip=True)
    through = [straight.batch(step) for step in range(20)]
    for stopped in (3, 6, 13):
        resumed = Order(rows, 8, STREAM, pad=1, flip=True)
        assert all(_same(resumed.batch(step), through[step]) for step in range(stopped, 20))


def test_a_subset_smaller_than_a_batch_is_the_batch():
    order = Order(np.array([4, 9, 2]), 128, STREAM)
    assert (order.batch_size, order.steps_per_pass) == (3, 1)
    assert all(sorted(order.batch(step)[0].tolist()) == [2, 4, 9] for step in range(5))


def test_passes_differ_and_so_do_runs_and_purposes():
    rows = np.arange(64)
    order = Order(rows, 64, STREAM)
    draws = [order.batch(step)[0].tolist() for step in range(4)]
    draws += [
        Order(rows, 64, other).batch(0)[0].tolist() for other in [(0, "score", 1), (0, "retrain", 0), (1, "score", 0)]
    ]
    assert len({tuple(draw) for draw in draws}) == len(draws)


def test_the_draws_of_augmentation_leave_the_order_alone():
    rows = np.arange(40)
    plain, cropped, both = (
        Order(rows, 16, STREAM, pad=pad, flip=flip) for pad, flip in [(0, False), (4, False), (4, True)]
    )
    for step in range(7):
        assert torch.equal(plain.batch(step)[0], cropped.batch(step)[0])
        assert torch.equal(plain.batch(step)[0], both.batch(step)[0])
        assert torch.equal(cropped.batch(step)[1], both.batch(step)[1]), "nor do flips move the crops"


def test_offsets_cover_the_padded_image_evenly_and_half_of_the_images_are_flipped():
    order = Order(np.arange(20_000), 20_000, STREAM, pad=2, flip=True)
    _, shifts, flips = order.batch(0)
    assert shifts.shape == (20_000, 2)
    assert flips.dtype == torch.bool
    for axis in range(2):
        counts = np.bincount(shifts[:, axis].numpy(), minlength=5)
        assert len(counts) == 5
        assert np.abs(counts / 20_000 - 0.2).max() < 0.02
    assert abs(flips.double().mean() - 0.5) < 0.02


def test_without_augmentation_nothing_is_drawn_and_flips_alone_do_not_shift():
    rows = np.arange(10)
    assert Order(rows, 4, STREAM).batch(0)[1:] == (None, None)
    _, shifts, flips = Order(rows, 4, STREAM, pad=3).batch(0)
    assert shifts is not None
    assert flips is None
    _, shifts, flips = Order(rows, 4, STREAM, flip=True).batch(0)
    assert not shifts.any()
    assert flips is not None
