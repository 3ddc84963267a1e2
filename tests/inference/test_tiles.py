import numpy as np
import pytest

from tests.inference.fakes import square
from wssl_pl.inference.tiles import Box, clusters, merged, tight_box, tiles


def random_hole(height, width, seed, share=0.001):
    rng = np.random.default_rng(seed)
    return rng.random((height, width)) < share


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (31, 33), (32, 64), (300, 500), (517, 389)])
def test_the_clusters_hold_every_hole(shape):
    hole = random_hole(*shape, seed=1, share=0.01)
    hole.flat[-1] = True
    found = np.zeros(shape, bool)
    for box in clusters(hole, 32):
        found[box.slices] = True
        assert tight_box(hole, box) == box
    assert (found | ~hole).all()


def test_holes_far_from_each_other_are_clusters_of_their_own():
    hole = square(600, 600, 10, 10, 20) | square(600, 600, 500, 500, 20) | square(600, 600, 10, 60, 20)
    assert clusters(hole, 32) == [Box(10, 10, 30, 80), Box(500, 500, 520, 520)]


def test_boxes_that_meet_are_merged_until_none_do():
    boxes = [Box(0, 0, 10, 10), Box(20, 20, 30, 30), Box(9, 9, 21, 21), Box(40, 0, 50, 10)]
    assert sorted(merged(boxes), key=lambda box: box.top) == [Box(0, 0, 30, 30), Box(40, 0, 50, 10)]
    assert merged([Box(0, 0, 10, 10), Box(10, 0, 20, 10)]) == [Box(0, 0, 10, 10), Box(10, 0, 20, 10)]


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_of_the_hole_is_first_covered_whole_and_then_faded_over(seed):
    hole = random_hole(500, 700, seed) | square(500, 700, 100, 100, 90 * seed)
    shape = hole.shape
    cover = np.zeros(shape)
    for box in clusters(hole, 32):
        for tile in tiles(hole, box, side=160, margin=32, soft=16):
            share = tile.weight(16)
            inside = hole[tile.support.slices]
            # A pixel that a tile fades over was filled before.
            assert (cover[tile.support.slices][inside & (share < 1)] == 1).all()
            cover[tile.support.slices] = np.maximum(cover[tile.support.slices], np.where(inside, share, 0))
            assert tile.window.top <= tile.support.top
            assert tile.window.right >= tile.support.right
    assert (cover[hole] == 1).all()


def test_windows_are_of_real_pixels_and_divide_by_32():
    hole = square(500, 700, 0, 650, 40) | square(500, 700, 460, 3, 11)
    windows = [tile.window for box in clusters(hole, 32) for tile in tiles(hole, box, 160, 32, 16)]
    assert len(windows) > 1
    for window in windows:
        assert window.height % 32 == window.width % 32 == 0
        assert 0 <= window.top < window.bottom <= 500
        assert 0 <= window.left < window.right <= 700
        assert max(window.height, window.width) <= 160


def test_a_window_shows_the_margin_on_every_side():
    hole = square(500, 500, 200, 200, 10)
    (tile,) = tiles(hole, Box(200, 200, 210, 210), 160, 32, 16)
    assert tile.window.top <= 200 - 32
    assert tile.window.bottom >= 210 + 32


def test_an_l_shaped_hole_is_cut_where_that_pays():
    hole = np.zeros((500, 500), bool)
    hole[20:480, 20:24] = hole[476:480, 20:480] = True
    seen = sum(tile.window.area for tile in tiles(hole, Box(20, 20, 480, 480), 512, 32, 16))
    assert seen < 0.5 * 500 * 500
