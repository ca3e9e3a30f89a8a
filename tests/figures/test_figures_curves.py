"""Accuracy curves and windows: what stands in the axes is what was given, and no label lies on another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.errors import DatadietError
from datadiet.figures import accuracy_against_keep, windows
from datadiet.figures.dots import dots
from datadiet.figures.labels import apart
from datadiet.figures.lines import lines
from datadiet.figures.matrix import matrix
from datadiet.figures.points import points
from datadiet.figures.style import looks, ramp

KEEPS = (0.1, 0.3, 0.5, 0.8)


def curve(seed, keeps=KEEPS, runs=4, base=0.9):
    random = np.random.default_rng(seed)
    return {keep: base + 0.05 * random.random(runs) for keep in keeps}


def line_of(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def boxes_of(figure, gid=None):
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in (*axes.texts, axes.xaxis.label) if text.get_text()]
    return [text.get_window_extent() for text in texts if gid is None or text.get_gid() == gid]


def words_of(figure):
    texts = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label)]
    return " ".join(texts).replace("\n", " ")


def overlap(boxes):
    return [
        (a, b)
        for place, a in enumerate(boxes)
        for b in boxes[place + 1 :]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]


def inside(figure, boxes):
    width, height = figure.bbox.width, figure.bbox.height
    return all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)


def test_the_line_is_the_mean_and_the_band_the_16th_to_84th_percentile():
    given_curve = curve(0)
    figure = accuracy_against_keep({"hardest": given_curve})
    (axes,) = figure.axes
    line = line_of(axes, "hardest")
    assert np.allclose(line.get_xdata(), [10, 30, 50, 80])
    assert np.allclose(line.get_ydata(), [100 * given_curve[keep].mean() for keep in KEEPS])
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for keep in KEEPS:
        at = corners[np.isclose(corners[:, 0], 100 * keep), 1]
        expected = np.percentile(100 * given_curve[keep], [16, 84])
        assert np.allclose([at.min(), at.max()], expected)


def test_the_ticks_stand_at_the_keeps_in_percent():
    (axes,) = accuracy_against_keep({"random": curve(0)}).axes
    assert np.allclose(axes.get_xticks(), [10, 30, 50, 80])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "30", "50", "80"]


def test_keeps_come_in_order_whatever_the_order_of_the_mapping():
    (axes,) = accuracy_against_keep({"random": curve(0, keeps=(0.8, 0.1, 0.5))}).axes
    assert np.allclose(line_of(axes, "random").get_xdata(), [10, 50, 80])


def test_small_keeps_get_a_logarithmic_axis():
    (axes,) = accuracy_against_keep({"random": curve(0, keeps=(0.01, 0.02, 0.05, 0.5))}).axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "5", "50"]


def test_full_data_is_a_horizontal_line_with_a_band():
    full = [0.93, 0.94, 0.95, 0.97]
    (axes,) = accuracy_against_keep({"random": curve(0)}, full=full).axes
    assert np.allclose(line_of(axes, "full data").get_ydata(), 100 * np.mean(full))
    (band,) = axes.patches
    heights = band.get_patch_transform().transform_path(band.get_path()).vertices[:, 1]
    low, high = heights.min(), heights.max()
    assert np.allclose([low, high], np.percentile(100 * np.array(full), [16, 84]))


def test_everything_drawn_lies_within_the_axis():
    curves = {"hardest": {0.1: [0.1, 0.2], 0.9: [0.99, 1.0]}}
    (axes,) = accuracy_against_keep(curves, full=[1.0]).axes
    low, high = axes.get_ylim()
    assert low < 10
    assert high > 100


def test_one_run_has_no_band_and_says_so():
    figure = accuracy_against_keep({"random": curve(0, runs=1)}, full=[0.9])
    assert not figure.axes[0].collections
    assert not figure.axes[0].patches
    assert "one run each" in words_of(figure)


def test_the_number_of_runs_is_written():
    assert "4 runs" in words_of(accuracy_against_keep({"random": curve(0)}))
    mixed = accuracy_against_keep({"random": curve(0), "easiest": curve(1, runs=2)})
    assert "2–4 runs" in words_of(mixed)


def test_a_single_keep_gives_points_with_error_bars():
    values = {"hardest": curve(0, (0.5,)), "random": curve(1, (0.5,))}
    figure = accuracy_against_keep(values, full=[0.9, 0.91])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["hardest", "random"]
    assert "50 % of the training data" in words_of(figure)
    for place, (label, container) in enumerate(zip(values, axes.containers, strict=True)):
        point, _, (bar,) = container.lines
        assert np.allclose(point.get_xydata(), [[place, 100 * values[label][0.5].mean()]])
        expected = np.percentile(100 * values[label][0.5], [16, 84])
        assert np.allclose(bar.get_segments()[0][:, 1], expected)


def test_a_single_keep_with_one_run_has_no_error_bar():
    (axes,) = accuracy_against_keep({"hardest": {0.5: [0.9]}}).axes
    (container,) = axes.containers
    assert not container.has_yerr


def test_a_run_without_a_result_is_left_out():
    (axes,) = accuracy_against_keep({"a": {0.2: [0.5, np.nan], 0.4: [np.nan], 0.6: [0.7]}}).axes
    line = line_of(axes, "a")
    assert np.allclose(line.get_xydata(), [[20, 50], [60, 70]])


def test_a_curve_without_any_result_is_named_as_such():
    curves = {"random": curve(0), "hardest": {0.5: [np.nan]}}
    assert "hardest (no result)" in words_of(accuracy_against_keep(curves))
    (axes,) = accuracy_against_keep({"hardest": {0.5: [np.nan]}, "random": {0.5: [0.5]}}).axes
    assert "no" in axes.get_xticklabels()[0].get_text()


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        ({}, "no curve"),
        ({"hardest": {0.5: [93.1]}}, "93.1"),
        ({"hardest": {0.5: [-0.1]}}, "-0.1"),
        ({"hardest": {50: [0.9]}}, "keep is 50"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(curves, words):
    with pytest.raises(DatadietError, match=words):
        accuracy_against_keep(curves)


def test_the_note_and_the_title_fit_beside_a_single_keep():
    curves = {f"a policy with a long name {place}": {0.5: [0.5 + 0.1 * place]} for place in range(4)}
    figure = accuracy_against_keep(curves, full=[0.9, 0.95], title="A title " * 12)
    boxes = [*boxes_of(figure), figure.axes[0]._left_title.get_window_extent()]
    ticks = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert not overlap([*boxes, *ticks])
    assert inside(figure, [*boxes, *ticks])


DETECTORS = "cifar10: scores at epoch 16 as detectors of 4,490 corrupted labels"
NOTE = "means of 10 runs at epoch 4, where no other is named; higher is harder"


@pytest.mark.parametrize(
    "draw",
    [
        lambda **said: dots({"grand_calibrated (89%)": ([0.9], None), "el2n": ([0.8], None)}, xlabel="x", **said),
        lambda **said: dots({"a score whose name leaves the axes little (89%)": ([0.9], 0.9)}, xlabel="x", **said),
        lambda **said: matrix(np.eye(2), ["grand_calibrated", "forgetting"], **said),
        lambda **said: matrix(np.eye(5), ["grand_calibrated", "forgetting", "a", "b", "c"], **said),
        lambda **said: lines({"a": {1: [0.5]}}, xlabel="x", ylabel="y", **said),
        lambda **said: lines({"a": {1: [0.5]}}, xlabel="x", ylabel="y", **{**said, "title": "WIDE" * 40}),
    ],
)
def test_a_heading_ends_within_the_figure_however_long_the_names_left_of_it(draw):
    figure = draw(title=DETECTORS, note=NOTE)
    axes = figure.axes[0]
    title, (note,) = axes._left_title.get_window_extent(), boxes_of(figure, "note")
    assert inside(figure, [title, note, *(label.get_window_extent() for label in axes.get_yticklabels())])
    assert not overlap([title, note])
    said = axes._left_title.get_text().replace("\n", " ")
    assert said == DETECTORS or said.startswith("WIDEWIDE")
    assert NOTE in words_of(figure)


@pytest.mark.parametrize("mean", [0.0, 0.47, 0.9812, 0.982, 0.9828, 1.0])
def test_a_value_beside_a_point_neither_breaks_the_line_of_the_full_data_nor_is_struck_through(mean):
    curves = {"hardest": {0.5: [mean]}, "easiest": {0.5: [0.9525]}}
    figure = accuracy_against_keep(curves, full=[0.981, 0.983])
    (axes,) = figure.axes
    line, (band,) = line_of(axes, "full data"), axes.patches
    values = [text for text in axes.texts if text.get_gid() == "value"]
    assert [value.get_text() for value in values] == [f"{100 * mean:.2f}", "95.25"], "as in the table"
    figure.draw_without_rendering()
    place = axes.transData.transform((0, line.get_ydata()[0]))[1]
    ticks = [label.get_window_extent() for label in axes.get_xticklabels()]
    for value in values:
        assert value.get_zorder() < min(line.get_zorder(), band.get_zorder())
        box = value.get_window_extent()
        assert box.y0 > place or box.y1 < place
        assert not overlap([box, *ticks])
        assert axes.bbox.y0 < box.y0
        assert box.y1 < axes.bbox.y1


@pytest.mark.parametrize(
    ("xs", "xlabel", "said"),
    [
        ((1, 4), "epoch", "epoch (logarithmic)"),
        ((0, 0.25, 4), "epoch", "epoch (logarithmic from 0.25)"),
        ((1, 4), "epoch (of 20)", "epoch (of 20, logarithmic)"),
    ],
)
def test_an_axis_that_is_not_linear_says_so(xs, xlabel, said):
    curves = {"a": {x: [0.5] for x in xs}}
    assert lines(curves, xlabel=xlabel, ylabel="y", log=True).axes[0].get_xlabel() == said
    assert lines(curves, xlabel=xlabel, ylabel="y").axes[0].get_xlabel() == xlabel


@pytest.mark.parametrize("count", [2, 6, 14])
def test_names_of_curves_do_not_overlap_nor_leave_the_figure(count):
    # All curves end in the same point, which is where labels would lie on each other.
    curves = {f"policy {place} {'with a long name ' * (place % 3)}": curve(0) for place in range(count)}
    figure = accuracy_against_keep(curves, full=[0.92, 0.93], title="A title " * 12)
    boxes = boxes_of(figure)
    assert len(boxes_of(figure, "end label")) == count + 1
    assert not overlap(boxes)
    assert inside(figure, [*boxes, figure.axes[0]._left_title.get_window_extent()])


def test_a_name_with_a_dollar_sign_is_written_as_it_is():
    figure = accuracy_against_keep({"costs $5_x$": curve(0)})
    figure.draw_without_rendering()
    assert "costs $5_x$" in words_of(figure)


def test_a_policy_keeps_its_colour_whatever_stands_beside_it():
    alone = looks(["hardest"])["hardest"]
    assert looks(["random", "easiest", "hardest", "full data"])["hardest"] == alone
    assert looks(["el2n hardest 50%", "random"])["el2n hardest 50%"] == alone


@given(st.lists(st.text("ehardst lnogf2", max_size=12), min_size=1, max_size=12, unique=True))
def test_looks_differ_within_a_figure(labels):
    labels = list(dict.fromkeys(["hardest", "el2n hardest", *labels]))
    found = looks(labels)
    assert list(found) == labels
    assert len(set(found.values())) == len(labels)


def test_a_ramp_has_a_colour_for_each():
    assert len({look.colour for look in ramp(6)}) == 6
    assert len(ramp(1)) == 1


@settings(max_examples=200)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.1)), min_size=1, max_size=10))
def test_labels_are_put_apart_in_their_order(ends):
    wanted, sizes = [end[0] for end in ends], [end[1] for end in ends]
    places = apart(wanted, sizes)
    order = sorted(range(len(ends)), key=lambda k: places[k])
    assert [wanted[k] for k in order] == sorted(wanted)
    for below, above in pairwise(order):
        assert places[above] - places[below] >= (sizes[above] + sizes[below]) / 2 - 1e-9
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)


def test_a_label_with_room_stays_where_its_curve_ends():
    assert apart([0.2, 0.8], [0.1, 0.1]) == pytest.approx([0.2, 0.8])


def grid(runs=4):
    random = np.random.default_rng(3)
    offsets = (0, 0.1, 0.2, 0.4)
    return {keep: {offset: 0.8 + 0.1 * random.random(runs) for offset in offsets} for keep in (0.3, 0.5)}


def test_windows_draw_a_line_and_a_band_for_each_keep():
    cells = grid()
    (axes,) = windows(cells).axes
    assert len(axes.collections) == 2
    for keep, band in zip(cells, axes.collections, strict=True):
        line = line_of(axes, f"keep {100 * keep:g} %")
        assert np.allclose(line.get_xdata(), [0, 10, 20, 40])
        assert np.allclose(line.get_ydata(), [100 * values.mean() for values in cells[keep].values()])
        corners = band.get_paths()[0].vertices
        for offset, values in cells[keep].items():
            at = corners[np.isclose(corners[:, 0], 100 * offset), 1]
            assert np.allclose([at.min(), at.max()], np.percentile(100 * values, [16, 84]))


def test_the_chosen_window_is_ringed():
    cells = grid()
    figure = windows(cells, chosen=(0.5, 0.1))
    ring = line_of(figure.axes[0], "chosen")
    assert np.allclose(ring.get_xydata(), [[10, 100 * cells[0.5][0.1].mean()]])
    assert "keep 50 %, offset 10 %" in words_of(figure)


def test_the_best_window_is_ringed_where_none_is_named():
    cells = grid()
    ring = line_of(windows(cells).axes[0], "chosen")
    best = max(values.mean() for line in cells.values() for values in line.values())
    assert ring.get_ydata()[0] == pytest.approx(100 * best)


def test_baselines_are_horizontal_lines():
    (axes,) = windows(grid(), baselines={"full data": [0.95, 0.96], "random": [0.9]}).axes
    assert np.allclose(line_of(axes, "full data").get_ydata(), 95.5)
    assert np.allclose(line_of(axes, "random").get_ydata(), 90)


def test_one_window_of_one_run_can_be_drawn():
    figure = windows({0.4: {0.1: [0.5]}})
    assert inside(figure, boxes_of(figure))
    assert not figure.axes[0].collections


def test_a_chosen_window_outside_the_grid_is_refused():
    with pytest.raises(DatadietError, match=r"offset 0\.3"):
        windows(grid(), chosen=(0.5, 0.3))
    with pytest.raises(DatadietError, match="no finished window"):
        windows({0.5: {0.1: [np.nan]}})


@pytest.mark.parametrize("deviation", [False, True])
def test_the_band_of_lines_is_what_the_note_says(deviation):
    cells = grid(runs=5)
    figure = lines({"a": cells[0.3]}, xlabel="x", ylabel="y", percent=True, deviation=deviation)
    (axes,) = figure.axes
    corners = axes.collections[0].get_paths()[0].vertices
    for x, values in cells[0.3].items():
        at, given = corners[np.isclose(corners[:, 0], x), 1], 100 * values
        mean = sum(given) / 5
        off = (sum((v - mean) ** 2 for v in given) / 4) ** 0.5
        wanted = [mean - off, mean + off] if deviation else np.percentile(given, [16, 84])
        assert np.allclose([at.min(), at.max()], wanted)
    said = "standard deviation" if deviation else "16th–84th percentile"
    assert f"mean and {said} of 5 runs" in words_of(figure)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: lines({}, flat={"full data": [0.9]}, xlabel="x", ylabel="y"), "no finished run"),
        (lambda: lines({"a": {1: [np.nan]}}, flat={"full data": [0.9]}, xlabel="x", ylabel="y"), "no finished run"),
        (lambda: lines({"a": {1: [1], np.inf: [2]}}, xlabel="x", ylabel="y", log=True), "x = inf"),
        (lambda: lines({"a": {1: [1], np.nan: [2]}}, xlabel="x", ylabel="y"), "x = nan"),
        (lambda: points({"p": ("x", {"a": ([], [])})}, ylabel="y", log=("p",)), "a with 0 x and 0 y"),
        (lambda: points({"p": ("x", {"a": ([1, 2], [1])})}, ylabel="y"), "a with 2 x and 1 y"),
        (lambda: points({"p": ("x", {})}, ylabel="y", log=("p",)), "p has no group"),
        (lambda: matrix(np.zeros((0, 0)), []), "no correlation to draw"),
    ],
)
def test_nothing_to_draw_is_said_in_one_line(draw, words):
    with pytest.raises(DatadietError, match=words) as caught:
        draw()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.08), (0.02, 0.15), (0.004, 0.06), (1e-4, 0.05), (0.3, 0.31)])
def test_ticks_of_a_logarithmic_panel_are_plain_numbers_that_do_not_touch(low, high):
    x = np.geomspace(low, high, 9)
    figure = points({"barrier": ("loss barrier", {"a": (x, np.arange(9.0))})}, ylabel="y", log=("barrier",))
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    ticks = []
    for minor in (False, True):
        ticks += zip(axis.get_ticklocs(minor=minor), axis.get_ticklabels(minor=minor), strict=True)
    left, right = figure.axes[0].get_xlim()
    shown = [text for tick, text in ticks if text.get_text() and left <= tick <= right]
    assert all(float(text.get_text()) > 0 for text in shown), "no formula"
    boxes = sorted(((box := text.get_window_extent()).x0, box.x1) for text in shown)
    assert all(right < left for (_, right), (left, _) in pairwise(boxes))
    assert len(shown) >= 2 or high / low < 2
