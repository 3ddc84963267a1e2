"""Classical methods in place of a model."""

import cv2
import numpy as np
import pytest

from tests.inference.fakes import plane, square
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter

HOLE = square(300, 260, 90, 110, 40) | square(300, 260, 200, 20, 9)
PICTURE = np.random.default_rng(0).integers(0, 255, (300, 260, 3), np.uint8)
PICTURE = cv2.GaussianBlur(PICTURE, (0, 0), 4)


@pytest.mark.parametrize(("name", "flag"), [("telea", cv2.INPAINT_TELEA), ("navier_stokes", cv2.INPAINT_NS)])
def test_the_whole_image_is_filled_as_opencv_fills_it(name, flag):
    expected = cv2.inpaint(np.where(HOLE[..., None], 0, PICTURE).astype(np.uint8), HOLE.astype(np.uint8), 3, flag)
    seen = []
    filled = Inpainter.from_method(name)(PICTURE, HOLE, progress=lambda *numbers: seen.append(numbers))
    assert np.array_equal(filled, expected)
    assert seen[-1] == (HOLE.sum(), HOLE.sum())


def test_biharmonic_is_that_of_scikit_image():
    restoration = pytest.importorskip("skimage.restoration")
    picture, hole = PICTURE[180:260, :100] / np.float32(255), HOLE[180:260, :100]
    expected = restoration.inpaint_biharmonic(np.where(hole[..., None], 0, picture), hole, channel_axis=-1)
    assert np.abs(Inpainter.from_method("biharmonic")(picture, hole) - expected).max() < 1e-4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 4])
def test_known_pixels_stay_bit_by_bit(dtype, channels):
    picture = plane(60, 50, 1, dtype).repeat(channels, axis=-1)
    hole = square(60, 50, 20, 20, 8)
    filled = Inpainter.from_method("telea")(picture, hole, feather=0)
    assert np.array_equal(filled[~hole], picture[~hole])
    assert np.abs(filled[hole].astype(float) - picture[hole]).max() < 0.1 * np.iinfo(dtype).max


def test_an_unknown_method():
    with pytest.raises(WSSLError, match="method=magic: is not one of"):
        Inpainter.from_method("magic")
