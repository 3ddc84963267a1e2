import sys
from collections import Counter

import numpy as np
import pytest
import shipped_data
import where_data
from PIL import Image

from tests.data.fakes import image_tree, mask_tree
from wssl_pl.data import WSSLDataModule
from wssl_pl.evaluation.pairs import Pairs


def test_the_study_s_data_from_folders_of_images(tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "where"
    image_tree(data / "celeba_hq", {"train": 6, "val": 2, "test": 8})
    image_tree(data / "utkface", {"": 22})
    mask_tree(data / "qd_imd", {"train": [0.4, 0.35], "test": [0.4, 0.45]})
    mask_tree(data / "nvidia_masks", {"": [0.4, 0.1, 0.35]}, hole="white")
    monkeypatch.setattr(where_data, "COUNT", 4)
    monkeypatch.setattr(sys, "argv", ["where_data.py", str(data), "--out", str(out)])
    where_data.main()
    module = WSSLDataModule(str(out / "pool"), str(out / "masks"), image_size=64, resize=72)
    module.setup("fit")
    assert module.describe()["images"]["train"] == 6 + 22 - 3
    plain, damaged = (Pairs.open(out / f"out_of_domain{end}") for end in ("", "_damaged"))
    counts = Counter(pair.name.rpartition("-")[0] for pair in plain.pairs)
    assert counts == {name: 3 if name == "utkface" else 4 for name in counts}
    assert list(counts) == [
        "own", "utkface", "nvidia_masks", "boxes", "turned", "synthetic", "grey", "blurred", "noisy", "jpeg"
    ]  # fmt: skip
    assert all(0.29 < pair.ratio < 0.51 for pair in plain.pairs)
    assert damaged.manifest.restore == where_data.RESTORE
    by_name = {pair.name: pair for pair in damaged.pairs}
    assert by_name["grey-00001"].image_sha256 == by_name["own-00001"].image_sha256  # the truth
    assert by_name["grey-00001"].input_sha256 != by_name["own-00001"].input_sha256
    strengths = damaged.strengths
    assert strengths["grey-00001"] == strengths["own-00001"]
    again = plain.manifest.hash
    (out / "pool" / "manifest.json").unlink()  # as an interrupted call leaves it
    where_data.main()
    assert (out / "pool" / "manifest.json").is_file()
    assert Pairs.open(out / "out_of_domain").manifest.hash == again


def test_masks_of_an_interrupted_call_are_drawn_again(tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "shipped"
    image_tree(data / "celeba_hq", {"train": 2, "val": 2, "test": 2})
    mask_tree(data / "qd_imd", {"train": [0.4] * 201})
    words = [str(data), "--out", str(out), "--masks=6", "--size=40", "--celeba"]
    monkeypatch.setattr(sys, "argv", ["shipped_data.py", *words])
    draw, lose = shipped_data.draw, lambda *args, **options: iter(())

    def interrupted(*args, **options):
        yield from list(draw(*args, **options))[:3]
        raise KeyboardInterrupt

    monkeypatch.setattr(shipped_data, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shipped_data.main()
    monkeypatch.setattr(shipped_data, "draw", draw)
    shipped_data.main()
    assert {folder.name: len(list(folder.iterdir())) for folder in (out / "masks").iterdir()} == {
        "train": 6,
        "test": 200,
    }
    monkeypatch.setattr(shipped_data, "draw", lose)
    shipped_data.main()  # nothing is drawn again
    assert len(list((out / "masks" / "train").iterdir())) == 6


@pytest.mark.parametrize("name", list(where_data.LOSSES))
def test_a_loss_is_the_same_every_time_and_changes_the_image(name):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    one, two = (where_data.LOSSES[name](image, 3) for _ in range(2))
    assert one.shape == image.shape
    assert one.dtype == np.uint8
    assert (one == two).all()
    assert (one != image).any()
    if name == "grey":
        assert (one[..., 0] == one[..., 2]).all()


def test_a_box_has_a_part_of_the_image_that_the_study_s_masks_have():
    ratios = [where_data.box(number).mean() for number in range(200)]
    assert 0.29 < min(ratios) < 0.32
    assert 0.48 < max(ratios) < 0.51
    assert Image.fromarray(where_data.box(0)).size == (64, 64)
