import itertools

import kornia
import numpy as np
import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.synthetic import (
    FACE_COUNTS,
    MASK_COUNTS,
    draw_face,
    draw_mask,
    random_stroke,
    synthetic_faces,
    synthetic_masks,
)

SIZE = 64
FACES = 24


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return synthetic_faces("train", SIZE, FACES)


@pytest.fixture(scope="module")
def batch(faces: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255


def saturation(batch: torch.Tensor) -> torch.Tensor:
    return kornia.color.rgb_to_hsv(batch)[:, 1].mean(dim=(1, 2))


@pytest.mark.parametrize("size", [32, 61, 256])
def test_face_shape(size: int) -> None:
    face = draw_face(0, size)
    assert face.shape == (size, size, 3)
    assert face.dtype == np.uint8


def test_faces_are_deterministic_and_leave_global_state_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = draw_face(7, SIZE)
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(draw_face(7, SIZE), first)
    np.random.seed(0)  # noqa: NPY002
    draw_face(7, SIZE)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_seed_is_the_same_face_at_every_size() -> None:
    small, large = draw_face(3, 64).astype(float), draw_face(3, 256).astype(float)
    shrunk = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    other = draw_face(4, 64).astype(float)
    assert np.abs(small - shrunk).mean() < 8 < 30 < np.abs(small - other).mean()


def test_faces_differ(faces: np.ndarray) -> None:
    differences = [np.abs(a.astype(int) - b).mean() for a, b in itertools.combinations(faces, 2)]
    assert min(differences) > 10
    assert np.mean(differences) > 40


def test_splits_share_no_face() -> None:
    seen = {face.tobytes() for split in FACE_COUNTS for face in synthetic_faces(split, 32, 4)}
    assert len(seen) == 4 * len(FACE_COUNTS)


def test_a_larger_count_continues_the_split() -> None:
    np.testing.assert_array_equal(synthetic_faces("val", 32, 3)[:2], synthetic_faces("val", 32, 2))


def test_counts() -> None:
    assert FACE_COUNTS == {"train": 256, "val": 32, "test": 32}
    assert synthetic_faces("test", 32).shape == (32, 32, 32, 3)
    assert synthetic_masks("val", 32).shape == (MASK_COUNTS["val"], 32, 32)


def test_rotation_can_be_told(faces: np.ndarray) -> None:
    # The mean of one half of the faces shows how the others are turned, three times in four.
    pictures = faces.astype(float)
    template = pictures[::2].mean(axis=0)
    turned = np.stack([np.rot90(template, k) for k in range(4)])
    guesses = [np.argmin(np.square(turned - picture).mean(axis=(1, 2, 3))) for picture in pictures[1::2]]
    assert np.mean(np.equal(guesses, 0)) > 0.75


def test_saturation_can_be_told(batch: torch.Tensor) -> None:
    full = saturation(batch)
    faded = saturation(kornia.enhance.adjust_saturation(batch, 0.75))
    assert full.min() > 0.35
    border = (full.mean() + faded.mean()) / 2
    assert (full > border).float().mean() > 0.9
    assert (faded < border).float().mean() > 0.9


@pytest.mark.parametrize("size", [SIZE, 256])
def test_sharpness_can_be_told(size: int) -> None:
    batch = torch.from_numpy(synthetic_faces("train", size, 4)).permute(0, 3, 1, 2).float() / 255
    change = (kornia.enhance.sharpness(batch, 0.0) - batch).abs().mean(dim=(1, 2, 3))
    assert change.min() > 2 / 255


@pytest.mark.parametrize("size", [32, 61, 224])
def test_mask_shape_and_values(size: int) -> None:
    mask = draw_mask(0, size)
    assert mask.shape == (size, size)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    "ratio",
    [(0.3, 0.5), (0.0, 0.05), (0.0, 0.0), (0.5, 0.5), (0.25, 0.2505), (0.9, 1.0), (0.999, 1.0), (1.0, 1.0), (0, 1)],
)
def test_mask_ratio_lies_within_its_bounds(size: int, ratio: tuple[float, float]) -> None:
    low, high = ratio
    for seed in range(8):
        assert low <= draw_mask(seed, size, ratio).mean() <= high


def test_masks_of_a_split_lie_within_the_bounds() -> None:
    ratios = synthetic_masks("train").mean(axis=(1, 2))
    assert ratios.min() >= 0.3
    assert ratios.max() <= 0.5
    assert ratios.std() > 0.03


def test_masks_are_deterministic_and_differ() -> None:
    np.testing.assert_array_equal(draw_mask(5, SIZE), draw_mask(5, SIZE))
    masks = [mask.tobytes() for split in MASK_COUNTS for mask in synthetic_masks(split, SIZE, count=8)]
    assert len(set(masks)) == len(masks)


def test_strokes_are_thick() -> None:
    # Most hole pixels have hole pixels on all four sides, which specks and hairlines have not.
    mask = np.pad(draw_mask(1, 224), 1, mode="edge").astype(bool)
    inside = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    assert inside.sum() > 0.85 * mask[1:-1, 1:-1].sum()


@pytest.mark.parametrize("ratio", [(-0.1, 0.5), (0.5, 0.3), (0.3, 1.1), (float("nan"), 0.5)])
def test_bad_ratio(ratio: tuple[float, float]) -> None:
    with pytest.raises(WSSLError, match="ratio="):
        draw_mask(0, 32, ratio)


def test_ratio_between_two_pixels() -> None:
    with pytest.raises(WSSLError, match="no whole number"):
        draw_mask(0, 32, (0.4, 0.40001))


def test_bad_size_split_and_count() -> None:
    with pytest.raises(WSSLError, match="size=16"):
        draw_face(0, 16)
    with pytest.raises(WSSLError, match="size=16"):
        draw_mask(0, 16)
    with pytest.raises(WSSLError, match="split=dev"):
        synthetic_faces("dev")
    with pytest.raises(WSSLError, match="count=0"):
        synthetic_masks("val", count=0)


def test_a_stroke_stays_in_the_image() -> None:
    for seed in range(20):
        points = random_stroke(np.random.default_rng(seed))
        assert points.ndim == 2
        assert points.min() >= 0
        assert points.max() <= 1
        assert np.hypot(*np.diff(points, axis=0).T).max() < 0.05
