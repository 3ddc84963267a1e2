from pathlib import Path

import numpy as np
import pytest

from tests.data.fakes import hole_mask, mask_tree
from wssl_pl.data.masks import Masks, scan_masks, split_masks


@pytest.mark.parametrize("hole", ["black", "white"])
def test_polarity_a_hole_is_one_whichever_brightness_the_file_has(tmp_path: Path, hole: str) -> None:
    root = mask_tree(tmp_path, {"train": [0.4]}, hole=hole)
    scan = scan_masks([root / "train" / "00000_train.png"], 32, hole, (0.3, 0.5))
    assert scan.kept == 1
    np.testing.assert_array_equal(scan.masks.read(np.array([0]))[0, 0], hole_mask(26 / 64, 32))


def test_bounds_are_inclusive_at_the_models_size(tmp_path: Path) -> None:
    root = mask_tree(tmp_path, {"train": [0.25, 0.5, 0.53125, 0.21875]})
    scan = scan_masks(sorted((root / "train").iterdir()), 64, "black", (0.25, 0.5))
    assert scan.kept == 2
    np.testing.assert_allclose(scan.ratios, [0.25, 0.5, 0.53125, 0.21875])
    assert scan.histogram() == "20-30 %: 2, 50-60 %: 2"


def test_counts_what_the_other_polarity_would_keep(tmp_path: Path) -> None:
    root = mask_tree(tmp_path, {"train": [0.625, 0.65625, 0.375]})
    scan = scan_masks(sorted((root / "train").iterdir()), 32, "black", (0.3, 0.5))
    assert (scan.kept, scan.kept_otherwise) == (1, 2)


def test_bits_give_the_masks_back_at_sizes_that_do_not_divide_by_8() -> None:
    arrays = np.random.default_rng(0).integers(0, 2, (5, 13, 13), dtype=np.uint8)
    masks = Masks.from_arrays(arrays)
    assert masks.bits.nbytes == 5 * 22
    np.testing.assert_array_equal(masks.read(np.array([4, 0, 4]))[:, 0], arrays[[4, 0, 4]])


def test_draws_reach_every_mask_evenly() -> None:
    masks = Masks.from_arrays(np.stack([hole_mask(0.25, 8, shift) for shift in range(4)]))
    drawn = masks.draw(np.array([0.0, 0.24, 0.25, 0.5, 0.9999]))
    np.testing.assert_array_equal(drawn, masks.read(np.array([0, 0, 1, 2, 3])))


def test_damaged_masks_are_named(tmp_path: Path) -> None:
    root = mask_tree(tmp_path, {"train": [0.4, 0.4]})
    good, bad = sorted((root / "train").iterdir())
    bad.write_bytes(bad.read_bytes()[:-15])
    scan = scan_masks([good, bad], 32, "black", (0.3, 0.5))
    assert scan.kept == 1
    assert scan.damaged[0][0] == str(bad)
    assert "truncated" in scan.damaged[0][1]


def test_folders_or_a_fixed_part() -> None:
    root = Path("masks")
    folders = [root / "train" / "1.png", root / "test" / "2.png"]
    assert split_masks(root, folders) == ({"train": folders[:1], "test": folders[1:]}, "folders")
    flat = [root / f"{number}.png" for number in range(2000)]
    parts, layout = split_masks(root, flat)
    assert layout == "hash"
    assert len(parts["test"]) == pytest.approx(200, abs=45)
    assert sorted(parts["train"] + parts["test"]) == sorted(flat)
    only_train, layout = split_masks(root, folders[:1])
    assert layout == "hash"
    assert sum(map(len, only_train.values())) == 1


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_folder_of_evaluation_masks_alone_is_for_evaluation(name: str) -> None:
    root = Path("masks")
    files = [root / name / f"{number}.png" for number in range(50)]
    assert split_masks(root, files) == ({"train": [], "test": files}, f"{name} folder alone")


def test_a_val_folder_stands_in_for_test() -> None:
    root = Path("masks")
    files = [root / "train" / "1.png", root / "val" / "2.png"]
    assert split_masks(root, files) == ({"train": files[:1], "test": files[1:]}, "folders")


@pytest.mark.real
def test_real_quick_draw_masks(real_data: Path) -> None:
    files = sorted((real_data / "qd_imd" / "test").iterdir())
    scan = scan_masks(files, 224, "black", (0.3, 0.5))
    assert 0.40 < scan.kept / len(files) < 0.50
    assert scan.kept_otherwise < scan.kept


@pytest.mark.real
def test_wrong_polarity_shows_on_real_nvidia_masks(real_data: Path) -> None:
    files = sorted((real_data / "nvidia_masks").rglob("*.png"))
    wrong, right = (scan_masks(files, 64, hole, (0.3, 0.5)) for hole in ("black", "white"))
    assert wrong.kept_otherwise > wrong.kept
    assert right.kept_otherwise < right.kept
