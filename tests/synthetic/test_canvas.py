import colorsys

import numpy as np
import pytest

from wssl_pl.synthetic.canvas import Canvas, curve, ellipse, hsv

WHITE = (255, 255, 255)


def black(side: int = 64) -> Canvas:
    return Canvas(np.zeros((side, side, 3), np.uint8), 0.5, 0.5, 0.25)


def test_a_disc_has_the_area_of_a_circle_and_smooth_edges() -> None:
    canvas = black(200)
    canvas.fill(ellipse((0, 0), (1, 1), count=100), WHITE)
    assert canvas.pixels.sum() / 255 / 3 == pytest.approx(np.pi * 50**2, rel=0.03)
    assert len(np.unique(canvas.pixels)) > 10


def test_a_tilt_is_clockwise() -> None:
    canvas = Canvas(np.zeros((64, 64, 3), np.uint8), 0.5, 0.5, 0.4, np.pi / 2)
    canvas.line([(0, 0), (1, 0)], WHITE, 0.01)
    assert canvas.pixels[40:50, 32].any()
    assert not canvas.pixels[:24].any()


def test_a_glow_is_strongest_in_its_middle_and_may_extend_beyond_the_image() -> None:
    canvas = black()
    canvas.glow(0, 0, 1, 1, (510, 255, 0), 0.5)
    assert canvas.pixels[32, 32].tolist() == pytest.approx([127, 127, 0], abs=2)
    assert not canvas.pixels[0].any()
    for place in ((2, 2), (-2, 0), (9, 9)):
        canvas.glow(*place, 1, 1, WHITE, 1)
    assert canvas.pixels[63, 63, 0] > 200


def test_only_what_is_inside_is_kept() -> None:
    canvas = black()
    with canvas.inside([(-1, -1), (1, -1), (1, 1), (-1, 1)], (100, 0, 0)) as layer:
        layer.line([(-2, 0), (2, 0)], WHITE, 0.1)
    assert canvas.pixels[32, 32].tolist() == [255, 255, 255]
    assert canvas.pixels[24, 32].tolist() == [100, 0, 0]
    assert not canvas.pixels[32, :14].any()


def test_one_color_for_each_shape() -> None:
    canvas = black()
    canvas.fill(ellipse(([-1, 1], 0), (0.5, 0.5)), [(255, 0, 0), (0, 0, 255)])
    assert canvas.pixels[32, 16].tolist() == [255, 0, 0]
    assert canvas.pixels[32, 48].tolist() == [0, 0, 255]


def test_curves_start_and_end_at_their_control_points() -> None:
    many = curve((np.array([0, 1]), 0), (5, 5), (2, np.array([3, 4])), count=7)
    assert many.shape == (2, 7, 2)
    np.testing.assert_allclose(many[:, [0, -1]], [[[0, 0], [2, 3]], [[1, 0], [2, 4]]])


def test_hues_repeat_after_a_turn() -> None:
    np.testing.assert_allclose(hsv(1.3, 0.4, 0.8), 255 * np.array(colorsys.hsv_to_rgb(0.3, 0.4, 0.8)))
    np.testing.assert_allclose(hsv(-0.7, 0.4, 0.8), hsv(0.3, 0.4, 0.8))
