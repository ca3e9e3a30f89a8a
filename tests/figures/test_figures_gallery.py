"""The gallery shows the right pictures at the right places, and loads no others."""

from __future__ import annotations

import numpy as np
import pytest

from datadiet.errors import DatadietError
from datadiet.figures import gallery
from datadiet.figures.gallery import pixel_range

RANDOM = np.random.default_rng(0)


def texts(figure, gid):
    return [text.get_text() for text in figure.axes[0].texts if text.get_gid() == gid]


def frames(figure):
    return [patch for patch in figure.axes[0].patches if patch.get_gid() == "frame"]


def numbered(count, shape=(4, 4, 1)):
    """Images of which each is told by its first pixel."""
    images = np.zeros((count, *shape), dtype=np.uint8)
    images[:, 0, 0] = np.arange(count)[:, None] + 1
    images[:, -1, -1] = 255
    return images


def shown(figure):
    """The numbers of the images of each row, from left to right."""
    rows: dict[float, list[tuple[float, int]]] = {}
    for image in figure.axes[0].images:
        left, _, _, top = image.get_extent()
        pixel = np.asarray(image.get_array())[0, 0]
        rows.setdefault(round(top, 3), []).append((left, round(float(np.max(pixel)) * 255) - 1))
    return [[number for _, number in sorted(row)] for _, row in sorted(rows.items())]


def test_each_row_ascends_from_the_lowest_to_the_highest_of_its_class():
    labels, scores = np.arange(60) % 3, RANDOM.permutation(60) / 60
    figure = gallery(numbered(60), labels, scores, ["a", "b", "c"], per_class=4)
    for number, row in enumerate(shown(figure)):
        members = np.flatnonzero(labels == number)
        ordered = members[np.argsort(scores[members])]
        assert row == [*ordered[:4], *ordered[-4:]]
    assert texts(figure, "class") == ["a", "b", "c"]


def test_scores_stand_beneath_their_pictures():
    figure = gallery(numbered(4), [0] * 4, [0.5, 0.25, 1.25, 3.14159], ["a"], per_class=2)
    assert texts(figure, "value") == ["0.250", "0.500", "1.25", "3.14"]
    figure = gallery(numbered(4), [0] * 4, [3, 1, 2, 12], ["a"], per_class=2)
    assert texts(figure, "value") == ["1", "2", "3", "12"]


def test_only_the_shown_rows_are_loaded():
    images, asked = numbered(100), []

    def gather(indices):
        asked.append(indices)
        return images[indices]

    labels, scores = np.arange(100) % 2, np.arange(100.0)
    figure = gallery(gather, labels, scores, ["a", "b"], per_class=2)
    assert [call.tolist() for call in asked] == [[0, 1, 2, 3, 96, 97, 98, 99]]
    assert shown(figure) == shown(gallery(images, labels, scores, ["a", "b"], per_class=2))


def test_a_small_class_shows_each_example_once():
    labels = [0, 0, 0, 1]
    figure = gallery(numbered(4), labels, [3.0, 1.0, 2.0, 5.0], ["a", "b", "empty"], per_class=4)
    assert shown(figure) == [[1, 2, 0], [3]]
    assert "no example with a score" in texts(figure, None)


def test_examples_without_a_score_are_left_out():
    figure = gallery(numbered(4), [0] * 4, [1.5, np.nan, 0.5, np.inf], ["a"], per_class=2)
    assert shown(figure) == [[2, 0]]


def test_no_score_at_all_is_still_a_figure():
    figure = gallery(numbered(3), [0] * 3, [np.nan] * 3, ["a"])
    assert not figure.axes[0].images


def test_constant_scores_are_shown():
    figure = gallery(numbered(9), [0] * 9, [0.5] * 9, ["a"], per_class=2)
    ((*rows,),) = shown(figure)
    assert len({*rows} & {*range(9)}) == 4
    assert rows != sorted(rows), "files are often sorted: ties are not by row"


def test_corrupted_labels_are_framed_with_the_label_given():
    corrupted = np.array([False, True, False, True])
    figure = gallery(numbered(4), [1, 1, 0, 0], np.arange(4.0), ["cat", "dog"], 1, corrupted)
    assert len(frames(figure)) == 2
    assert texts(figure, "given") == ["cat", "dog"]
    assert len(texts(figure, "key")) == 1
    figure = gallery(numbered(4), [1, 1, 0, 0], np.arange(4.0), ["cat", "dog"], 1, corrupted, original=[1, 0, 0, 1])
    assert texts(figure, "given") == ["cat\n(dog)", "dog\n(cat)"]


def test_clean_labels_have_no_frame_and_no_key():
    figure = gallery(numbered(4), [0] * 4, np.arange(4.0), ["cat"], corrupted=np.zeros(4, dtype=bool))
    assert not frames(figure)
    assert not texts(figure, "key")


def test_of_a_hundred_classes_the_first_ten_are_shown_and_that_is_said():
    figure = gallery(numbered(200), np.arange(200) % 100, np.arange(200.0), [str(k) for k in range(100)])
    assert texts(figure, "class") == [str(k) for k in range(10)]
    assert "first 10 of 100 classes" in texts(figure, "title")[0].replace("\n", " ")


@pytest.mark.parametrize(("channels", "kind"), [(1, 2), (2, 2), (3, 3), (4, 3), (7, 3)])
def test_any_number_of_channels_is_shown(channels, kind):
    images = RANDOM.random((6, 5, 7, channels))
    images[0, 0, 0] = 1.0
    figure = gallery(images, [0] * 6, np.arange(6.0), ["a"], per_class=3)
    arrays = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    assert all(array.ndim == kind for array in arrays)
    expected = images[..., 0] if kind == 2 else images[..., :3]
    assert np.allclose(np.stack(arrays), expected)


