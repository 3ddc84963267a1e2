"""The hole that strokes of the editor mean."""

import numpy as np
import pytest
from PIL import Image

from wssl_pl.app.strokes import preview_size, read_strokes
from wssl_pl.errors import WSSLError


def layer(path, alpha):
    """A layer as the editor sends it: one colour, and transparent where nothing was painted."""
    pixels = np.zeros((*alpha.shape, 4), np.uint8)
    pixels[alpha > 0] = (255, 0, 140, 0)
    pixels[..., 3] = alpha
    Image.fromarray(pixels).save(path)
    return path


def painted(shape, *boxes, value=255):
    alpha = np.zeros(shape, np.uint8)
    for top, bottom, left, right in boxes:
        alpha[top:bottom, left:right] = value
    return alpha


@pytest.mark.parametrize(
    ("photo", "preview"),
    [((300, 200), (300, 200)), ((3000, 1500), (1024, 512)), ((1, 50_000), (1, 1024)), ((1025, 1024), (1024, 1023))],
)
def test_the_picture_to_paint_on_is_at_most_1024_px(photo, preview):
    assert preview_size(*photo) == preview


@pytest.mark.parametrize("value", [255, 1])
def test_of_the_same_size_every_painted_pixel_is_hole_however_faint(tmp_path, value):
    alpha = painted((40, 60), (5, 9, 10, 30), value=value)
    hole = read_strokes([layer(tmp_path / "a.png", alpha)], 40, 60)
    assert hole.dtype == bool
    assert (hole == (alpha > 0)).all()


def test_the_layers_add_up(tmp_path):
    first, second = painted((40, 60), (5, 9, 10, 30)), painted((40, 60), (20, 30, 0, 4))
    files = [layer(tmp_path / "a.png", first), layer(tmp_path / "b.png", second)]
    assert (read_strokes(files, 40, 60) == (np.maximum(first, second) > 0)).all()


def test_strokes_on_a_small_picture_cover_the_same_part_of_a_large_photo(tmp_path):
    hole = read_strokes([layer(tmp_path / "a.png", painted((64, 96), (16, 32, 24, 72)))], 640, 960)
    expected = painted((640, 960), (160, 320, 240, 720)) > 0
    # The corners are rounded by the interpolation, nothing else differs.
    assert (hole ^ expected).sum() <= 4 * 10
    assert not hole[:160].any()
    assert not hole[:, 720:].any()


def test_a_thin_stroke_on_a_larger_layer_is_not_lost(tmp_path):
    # A screen with three pixels for one may send a larger layer than the photo is.
    hole = read_strokes([layer(tmp_path / "a.png", painted((90, 120), (30, 31, 30, 60)))], 30, 40)
    assert (hole == (painted((30, 40), (10, 11, 10, 20)) > 0)).all()


def test_a_rounded_side_is_the_same_shape(tmp_path):
    assert preview_size(3001, 2003) == (1024, 683)
    assert read_strokes([layer(tmp_path / "a.png", painted((1024, 683), (9, 99, 9, 99)))], 3001, 2003).any()


def opaque(path):
    Image.new("RGB", (60, 40), "white").save(path)


def text(path):
    path.write_text("no picture")


def huge(path):
    # Its header alone is large: it would be refused before it is decoded.
    Image.new("LA", (6000, 4000)).save(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: layer(path, painted((40, 60))), "nothing is painted yet"),
        (lambda path: layer(path, painted((40, 60), (0, 40, 0, 60))), "the whole picture is painted"),
        (lambda path: layer(path, painted((60, 40), (0, 9, 0, 9))), "belong to another photo"),
        (lambda path: layer(path, painted((40, 64), (0, 9, 0, 9))), "belong to another photo"),
        (opaque, "without transparency"),
        (text, "cannot be read"),
        (huge, "6000 x 4000 pixels: too many"),
    ],
)
def test_what_is_no_hole_is_refused_in_one_line(tmp_path, write, message):
    write(tmp_path / "a.png")
    with pytest.raises(WSSLError, match=message) as caught:
        read_strokes([tmp_path / "a.png"], 40, 60)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_no_layer_at_all_is_no_stroke():
    with pytest.raises(WSSLError, match="nothing is painted yet"):
        read_strokes([], 40, 60)
