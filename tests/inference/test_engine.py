import math
from dataclasses import replace

import numpy as np
import pytest

from tests.inference.fakes import Fake, constant, draw_plane, plane, square
from wssl_pl.inference.engine import Tiling, fill_images, windows
from wssl_pl.inference.seams import push_pull
from wssl_pl.models import ModelInfo

SMALL = Tiling(whole=64, radius=6.4, tile=128, margin=32, soft=8)


def fill_one(picture, hole, backend, scheme=SMALL):
    return fill_images([picture], [hole], backend, scheme)[0]


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (1, 90), (33, 70), (64, 64), (65, 64), (200, 31), (150, 333)])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_all_of_the_hole_is_filled_and_nothing_else_touched(size, share):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 100, (*size, 3), np.uint8)
    hole = rng.random(size) < share
    hole.flat[0], hole.flat[-1] = True, False
    given = picture.copy()
    filled = fill_one(picture, hole, constant(200 / 255), Tiling(64, 6.4, 128, 32, 8, seam=0))
    assert (filled[hole] == 200).all()
    assert (filled[~hole] == given[~hole]).all()
    assert (picture == given).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [5, 60, 260])
def test_a_plane_is_carried_on_across_tiles_and_scales(dtype, channels, side):
    """The backend is exact on planes, so what is wrong would come from tiles, fading, halving or padding."""
    # Halved four times there are 32 pixels left, so that nothing is padded: a reflected plane is none.
    picture = plane(512, 512, channels, dtype)
    hole = square(512, 512, 71, 90, side)
    wrong = picture.copy()
    wrong[hole] = 0
    backend = Fake(draw_plane)
    filled = fill_one(wrong, hole, backend, Tiling(64, 12.8, 160, 32, 8))
    top = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    error = np.abs(filled.astype(np.float64) - picture) / top
    assert error.max() < 2 / 255
    assert max(max(shape[2:]) for shape in backend.windows) <= 160


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("side", [64, 224, 512, 704, 768, 960, 1024, 1472])
def test_windows_end_whatever_size_a_model_was_trained_at(side, width):
    tiling = Tiling.of(ModelInfo("x", {"width": width}, {"image_size": side}))
    hole = square(side + 300, side + 300, 100, 100, 60) | square(side + 300, side + 300, side - 40, 50, 330)
    full, _ = windows(hole, tiling)
    assert 0 < len(full) < 200
    assert max(max(box.height, box.width) for box in full) <= max(tiling.tile, side)


def test_floats_stay_in_their_range():
    """A corrected seam may lead out of it."""
    white = np.ones((60, 60, 3), np.float32)
    hole = square(60, 60, 20, 20, 20)
    rng = np.random.default_rng(0)
    backend = Fake(lambda images, masks: rng.random(images.shape))
    filled = fill_one(white, hole, backend)
    assert filled.max() == 1.0
    assert filled[hole].min() >= 0.0
    assert (fill_one(1.0 - white, hole, backend)[hole] >= 0.0).all()


def test_a_deep_hole_gets_its_middle_from_a_coarser_scale():
    picture = np.zeros((300, 300, 3), np.uint8)
    hole = square(300, 300, 50, 50, 200)
    scales = []

    def draw(images, masks):
        scales.append(masks.mean())
        # Each coarser scale comes before the finer ones: tell them apart by the order of the calls.
        return np.full_like(images, 0.1 * len(scales))

    filled = fill_one(picture, hole, Fake(draw), Tiling(64, 6.4, 512, 32, 8, seam=0))
    # 100 px to the middle: halved four times to come below 6.4.
    assert len(scales) == 1 + math.ceil(math.log2(100 / 6.4))
    assert filled[150, 150, 0] == pytest.approx(255 * 0.1, abs=1)
    assert filled[51, 150, 0] == pytest.approx(255 * 0.1 * len(scales), abs=1)
    row = filled[150, 49:150, 0].astype(int)
    assert np.abs(np.diff(row[1:])).max() <= 16, "the scales are blended"


@pytest.mark.parametrize(
    ("size", "hole", "scheme"),
    [
        (60, square(60, 60, 5, 5, 5), SMALL),
        (300, square(300, 300, 50, 50, 9) | square(300, 300, 200, 10, 9), SMALL),
        (300, square(300, 300, 50, 50, 200), SMALL),
        (300, square(300, 300, 50, 50, 200), Tiling.of_classical()),
    ],
)
def test_the_windows_are_those_that_the_network_sees(size, hole, scheme):
    backend = constant(0.5)
    fill_one(np.zeros((size, size, 3), np.uint8), hole, backend, scheme)
    full, reduced = windows(hole, scheme)
    seen = [shape[2:] for shape in backend.windows for _ in range(shape[0])]
    # What is reduced is seen before.
    assert [(box.height, box.width) for box in full] == seen[-len(full) :]
    assert bool(reduced) == (len(seen) > len(full))
    covered = np.zeros_like(hole)
    for box in full + reduced:
        covered[box.slices] = True
    assert covered[hole].all()


