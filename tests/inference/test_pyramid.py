import numpy as np
import pytest

from tests.inference.fakes import plane, square
from wssl_pl.inference import pyramid
from wssl_pl.inference.seams import correct_seam, push_pull


def halve_by_hand(picture, hole):
    height, width, channels = picture.shape
    small = np.zeros((-(-height // 2), -(-width // 2), channels))
    holes = np.ones(small.shape[:2], bool)
    for y, x in np.ndindex(*holes.shape):
        part = picture[2 * y : 2 * y + 2, 2 * x : 2 * x + 2][~hole[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]]
        if len(part):
            small[y, x], holes[y, x] = part.mean(axis=0) / 255, False
    return small, holes


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (8, 6), (9, 7)])
@pytest.mark.parametrize("strip", [2, 256])
def test_half_the_size_is_the_mean_of_the_known_pixels(size, strip, monkeypatch):
    monkeypatch.setattr(pyramid, "STRIP", strip)
    rng = np.random.default_rng(0)
    picture, hole = rng.integers(0, 256, (*size, 3), np.uint8), rng.random(size) < 0.6
    small, holes = pyramid.halve(picture, hole)
    expected, expected_holes = halve_by_hand(picture, hole)
    assert np.array_equal(holes, expected_holes)
    assert np.allclose(small, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 5), (8, 6), (41, 67)])
@pytest.mark.parametrize("strip", [4, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_back_to_the_size_only_in_the_hole(size, strip, channels, monkeypatch):
    monkeypatch.setattr(pyramid, "STRIP", strip)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*size, channels), np.uint8)
    hole = rng.random(size) < 0.4
    small = rng.random((-(-size[0] // 2), -(-size[1] // 2), channels), np.float32)
    pixels, whole = picture.copy(), picture.copy()
    pyramid.paste(small, pixels, hole)
    assert np.array_equal(pixels[~hole], picture[~hole])
    monkeypatch.setattr(pyramid, "STRIP", 256)
    pyramid.paste(small, whole, np.ones(size, bool))
    assert np.array_equal(pixels[hole], whole[hole])


def test_a_plane_comes_back_from_half_the_size():
    picture = plane(60, 80)
    small, _ = pyramid.halve(picture, np.zeros((60, 80), bool))
    again = np.zeros_like(picture)
    pyramid.paste(small, again, square(60, 80, 2, 2, 56))
    assert np.abs(again[2:58, 2:58].astype(int) - picture[2:58, 2:58]).max() <= 1


def test_floats_and_16_bit_keep_their_range():
    values = np.array([[[-0.1], [0.5], [1.2]]], np.float32)
    assert pyramid.to_dtype(values, np.dtype(np.uint16)).ravel().tolist() == [0, 32768, 65535]
    assert pyramid.to_dtype(values, np.dtype(np.float32)).ravel().tolist() == values.ravel().tolist()


def test_known_values_are_spread_into_what_is_unknown():
    known = np.ones((64, 96), np.float32)
    known[10:50, 20:70] = 0
    values = np.stack([0.3 * known, -0.2 * known])
    everywhere = push_pull(values, known, 2.0)
    assert np.allclose(everywhere[0], 0.3, atol=1e-3)
    assert np.allclose(everywhere[1], -0.2, atol=1e-3)


def test_the_nearer_side_counts_more():
    known = np.ones((64, 128), np.float32)
    known[:, 30:98] = 0
    values = np.where(np.arange(128) < 64, 0.1, 0.9) * known
    row = push_pull(values[None].astype(np.float32), known, 2.0)[0, 32]
    assert row[32] < 0.2
    assert row[95] > 0.8
    assert np.all(np.diff(row) > -0.02)


def test_an_output_without_error_stays():
    picture = np.random.default_rng(0).random((3, 40, 50), np.float32)
    mask = square(40, 50, 5, 5, 20).astype(np.float32)
    assert np.allclose(correct_seam(picture, picture, mask, 2.0), picture, atol=1e-6)
