"""What a folder of images is taken for: its splits by their names, and what is transparent in a file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from datadiet.data import load


@pytest.mark.parametrize(("train", "test"), [("Training", "Testing"), ("Train", "Test"), ("train", "Test")])
def test_the_split_folders_may_be_written_in_any_case(tmp_path, write_images, train, test):
    write_images(tmp_path / train)
    write_images(tmp_path / test, each=4)
    data = load(tmp_path)
    assert data.classes == ("ant", "bee", "cow")
    assert (len(data), len(data.test)) == (30, 12)


@pytest.mark.parametrize("name", ["Train", "Training"])
def test_a_class_in_capitals_may_hold_folders(tmp_path, write_images, name):
    for one in (name, "Car"):
        write_images(tmp_path / one, classes=("day", "night"))
    write_images(tmp_path, classes=("Bus",))
    assert load(tmp_path).classes == tuple(sorted(("Bus", "Car", name)))


def test_the_usual_spelling_goes_first_and_what_is_not_used_is_named(tmp_path, write_images, caplog):
    write_images(tmp_path / "train")
    write_images(tmp_path / "Train", classes=("x", "y"))
    write_images(tmp_path / "test", each=4)
    write_images(tmp_path / "Test", each=2)
    data = load(tmp_path)
    assert (data.classes, len(data.test)) == (("ant", "bee", "cow"), 12)
    assert "Test is not used" in caplog.text
    assert "Train is not used" in caplog.text


def test_folders_that_look_like_splits_but_are_taken_for_classes_are_named(tmp_path, write_images, caplog):
    for part in ("fold-1", "fold-2"):
        write_images(tmp_path / part)
    assert load(tmp_path).classes == ("fold-1", "fold-2")
    assert "fold-1, fold-2 are taken for the classes, and each holds the same folders (ant, bee, cow)" in caplog.text
    caplog.clear()
    load(write_images(tmp_path / "usual"))
    assert "taken for the classes" not in caplog.text


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_seen_on_white(tmp_path, write_images, mode):
    root = write_images(tmp_path / "icons")
    drawn = Image.new("RGBA", (8, 6), (0, 0, 0, 0))  # black everywhere, and to be seen in one pixel only
    drawn.putpixel((3, 2), (0, 0, 0, 255))
    extra = {"transparency": 0} if mode == "P" else {}
    if mode == "P":
        drawn = drawn.getchannel("A").point(lambda alpha: alpha // 255)
        drawn.putpalette([0, 0, 0] * 2)
    drawn.convert(mode).save(root / "ant" / "000.png", **extra)
    first = load(root, test_fraction=0).train.inputs[0]
    assert first[2, 3].tolist() == [0, 0, 0]
    assert (np.delete(first.reshape(-1, 3), 2 * 8 + 3, axis=0) == 255).all()


@pytest.mark.parametrize("under", [(0, 0, 0), (255, 255, 255)])
def test_white_on_transparent_is_not_made_a_blank_page(tmp_path, write_images, under):
    root = write_images(tmp_path / "glyphs")
    drawn = Image.new("RGBA", (8, 6), (*under, 0))
    drawn.putpixel((3, 2), (255, 255, 255, 255))
    drawn.save(root / "ant" / "000.png")
    first = load(root, test_fraction=0).train.inputs[0]
    assert (first[2, 3] == 255).all()
    assert first.sum() == 3 * 255


def test_what_nobody_sees_of_an_image_is_no_input(tmp_path, write_images):
    root = write_images(tmp_path / "hidden")
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(np.dstack([noise, np.zeros((6, 8, 1), np.uint8)])).save(root / "ant" / "000.png")
    Image.new("RGBA", (8, 6), (255, 0, 0, 128)).save(root / "ant" / "001.png")
    clear, red = load(root, test_fraction=0).train.inputs[:2]
    assert (clear == 255).all()
    assert np.abs(red[0, 0].astype(int) - [255, 127, 127]).max() <= 1


def test_an_alpha_channel_that_hides_nothing_changes_no_colour(tmp_path, write_images):
    plain = load(write_images(tmp_path / "plain"))
    for file in (root := write_images(tmp_path / "opaque")).rglob("*.png"):
        Image.open(file).convert("RGBA").save(file)
    assert (load(root).train.inputs == plain.train.inputs).all()