def test_digits_are_scaled_to_their_range():
    images = RANDOM.integers(0, 17, (6, 8, 8, 1)).astype(np.float32)
    images[0, 0, 0] = 16
    figure = gallery(images, [0] * 6, np.arange(6.0), ["a"], per_class=3)
    assert np.allclose(np.asarray(figure.axes[0].images[2].get_array()), images[2, ..., 0] / 16)


def test_the_pixel_range_is_the_usual_one_where_there_is_one():
    assert pixel_range(np.array([0.0, 0.9])) == (0, 1)
    assert pixel_range(np.array([3, 200], dtype=np.uint8)) == (0, 255)
    assert pixel_range(np.array([0.0, 16.0])) == (0, 16)
    assert pixel_range(np.array([-2.0, 2.0, np.nan])) == (-2, 2)
    assert pixel_range(np.zeros(3)) == (0, 1)


def test_pictures_keep_their_proportions_and_upright():
    figure = gallery(numbered(2, (4, 8, 3)), [0, 0], [0.5, 1.5], ["a"], per_class=1)
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(2)
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the axis points down, so the first pixel row is at the top
    assert figure.axes[0].images[0].get_interpolation() == "nearest"


@pytest.mark.parametrize("per_class", [1, 2, 4])
def test_texts_neither_overlap_nor_leave_the_figure(per_class):
    classes = ["automobile", "airplane", "aquarium_fish_of_some_kind"]
    labels, original = np.arange(90) % 3, (np.arange(90) + 1) % 3
    figure = gallery(
        numbered(90, (8, 8, 3)), labels, RANDOM.random(90) / 1e5, classes, per_class, np.ones(90, dtype=bool),
        original=original, name="forgetting",
    )  # fmt: skip
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for place, a in enumerate(boxes):
        assert a.x0 >= 0
        assert a.y0 >= 0
        assert a.x1 <= figure.bbox.width
        assert a.y1 <= figure.bbox.height
        for b in boxes[place + 1 :]:
            assert min(a.x1, b.x1) - max(a.x0, b.x0) <= 1 or min(a.y1, b.y1) - max(a.y0, b.y0) <= 1


@pytest.mark.parametrize("per_class", [1, 4])
def test_a_long_title_of_wide_letters_ends_within_the_figure(per_class):
    said = "WIDE_NAME" * 12
    figure = gallery(numbered(8), [0] * 8, np.arange(8.0), ["a"], per_class, title=said)
    figure.draw_without_rendering()
    (title,) = (text for text in figure.axes[0].texts if text.get_gid() == "title")
    (block, _) = (text for text in figure.axes[0].texts if text.get_gid() == "block")
    assert title.get_text().replace("\n", "") == said
    assert title.get_window_extent().x1 <= figure.bbox.width
    assert title.get_window_extent().y0 >= block.get_window_extent().y1


@pytest.mark.parametrize(
    "name",
    ["a cat that was photographed at night with a flash, %s", "pets_and_other-animals_at_night-with_a_flash_2024(%s)"],
)
def test_names_that_are_too_long_keep_their_beginning_and_their_end(name):
    classes = [name % "v1", name % "v2", "German short-haired pointer"]
    labels = np.arange(30) % 3
    figure = gallery(
        numbered(30), labels, np.arange(30.0), classes, 1, np.ones(30, dtype=bool), original=(labels + 1) % 3
    )
    rows = texts(figure, "class")
    for shown, full in zip(rows[:2], classes, strict=False):
        first, last = shown.replace("\n", "").replace(" ", "").split("…")
        assert full.replace(" ", "").startswith(first)
        assert full.replace(" ", "").endswith(last)
        assert min(len(first), len(last)) > 8
    assert rows[2].replace("short-\n", "short-").replace("\n", " ") == classes[2], "what has room is whole"
    assert len({*rows}) == 3
    assert len({*texts(figure, "given")}) == 3
    assert all(shown.count("\n") <= 2 for shown in rows)


def test_a_class_without_a_name_is_no_ellipsis():
    assert texts(gallery(numbered(4), [0] * 4, np.arange(4.0), [""], 1), "class") == [""]


def test_what_does_not_fit_together_is_refused_in_words():
    images, scores = numbered(3), np.arange(3.0)
    with pytest.raises(DatadietError, match="labels from 0 to 2 for 2 classes"):
        gallery(images, [0, 1, 2], scores, ["a", "b"])
    with pytest.raises(DatadietError, match="scores of shape"):
        gallery(images, [0, 1], scores, ["a", "b"])
    with pytest.raises(DatadietError, match="corrupted of shape"):
        gallery(images, [0, 1, 1], scores, ["a", "b"], corrupted=[True])
    with pytest.raises(DatadietError, match="per_class is 0"):
        gallery(images, [0, 1, 1], scores, ["a", "b"], per_class=0)
    with pytest.raises(DatadietError, match="images of shape"):
        gallery(np.zeros((3, 5)), [0, 0, 0], scores, ["a"])


def test_equal_scores_are_ordered_as_a_selection_orders_them():
    from datadiet.selection.order import ascending

    labels, scores = np.zeros(60, int), np.zeros(60)
    orders = {}
    for fingerprint in ("one", "another"):
        order = ascending(scores, fingerprint, np.arange(60))
        figure = gallery(numbered(60), labels, scores, ["a"], per_class=4, fingerprint=fingerprint)
        assert shown(figure) == [[*order[:4], *order[-4:]]]
        orders[fingerprint] = order.tolist()
    assert orders["one"] != orders["another"]
