"""Histograms of scores: bars are counts, medians stand where they are, odd values do no harm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datadiet.errors import DatadietError
from datadiet.figures import score_histogram, score_histograms
from datadiet.figures.histograms import bin_edges, needs_log

RANDOM = np.random.default_rng(0)


def outlines(axes):
    return [patch for patch in axes.patches if hasattr(patch, "get_data") and not patch.get_fill()]


def medians(axes):
    return [line.get_xdata()[0] for line in axes.lines if line.get_label() == "_median"]


def test_bars_are_the_counts_and_the_line_the_median():
    values = RANDOM.normal(size=500)
    (axes,) = score_histogram(values, name="el2n", bins=20).axes
    (bars,) = outlines(axes)
    counts, edges, _ = bars.get_data()
    expected, expected_edges = np.histogram(values, 20)
    assert np.array_equal(counts, expected)
    assert np.allclose(edges, expected_edges)
    assert medians(axes) == pytest.approx([np.median(values)])
    assert axes.get_xlabel() == "el2n"


@pytest.mark.parametrize("corrupted", [None, np.arange(1010) % 5 == 0])
def test_the_bar_that_holds_the_median_is_seen(corrupted):
    values = np.concatenate([np.full(1000, 0.002), np.linspace(0.1, 1, 10)])
    figure = score_histograms({f"step {k}": values for k in range(3)}, corrupted)
    figure.set_dpi(200)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3]
    for axes in figure.axes:
        counts, edges, _ = outlines(axes)[0].get_data()
        low = 0.5 if axes.get_yscale() == "log" else 0
        (x0, y0), (x1, y1) = axes.transData.transform([(edges[0], low), (edges[1], counts[0])])
        bar = picture[int(y0) + 5 : int(y1) - 5, int(x0) + 1 : int(x1) - 1]
        assert bar.size
        assert not np.any(np.all(bar > 240, axis=2)), "there is white in it"


def test_clean_and_corrupted_share_their_bins():
    values, corrupted = RANDOM.random(400), RANDOM.random(400) < 0.2
    (axes,) = score_histogram(values, corrupted).axes
    (clean, bad) = outlines(axes)
    assert np.array_equal(clean.get_data().edges, bad.get_data().edges)
    assert clean.get_data().values.sum() == (~corrupted).sum()
    assert bad.get_data().values.sum() == corrupted.sum()
    assert medians(axes) == pytest.approx([np.median(values[~corrupted]), np.median(values[corrupted])])
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words[0].startswith("clean label: ")
    assert words[1].startswith("corrupted label: ")


def test_few_corrupted_examples_make_the_counts_logarithmic():
    values = np.concatenate([RANDOM.normal(0, 0.1, 20_000), RANDOM.normal(1, 0.5, 50)])
    corrupted = np.arange(len(values)) >= 20_000
    (axes,) = score_histogram(values, corrupted).axes
    assert axes.get_yscale() == "log"
    assert "logarithmic" in axes.get_ylabel()
    assert axes.get_ylim()[0] == 0.5  # so that a single example is seen


def test_even_counts_stay_linear():
    assert not needs_log([np.array([10, 20, 30])])
    assert not needs_log([np.array([0, 0])])
    assert needs_log([np.array([10_000, 3, 2, 1])])


def test_values_that_are_not_finite_are_left_out_and_counted():
    values = np.array([1.0, 2.0, np.nan, 3.5, np.inf])
    (axes,) = score_histogram(values, name="grand").axes
    assert outlines(axes)[0].get_data().values.sum() == 3
    assert medians(axes) == [2.0]
    assert "2 not finite" in axes.get_xlabel()


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_no_finite_value_is_said(values):
    (axes,) = score_histogram(values).axes
    assert [text.get_text() for text in axes.texts] == ["no finite value"]


@pytest.mark.parametrize("value", [0.0, 0.25, 7.0, -3.2, 1e-9, 1e9])
def test_constant_scores_make_one_bar_around_their_value(value):
    (axes,) = score_histogram(np.full(30, value)).axes
    counts, edges, _ = outlines(axes)[0].get_data()
    assert counts.max() == counts.sum() == 30
    place = int(np.argmax(counts))
    assert edges[place] < value < edges[place + 1]


def test_a_group_without_examples_has_no_median():
    (axes,) = score_histogram([0.1, 0.2, 0.4], [False] * 3).axes
    assert medians(axes) == [0.2]


def test_whole_numbers_lie_in_the_middle_of_their_bins():
    edges = bin_edges(np.array([0.0, 1.0, 3.0]))
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=60))
def test_every_value_lies_in_a_bin(numbers):
    values = np.array(numbers)
    edges = bin_edges(values)
    assert np.all(np.diff(edges) > 0) or np.ptp(values) <= 1e-9 * np.abs(values).max()
    assert np.histogram(values, np.maximum.accumulate(edges))[0].sum() == len(values)


def test_small_multiples_have_a_panel_for_each_score():
    panels = {f"el2n at {step}ep": RANDOM.random(100) * step for step in (1, 2, 3, 4)}
    figure = score_histograms(panels, RANDOM.random(100) < 0.5, title="digits")
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left").split("\n")[0] for axes in shown] == list(panels)
    for axes, values in zip(shown, panels.values(), strict=True):
        assert sum(bars.get_data().values.sum() for bars in outlines(axes)) == len(values)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "clean label", "corrupted label", "median",
    ]  # fmt: skip


def test_small_multiples_can_share_their_range():
    figure = score_histograms({"a": [0.0, 0.5], "b": [0.2, 2.5]}, same_range=True)
    first, second = (outlines(axes)[0].get_data().edges for axes in figure.axes)
    assert np.array_equal(first, second)
    assert first[0] == 0
    assert first[-1] == 2.5


def test_panels_of_nothing_but_nan_and_of_one_value_stand_beside_others():
    figure = score_histograms({"nan": [np.nan] * 3, "one": [1.0] * 3, "some": [0.1, np.nan, 0.3]})
    assert len(figure.axes) == 3
    assert "1 not finite" in figure.axes[2].get_xlabel()


def test_the_axes_of_small_multiples_say_what_the_values_are():
    figure = score_histograms({"step 1": [1.0, 2.0], "step 2": [1.0, np.nan]}, name="grand")
    assert figure.axes[0].get_xlabel() == "grand"
    assert figure.axes[1].get_xlabel().replace("\n", " ") == "grand (1 not finite, left out)"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_long_names_neither_leave_small_multiples_nor_make_them_small(count):
    values = np.append(RANDOM.random(50), np.nan)
    panels = {f"a_score_with_a_name_of_many_words at step {k}": values for k in range(count)}
    plain = score_histograms(panels, title="Short")
    figure = score_histograms(panels, name="a_score_with_a_name_of_many_words", title="WIDE_NAME" * 20)
    figure.draw_without_rendering()
    texts = [figure._suptitle]
    for axes in figure.axes:
        texts += [axes._left_title, axes.xaxis.label] if axes.axison else []
    boxes = [text.get_window_extent() for text in texts]
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= figure.bbox.width and b.y1 <= figure.bbox.height for b in boxes)
    for place, a in enumerate(boxes):
        for b in boxes[place + 1 :]:
            assert min(a.x1, b.x1) - max(a.x0, b.x0) <= 0.5 or min(a.y1, b.y1) - max(a.y0, b.y0) <= 0.5
    heights = [one.axes[0].get_position().height * one.get_figheight() for one in (plain, figure)]
    assert min(heights) > 1.5
    assert heights[1] > 0.9 * heights[0]


def test_panels_do_not_overlap():
    figure = score_histograms({f"score {k}": RANDOM.random(50) for k in range(5)}, title="A title")
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    for place, a in enumerate(boxes):
        for b in boxes[place + 1 :]:
            assert min(a.x1, b.x1) - max(a.x0, b.x0) <= 0.5 or min(a.y1, b.y1) - max(a.y0, b.y0) <= 0.5


def test_what_does_not_fit_together_is_refused_in_words():
    with pytest.raises(DatadietError, match="3 scores but a mask of shape"):
        score_histogram([1, 2, 3], [True])
    with pytest.raises(DatadietError, match="shape"):
        score_histogram(np.zeros((2, 2)))
    with pytest.raises(DatadietError, match="no score"):
        score_histograms({})
