import numpy as np
import pytest
import torch

from tests.data.fakes import hole_mask
from wssl_pl.data.dataset import RANDOM_NUMBERS, PairedDataset
from wssl_pl.data.draws import uniform
from wssl_pl.data.images import ArrayImages
from wssl_pl.data.masks import Masks

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)
MASKS = Masks.from_arrays(np.stack([hole_mask(0.4, 32, shift) for shift in range(32)]))


def dataset(split: str = "train", seed: int = 0, masks: Masks | None = MASKS) -> PairedDataset:
    return PairedDataset(ArrayImages(IMAGES), masks, split, 40, 32, seed)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("image", "mask", "crop", "random", "index"))


def test_shapes_dtypes_and_ranges() -> None:
    batch = dataset().__getitems__([(0, index) for index in range(20)])
    assert batch["image"].shape == (20, 3, 40, 40)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["mask"].shape == (20, 1, 32, 32)
    assert batch["image"].dtype == batch["mask"].dtype == torch.uint8
    assert batch["index"].dtype == batch["crop"].dtype == torch.int64
    assert batch["crop"].min() >= 0
    assert batch["crop"].max() <= 8
    assert batch["random"].shape == (20, 16)
    assert batch["random"].dtype == torch.int32
    assert 2**23 < batch["random"].max() < 2**24
    np.testing.assert_array_equal(batch["image"].permute(0, 2, 3, 1).numpy(), IMAGES)


def test_crops_reach_both_borders() -> None:
    crop = dataset().__getitems__([(epoch, index) for epoch in range(20) for index in range(20)])["crop"]
    for axis in (0, 1):
        assert set(crop[:, axis].tolist()) == set(range(9))


def test_a_training_sample_depends_on_seed_epoch_and_index_alone() -> None:
    together = dataset().__getitems__([(3, index) for index in (7, 1, 4)])
    alone = dataset()[(3, 4)]
    assert all(torch.equal(alone[key][0], together[key][2]) for key in ("image", "mask", "crop", "random"))
    keys = [(3, index) for index in range(10)]
    assert same(dataset().__getitems__(keys), dataset().__getitems__(keys))
    assert not same(dataset().__getitems__(keys), dataset(seed=1).__getitems__(keys))
    later = dataset().__getitems__([(4, index) for index in range(10)])
    for key in ("mask", "crop", "random"):
        assert not torch.equal(dataset().__getitems__(keys)[key], later[key])


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_pairing_stays_over_epochs(split: str) -> None:
    first, later = (dataset(split).__getitems__([(epoch, index) for index in range(20)]) for epoch in (0, 5))
    assert same(first, later)
    assert (first["crop"] == 4).all()
    assert len(torch.unique(first["mask"].flatten(1), dim=0)) > 8


def test_val_and_test_are_paired_apart() -> None:
    val, test = (dataset(split).__getitems__(list(range(20))) for split in ("val", "test"))
    assert not torch.equal(val["mask"], test["mask"])


def test_without_masks() -> None:
    assert "mask" not in dataset(masks=None)[(0, 0)]
    assert torch.equal(dataset(masks=None)[(0, 0)]["random"], dataset()[(0, 0)]["random"])


def test_crops_and_masks_have_numbers_of_their_own() -> None:
    keys = [(3, index) for index in range(20)]
    batch = dataset(seed=4).__getitems__(keys)
    numbers = uniform(4, "train", 3, np.arange(20), RANDOM_NUMBERS + 3)
    np.testing.assert_array_equal(batch["crop"].numpy(), (numbers[:, -3:-1] * 9).astype(np.int64))
    np.testing.assert_array_equal(batch["mask"].numpy(), MASKS.draw(numbers[:, -1]))
