"""Whole batches against a plain crop, flip and normalisation of one image after another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.data.batches import Batches
from datadiet.data.dataset import from_arrays
from datadiet.errors import DatadietError


def _images(seed, shape, kind=np.uint8):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, shape).astype(np.uint8)
    if kind == np.float32:
        pixels = rng.normal(3.0, 2.0, shape).astype(np.float32)
    return from_arrays("made up", (pixels, np.arange(shape[0]) % 2))


def _plainly(data, row, shift, flip, pad, mode):
    """(C, H, W) in float64: pad, crop, flip, normalise one image with numpy."""
    image = data.train.inputs[row]
    height, width = image.shape[:2]
    around = ((pad, pad), (pad, pad), (0, 0))
    padded = np.pad(image, around, mode="reflect") if mode == "reflect" else np.pad(image, around)
    image = padded[shift[0] : shift[0] + height, shift[1] : shift[1] + width]
    if flip:
        image = image[:, ::-1]
    return ((image.astype(np.float64) - data.mean) / data.std).transpose(2, 0, 1)


@st.composite
def cases(draw):
    height, width = draw(st.integers(2, 9)), draw(st.integers(2, 9))
    rows = draw(st.integers(2, 7))
    pad = draw(st.integers(0, min(height, width) - 1))
    mode = draw(st.sampled_from(["reflect", "zeros"]))
    shape = (rows, height, width, draw(st.integers(1, 4)))
    count = draw(st.integers(1, 6))
    wanted = draw(st.lists(st.integers(0, rows - 1), min_size=count, max_size=count))
    shifts = draw(st.lists(st.tuples(st.integers(0, 2 * pad), st.integers(0, 2 * pad)), min_size=count, max_size=count))
    flips = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return shape, pad, mode, wanted, shifts, flips, draw(st.sampled_from([np.uint8, np.float32]))


@settings(max_examples=120)
@given(cases(), st.integers(0, 99))
def test_a_batch_equals_its_images_padded_cropped_flipped_and_normalised_one_by_one(case, seed):
    shape, pad, mode, wanted, shifts, flips, kind = case
    data = _images(seed, shape, kind)
    batches = Batches(data.train, data, pad=pad, pad_mode=mode)
    got = batches.inputs(torch.tensor(wanted), torch.tensor(shifts), torch.tensor(flips))
    naive = np.stack([_plainly(data, *each, pad, mode) for each in zip(wanted, shifts, flips, strict=True)])
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), naive, rtol=1e-5, atol=1e-5)


@settings(max_examples=40)
@given(cases(), st.integers(0, 99))
def test_without_draws_an_image_is_only_normalised_and_the_centre_crop_is_the_image(case, seed):
    shape, pad, mode, wanted, _, flips, kind = case
    data = _images(seed, shape, kind)
    batches = Batches(data.train, data, pad=pad, pad_mode=mode)
    rows = torch.tensor(wanted)
    plain = batches.inputs(rows)
    naive = np.stack([_plainly(data, row, (0, 0), False, 0, mode) for row in wanted])
    np.testing.assert_allclose(plain.numpy(), naive, rtol=1e-5, atol=1e-5)
    centre = torch.full((len(wanted), 2), pad)
    assert torch.equal(batches.inputs(rows, centre, None), plain)
    flipped = torch.tensor(flips)
    assert torch.equal(batches.inputs(rows, None, flipped)[flipped], plain[flipped].flip(3))
    assert torch.equal(batches.inputs(rows, None, flipped)[~flipped], plain[~flipped])


def test_images_come_out_channels_last_with_no_further_copy():
    data = _images(0, (6, 5, 4, 3))
    for draws in [(), (torch.zeros(2, 2, dtype=torch.int64), torch.tensor([True, False]))]:
        images = Batches(data.train, data, pad=2).inputs(torch.tensor([1, 4]), *draws)
        assert images.shape == (2, 3, 5, 4)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_zeros_are_black_pixels_so_that_they_are_normalised_too():
    data = _images(1, (4, 3, 3, 1))
    corner = Batches(data.train, data, pad=3, pad_mode="zeros").inputs(
        torch.tensor([0]), torch.tensor([[0, 0]]), torch.tensor([False])
    )
    np.testing.assert_allclose(corner.numpy(), np.full((1, 1, 3, 3), -data.mean[0] / data.std[0]), rtol=1e-6)


def test_a_test_split_is_normalised_with_the_numbers_of_the_training_set():
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 99, (8, 4, 4, 3), np.uint8), rng.integers(99, 255, (5, 4, 4, 3), np.uint8)
    data = from_arrays("made up", (train, np.arange(8) % 2), (test, np.arange(5) % 2))
    got = Batches(data.test, data).inputs(torch.arange(5)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(got.numpy(), (test - train.mean((0, 1, 2))) / train.std((0, 1, 2)), rtol=1e-4, atol=1e-5)


def test_rows_of_a_table_are_standardised_and_a_constant_column_becomes_zero():
    rng = np.random.default_rng(0)
    table = rng.normal(5, 3, (20, 4)).astype(np.float32)
    table[:, 2] = 7.0
    data = from_arrays("made up", (table, np.arange(20) % 3))
    batches = Batches(data.train, data)
    rows = torch.tensor([3, 3, 19])
    got = batches.inputs(rows)
    wide = table.astype(np.float64)
    deviation = np.where(wide.std(0) > 0, wide.std(0), 1.0)
    np.testing.assert_allclose(got.numpy(), ((wide - wide.mean(0)) / deviation)[[3, 3, 19]], rtol=1e-4, atol=1e-5)
    assert batches.labels[rows].tolist() == [0, 0, 1]
    assert len(batches) == 20


def test_inputs_of_several_parts_stay_a_dict_and_keep_their_types():
    parts = {"ids": np.arange(12).reshape(6, 2), "mask": np.ones((6, 2), np.float32)}
    data = from_arrays("tokens", (parts, np.arange(6) % 2))
    got = Batches(data.train, data).inputs(torch.tensor([5, 0]))
    assert got["ids"].tolist() == [[10, 11], [0, 1]]
    assert got["ids"].dtype == torch.int64
    assert got["mask"].dtype == torch.float32


def test_a_pad_wider_than_the_image_can_not_reflect_and_is_refused_before_training():
    data = _images(0, (4, 8, 3, 1))
    with pytest.raises(DatadietError, match=r"made up: a reflecting pad of 3 on images of 8×3; pad at most 2"):
        Batches(data.train, data, pad=3)
    Batches(data.train, data, pad=3, pad_mode="zeros")
    with pytest.raises(DatadietError, match="pad_mode 'mirror'; one of reflect, zeros"):
        Batches(data.train, data, pad=1, pad_mode="mirror")


def test_memory_maps_and_reversed_views_serve_as_well_and_are_not_written_to(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    labels = np.arange(6) % 2
    plain = from_arrays("a", (pixels, labels))
    rows, draws = torch.tensor([2, 5]), (torch.tensor([[0, 2], [1, 1]]), torch.tensor([True, False]))
    wanted = Batches(plain.train, plain, pad=1, pad_mode="zeros").inputs(rows, *draws)
    mapped = from_arrays("b", (np.load(tmp_path / "pixels.npy", mmap_mode="r"), labels))
    assert torch.equal(Batches(mapped.train, mapped, pad=1, pad_mode="zeros").inputs(rows, *draws), wanted)
    backwards = from_arrays("c", (pixels[::-1], labels))
    got = Batches(backwards.train, backwards, pad=1, pad_mode="zeros").inputs(5 - rows, *draws)
    assert torch.equal(got, wanted)
    assert np.array_equal(np.load(tmp_path / "pixels.npy"), pixels)
