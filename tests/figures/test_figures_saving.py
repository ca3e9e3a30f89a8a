"""Files of figures: whole, the same bytes each time, and nothing global is touched on the way."""

from __future__ import annotations

import subprocess
import sys
import threading

import matplotlib
import numpy as np
import pytest

from datadiet import figures
from datadiet.errors import DatadietError

VALUES = np.random.default_rng(0).random(200)


def images():
    return np.random.default_rng(1).random((20, 6, 6, 3))


FIGURES = {
    "curves": lambda: figures.accuracy_against_keep({"a": {0.1: [0.5, 0.6], 0.5: [0.8, 0.9]}}, full=[0.9, 1]),
    "points": lambda: figures.accuracy_against_keep({"a": {0.1: [0.5, 0.6]}, "b": {0.1: [0.7]}}),
    "histogram": lambda: figures.score_histogram(VALUES, VALUES > 0.9),
    "histograms": lambda: figures.score_histograms({"a": VALUES, "b": VALUES**2}),
    "gallery": lambda: figures.gallery(images(), np.arange(20) % 2, VALUES[:20], "ab", 2, VALUES[:20] > 0.5),
    "windows": lambda: figures.windows({0.4: {0: [0.5, 0.6], 0.1: [0.6, 0.7]}}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_bytes_are_the_same_for_the_same_figure_made_twice_and_saved_twice(name, tmp_path):
    figure = FIGURES[name]()
    first = [path.read_bytes() for path in figures.save(figure, tmp_path / "a", dpi=60)]
    again = [path.read_bytes() for path in figures.save(figure, tmp_path / "b", dpi=60)]
    anew = [path.read_bytes() for path in figures.save(FIGURES[name](), tmp_path / "c", dpi=60)]
    assert first == again == anew
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]


def test_files_tell_neither_the_time_nor_a_version(tmp_path):
    png, svg = figures.save(FIGURES["points"](), tmp_path / "a")
    assert b"matplotlib" not in png.read_bytes().lower().replace(b"matplotlib.axis", b"")
    text = svg.read_text()
    assert "dc:date" not in text
    assert matplotlib.__version__ not in text


def test_paths_come_back_in_order_and_a_dot_in_the_name_stays(tmp_path):
    paths = figures.save(FIGURES["points"](), tmp_path / "new" / "keep-0.5", formats=("svg", "png"))
    assert [path.name for path in paths] == ["keep-0.5.svg", "keep-0.5.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["keep-0.5.png", "keep-0.5.svg"]


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DatadietError, match="unknown figure format 'bmp'"):
        figures.save(FIGURES["points"](), tmp_path / "a", formats=("png", "bmp"))
    assert not list(tmp_path.iterdir())


def test_the_users_settings_do_not_matter_and_are_left_as_they_were(tmp_path):
    expected = figures.save(FIGURES["curves"](), tmp_path / "a")
    with matplotlib.rc_context({"font.size": 23, "axes.facecolor": "red", "svg.hashsalt": None}):
        before = dict(matplotlib.rcParams)
        found = figures.save(FIGURES["curves"](), tmp_path / "b")
        assert dict(matplotlib.rcParams) == before
    assert [path.read_bytes() for path in expected] == [path.read_bytes() for path in found]


def test_neither_pyplot_nor_a_window_is_needed():
    code = (
        "import sys, datadiet.figures as f\n"
        "assert 'matplotlib' not in sys.modules\n"
        "f.score_histogram([0.1, 0.2, 0.7])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_figures_can_be_made_outside_the_main_thread():
    made = []
    worker = threading.Thread(target=lambda: made.append(FIGURES["points"]()))
    worker.start()
    worker.join()
    assert len(made) == 1


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_smaller_than_nine_points(name):
    figure = FIGURES[name]()
    found = [text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
    assert min(found) >= 9