def test_neighbouring_tiles_fade_into_each_other():
    numbers = iter(range(100))
    backend = Fake(lambda images, masks: np.full_like(images, 0.2 if next(numbers) % 2 else 0.8))
    hole = np.zeros((64, 400), bool)
    hole[30:34, 20:380] = True
    one_by_one = Tiling(64, 6.4, 128, 32, 8, seam=0, batch=1)
    filled = fill_one(np.zeros((64, 400, 3), np.float32), hole, backend, one_by_one)
    assert len(backend.windows) > 3
    row = filled[31, 20:380, 0]
    assert row.min() < 0.25
    assert row.max() > 0.75
    assert np.abs(np.diff(row)).max() < 0.6 * 1.6 / 8


def test_the_work_follows_the_hole_and_not_the_picture():
    seen = []
    for side in (500, 3000):
        backend = constant(0.5)
        fill_one(np.zeros((side, side, 1), np.uint8), square(side, side, 200, 200, 30), backend)
        seen.append(backend.pixels)
    assert seen[1] <= 1.2 * seen[0]
    assert seen[0] < 3 * 128 * 128


def test_a_hole_everywhere_is_not_looked_at_much_more_than_once():
    rng = np.random.default_rng(0)
    hole = rng.random((700, 700)) < 0.3
    backend = constant(0.5)
    fill_one(
        np.zeros((700, 700, 3), np.uint8), hole, backend, Tiling.of(ModelInfo("", {"width": 16}, {"image_size": 128}))
    )
    assert backend.pixels < 1.6 * 700 * 700


def test_small_pictures_of_one_size_go_together_in_batches_of_a_limited_size():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (40, 50, 3), np.uint8) for _ in range(10)]
    holes = [rng.random((40, 50)) < 0.2 for _ in range(10)]
    backend = Fake(draw_plane)
    together = fill_images(pictures, holes, backend, Tiling(64, 6.4, 128, 32, batch=4 * 40 * 50))
    assert [shape[0] for shape in backend.windows] == [4, 4, 2]
    for picture, hole, filled in zip(pictures, holes, together, strict=True):
        assert np.abs(fill_one(picture, hole, Fake(draw_plane)).astype(int) - filled).max() <= 1


def test_what_the_network_gets_wrong_everywhere_is_taken_back():
    """A network whose colours are off by the same in the hole as outside leaves no trace."""
    picture = plane(96, 96)
    hole = square(96, 96, 30, 30, 12)
    off = Fake(lambda images, masks: draw_plane(images, masks) + 0.1)
    assert np.abs(fill_one(picture, hole, off).astype(int) - picture).max() <= 1
    kept = fill_one(picture, hole, off, Tiling(64, 6.4, 128, 32, 8, seam=0))
    assert (kept[hole].astype(int) - picture[hole]).mean() > 20


def test_what_lies_in_the_hole_makes_no_difference_even_if_it_is_no_number():
    picture = plane(100, 100, dtype=np.float32)
    hole = square(100, 100, 40, 40, 8)
    other = picture.copy()
    other[hole] = np.nan
    assert np.array_equal(fill_one(picture, hole, Fake(draw_plane)), fill_one(other, hole, Fake(draw_plane)))


def test_progress_ends_with_all_pixels_and_what_it_raises_ends_the_work():
    picture, hole = plane(300, 300), square(300, 300, 20, 20, 200)
    told = []
    fill_images([picture], [hole], constant(0.5), SMALL, lambda done, total: told.append((done, total)))
    assert told[-1] == (40000, 40000)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) > 10

    def stop(done, total):
        raise KeyboardInterrupt

    backend = constant(0.5)
    with pytest.raises(KeyboardInterrupt):
        fill_images([picture], [hole], backend, SMALL, stop)
    assert len(backend.windows) == 1


def test_the_sizes_follow_the_training():
    assert Tiling.of(ModelInfo("", {"width": 16}, {"image_size": 128})) == Tiling(128, 12.8, 512, 32)
    paper = Tiling.of(ModelInfo(""))
    assert (paper.whole, paper.margin, paper.tile) == (224, 64, 384)


