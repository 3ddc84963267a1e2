"""Damages of whole images of any size."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.inference.fakes import Fake, constant, plane, square
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter
from wssl_pl.inference.engine import Tiling

TILING = Tiling(whole=64, radius=8, tile=128, margin=16, soft=8)
PICTURE = np.random.default_rng(0).integers(0, 255, (300, 250, 3), np.uint8)


def restoring(draw):
    """Calls a function in place of a network that was trained to restore."""
    fake = Fake(draw, side=64)
    fake.info = replace(fake.info, hyper_parameters={"width": 16, "restore": ["saturation"]})
    return Inpainter(fake, TILING)


def blurred(images, masks):
    """A network that sees 7 pixels around each, as tiles with a margin of 16 must not notice."""
    return np.stack([cv2.GaussianBlur(image.transpose(1, 2, 0), (15, 15), 3).transpose(2, 0, 1) for image in images])


def test_tiles_give_what_the_whole_image_gives():
    inpainter = restoring(blurred)
    expected = cv2.GaussianBlur(PICTURE.astype(np.float32), (15, 15), 3)
    restored = inpainter.restore(PICTURE)
    assert len(inpainter.predictor.windows) > 4
    assert np.abs(restored.astype(float) - expected).max() <= 1.01  # rounded where tiles fade


def test_no_seam_shows_between_tiles_of_different_tints():
    """A network that draws each tile in a tint of its own: what differs most from pixel to pixel is a soft fade."""
    tints = iter(np.tile([0.3, 0.7], 99))
    inpainter = restoring(lambda images, masks: np.full_like(images, next(tints)))
    restored = inpainter.restore(np.zeros((300, 250, 3), np.float32))[..., 0]
    steps = max(np.abs(np.diff(restored, axis=axis)).max() for axis in (0, 1))
    assert 0.3 <= restored.min() < restored.max() <= 0.7
    assert steps < 0.4 * 1.6 / TILING.margin


@pytest.mark.parametrize("shape", [(1, 1), (40, 900), (128, 129), (500, 131)])
def test_all_of_an_image_is_restored_and_no_window_is_larger_than_a_tile(shape):
    inpainter = restoring(lambda images, masks: np.full_like(images, 1.0))
    assert (inpainter.restore(np.zeros((*shape, 3), np.uint8)) == 255).all()
    assert max(max(window[2:]) for window in inpainter.predictor.windows) <= TILING.tile


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_hole_is_filled_from_what_was_restored(dtype):
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    hole, seen = square(200, 190, 60, 60, 50), []
    inpainter = restoring(lambda images, masks: np.where(images > 0, np.minimum(1, images + 0.25), 0.5))
    picture = np.full((200, 190, 3), 0.25 * top).astype(dtype)
    restored = inpainter.restore(picture, hole, progress=lambda *numbers: seen.append(numbers))
    assert np.allclose(restored[~hole] / top, 0.5, atol=0.01)
    assert np.allclose(restored[hole] / top, 0.5, atol=0.3)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (hole.size + hole.sum(),) * 2


def test_alpha_and_lists(monkeypatch):
    inpainter = restoring(lambda images, masks: images * 0 + 1)
    picture = plane(40, 50, 3)
    alpha = np.dstack([picture, np.arange(50, dtype=np.uint8)[None].repeat(40, 0)])
    first, second = inpainter.restore([picture, alpha])
    assert (first == 255).all()
    assert (second[:, 1:, :3] == 255).all()
    assert np.array_equal(second[:, 0], alpha[:, 0])  # wholly transparent
    assert np.array_equal(second[..., 3], alpha[..., 3])


def test_a_model_that_restores_nothing():
    with pytest.raises(WSSLError, match="ckpt=fake: fills holes and restores nothing: give one that was trained with"):
        Inpainter(constant(0.5)).restore(PICTURE)


def test_the_model_does_not_see_the_colours_of_invisible_pixels():
    inpainter = restoring(lambda images, masks: blurred(images, masks) + 0.2 * masks)
    image = np.dstack([np.full((150, 140, 3), 200, np.uint8), np.full((150, 140), 255, np.uint8)])
    image[60:90, 50:90] = 0
    other = image.copy()
    other[60:90, 50:90, :3] = 90
    first, second = inpainter.restore(image), inpainter.restore(other)
    visible = image[..., 3] > 0
    assert np.array_equal(first[visible], second[visible])
    assert np.array_equal(first[~visible], image[~visible])
