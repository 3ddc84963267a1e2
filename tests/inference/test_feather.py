"""A soft transition around a hole."""

import numpy as np
import pytest

from tests.inference.fakes import constant, plane, square
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter

HOLE = square(90, 80, 30, 30, 12)
Y, X = np.mgrid[:90, :80]
DISTANCE = np.hypot(np.maximum(np.maximum(30 - Y, Y - 41), 0), np.maximum(np.maximum(30 - X, X - 41), 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_ring_falls_from_the_fill_to_what_was_there(dtype, channels):
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    picture = np.full((90, 80, channels), 0.25 * top).astype(dtype)
    predictor = constant(0.75)
    inpainter = Inpainter(predictor)
    inpainter.tiling = type(inpainter.tiling)(whole=128, radius=99, tile=128, margin=32, seam=0)
    filled = inpainter(picture, HOLE, feather=6)
    assert filled.dtype == dtype
    outside = DISTANCE > 6
    assert np.array_equal(filled[outside], picture[outside])
    weight = (filled[..., 0].astype(float) / top - 0.25) / 0.5
    assert np.allclose(weight[HOLE], 1, atol=0.02)
    by_distance = [weight[(np.round(DISTANCE) == d) & ~outside].mean() for d in range(7)]
    assert np.all(np.diff(by_distance) < 0)
    assert 0 < by_distance[-1] < 0.2
    if channels == 4:
        assert np.array_equal(filled[..., 3], picture[..., 3])


def test_without_it_known_pixels_stay():
    picture = plane(90, 80)
    assert np.array_equal(Inpainter(constant(0.5))(picture, HOLE, feather=0)[~HOLE], picture[~HOLE])


def test_a_ring_that_cannot_be():
    for feather, message in ((-1, "must not be negative"), (200, "reaches all known pixels")):
        with pytest.raises(WSSLError, match=message):
            Inpainter(constant(0.5))(plane(90, 80), HOLE, feather=feather)