@pytest.mark.parametrize(("stored", "radius"), [
    ({}, 12.8), ({"hole_depth": 0.35}, 44.8), ({"hole_depth": 1.0}, 12.8), ({"hole_depth": "deep"}, 12.8),
])  # fmt: skip
def test_a_file_says_how_deep_a_hole_its_model_fills_at_once(stored, radius):
    info = ModelInfo("model", {}, {"image_size": 128} | stored)
    assert Tiling.of(info).radius == pytest.approx(radius)


@pytest.mark.parametrize(("side", "whole"), [(14, True), (18, False)])
def test_a_small_image_is_seen_whole_unless_its_hole_is_deep(side, whole):
    backend = constant(0.5)
    fill_one(plane(64, 64, 3, np.uint8), square(64, 64, 20, 20, side), backend)
    assert (backend.windows == [(1, 3, 64, 64)]) == whole  # depth 7 and 9, of 1.25 x 6.4


def test_what_is_reduced_has_a_margin_at_its_smallest_size():
    hole = square(1024, 1024, 400, 400, 100)
    _, (reduced,) = windows(hole, SMALL)
    levels = math.ceil(math.log2(50 / SMALL.radius))
    assert 400 - reduced.top >= (SMALL.margin - 1) * 2**levels


def test_a_seam_s_error_is_the_mean_nearby_where_enough_is_known():
    """Where a tenth of the neighbourhood is known, far pixels have no say."""
    known = np.zeros((64, 64), np.float32)
    known[:, :8] = known[:, -8:] = 1
    error = np.where(np.arange(64) < 32, 0.0, 1.0).astype(np.float32)[None, None] * known[None]
    extended = push_pull(np.broadcast_to(error, (1, 64, 64)).copy(), known, sigma=4.0)
    assert extended[0, :, 9].max() < 1e-3
    assert extended[0, :, -10].min() > 1 - 1e-3
    assert 0.3 < extended[0, 32, 31] < 0.7


@pytest.mark.parametrize("scheme", [SMALL, Tiling.of_classical()])
@pytest.mark.parametrize("side", [60, 300])
@pytest.mark.parametrize("feather", [0, 3])
def test_invisible_pixels_around_a_hole_are_not_known(scheme, side, feather):
    """A cut-out on black, and a hole over its rim."""
    picture = plane(side, side)
    invisible = np.mgrid[:side, :side][1] > side // 2
    hole = square(side, side, side // 2 - 8, side // 2 - 8, 16)
    given = np.where((invisible | hole)[..., None], 0, picture).astype(np.uint8)
    (filled,) = fill_images([given], [hole], Fake(draw_plane), scheme, feather=feather, invisible=[invisible])
    assert np.abs(filled[hole].astype(int) - picture[hole]).max() <= 2
    ring = square(side, side, side // 2 - 8 - feather, side // 2 - 8 - feather, 16 + 2 * feather)
    assert np.array_equal(filled[~ring], given[~ring])


def test_the_invisible_pixels_far_from_a_hole_take_no_time():
    pixels, hole = [], square(2000, 2000, 900, 990, 20)
    for invisible in (None, [np.mgrid[:2000, :2000][1] > 1000]):
        backend = constant(0.5)
        fill_images([np.zeros((2000, 2000, 3), np.uint8)], [hole], backend, SMALL, invisible=invisible)
        pixels.append(backend.pixels)
    assert pixels[1] < 10 * pixels[0]


def test_windows_with_invisible_pixels_are_those_that_the_model_looks_at():
    invisible, hole = np.mgrid[:300, :300][1] > 150, square(300, 300, 140, 140, 16)
    backend, scheme = constant(0.5), replace(SMALL, radius=200, batch=1)
    fill_images([plane(300, 300)], [hole], backend, scheme, invisible=[invisible])
    full, _ = windows(hole, scheme, invisible)
    assert sorted((box.height, box.width) for box in full) == sorted(shape[2:] for shape in backend.windows)
    assert all(box.top > 30 and box.left > 30 for box in full)


def test_where_nothing_is_visible_the_colours_count():
    picture, hole = plane(60, 60), square(60, 60, 20, 20, 9)
    (filled,) = fill_images([picture], [hole], Fake(draw_plane), SMALL, invisible=[np.ones((60, 60), bool)])
    assert np.abs(filled.astype(int) - picture).max() <= 1


def test_progress_with_invisible_pixels_counts_the_hole():
    seen = []
    invisible, hole = np.mgrid[:300, :300][1] > 150, square(300, 300, 140, 140, 20)
    fill_images([plane(300, 300)], [hole], constant(0.5), SMALL, lambda *each: seen.append(each), invisible=[invisible])
    assert seen[-1] == (400, 400)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
