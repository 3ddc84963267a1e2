import logging
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from tests.data.fakes import image_tree, mask_tree
from wssl_pl import synthetic
from wssl_pl.data import WSSLDataModule
from wssl_pl.errors import DataError, WSSLError

Make = Callable[..., WSSLDataModule]
KEYS = ("image", "mask", "crop", "random", "index")


def epoch(module: WSSLDataModule, split: str = "train", number: int = 0) -> list[dict]:
    module.setup("fit" if split == "train" else {"val": "validate"}.get(split, split))
    loader = {"train": module.train_dataloader, "val": module.val_dataloader, "test": module.test_dataloader}[split]()
    loader.sampler.set_epoch(number)
    return list(loader)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def same(first: list[dict], second: list[dict], keys: tuple[str, ...] = KEYS) -> bool:
    return all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in keys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 64, "resize": 40}, r"^resize=40"),
        ({"resize": 2**31}, r"^resize=2147483648: must be at most 10000"),
        ({"image_size": 0}, r"^image_size=0"),
        ({"batch_size": 0}, r"^batch_size=0"),
        ({"hole": "grey"}, r"^hole=grey"),
        ({"hole_ratio": (0.5, 0.3)}, r"^hole_ratio=\[0\.5,0\.3\]"),
        ({"hole_ratio": (-0.1, 0.3)}, r"^hole_ratio"),
        ({"hole_ratio": (0.1, 1.3)}, r"^hole_ratio"),
        ({"hole_ratio": (float("nan"), 0.3)}, r"^hole_ratio"),
        ({"num_workers": -1}, r"^num_workers=-1"),
        ({"on_error": "ignore"}, r"^on_error=ignore"),
        ({"resize_filter": "box"}, r"^resize_filter=box: must be lanczos, bicubic, bilinear or area"),
        ({"seed": -1}, r"^seed=-1"),
        ({"limit": 0}, r"^limit=0"),
        ({"train_images": 0}, r"^train_images=0"),
        ({"images": "/nowhere"}, r"^images=/nowhere: does not exist"),
        ({"masks": "/nowhere"}, r"^masks=/nowhere: does not exist"),
    ],
)
def test_wrong_arguments_are_named_at_once_in_one_line(make: Make, arguments: dict, message: str) -> None:
    with pytest.raises(WSSLError, match=message) as caught:
        make(**arguments)
    assert "\n" not in str(caught.value)


def test_empty_folder_and_file_for_a_folder(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no JPEG, PNG or WebP file"):
        make(images=str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        make(masks=str(tmp_path / "file"))


def test_batches_from_folders(make: Make) -> None:
    batches = epoch(make())
    assert len(batches) == 5  # 22 images in batches of 4, the rest dropped
    assert batches[0]["image"].shape == (4, 3, 40, 40)
    assert batches[0]["mask"].shape == (4, 1, 32, 32)
    assert "failed" not in batches[0]
    assert [len(batch["index"]) for batch in epoch(make(), "val")] == [4, 3]
    assert torch.cat([batch["index"] for batch in epoch(make(), "test")]).tolist() == [0, 1, 2, 3, 4]


def test_holes_are_within_the_ratio_and_polarity_holds_through_the_batch(make: Make, tmp_path: Path) -> None:
    # 30 % hole at the top, black: read the other way round it would be 70 % and at the bottom.
    masks = mask_tree(tmp_path, {"train": [0.3125], "test": [0.3125]})
    module = make(masks=str(masks))
    for split in ("train", "val"):
        mask = epoch(module, split)[0]["mask"]
        assert (mask[:, :, :10] == 1).all()
        assert (mask[:, :, 10:] == 0).all()
    ratios = torch.cat([batch["mask"].float().mean((1, 2, 3)) for batch in epoch(make())])
    assert ratios.min() >= 0.3
    assert ratios.max() <= 0.5


@pytest.mark.parametrize("split", ["train", "val"])
def test_any_number_of_workers_gives_the_same_batches(make: Make, split: str) -> None:
    alone = epoch(make(), split)
    for workers in (1, 2):
        assert same(alone, epoch(make(num_workers=workers), split))


def test_workers_kept_over_epochs_see_the_epoch(make: Make) -> None:
    module = make(num_workers=2)
    module.setup("fit")
    loader = module.train_dataloader()
    assert loader.persistent_workers
    for number in (0, 1):
        loader.sampler.set_epoch(number)
        assert same(list(loader), epoch(make(), number=number))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iteration_draws_nothing_from_the_global_generator(make: Make, workers: int) -> None:
    module = make(num_workers=workers)
    module.setup("fit")
    loader = module.train_dataloader()
    before = torch.get_rng_state()
    next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_loop_goes_from_epoch_to_epoch(make: Make, workers: int) -> None:
    module = make(num_workers=workers)
    module.setup("fit")
    loader = module.train_dataloader()
    for number in range(3):
        assert same(list(loader), epoch(make(), number=number))
    loader.sampler.set_epoch(0)
    assert same(list(loader), epoch(make()))
    validation = module.val_dataloader()
    assert same(list(validation), list(validation))


def test_same_seed_same_batches_other_seed_or_epoch_others(make: Make) -> None:
    assert same(epoch(make(seed=1)), epoch(make(seed=1)))
    for other in (epoch(make(seed=2)), epoch(make(seed=1), number=1)):
        for key in KEYS:
            assert not same(epoch(make(seed=1)), other, (key,))


def test_batch_size_does_not_change_what_a_sample_sees(make: Make) -> None:
    def by_index(size: int) -> dict[int, tuple]:
        return {
            int(index): (batch["crop"][i].tolist(), batch["random"][i].tolist(), batch["mask"][i].sum().item())
            for batch in epoch(make(batch_size=size))
            for i, index in enumerate(batch["index"])
        }

    small, large = by_index(2), by_index(10)
    assert all(small[index] == large[index] for index in small.keys() & large.keys())


def test_validation_pairing_is_fixed_whatever_the_seed_and_the_epoch(make: Make) -> None:
    first = epoch(make(seed=1), "val")
    assert same(first, epoch(make(seed=2), "val", number=3))
    assert not same(first, epoch(make(pair_seed=1), "val"), ("mask",))
    assert not same(first, epoch(make(pair_seed=1), "val"), ("random",))


def test_transfer_crops_and_scales(make: Make) -> None:
    module = make()
    raw = epoch(module)[1]
    batch = module.on_after_batch_transfer(dict(raw), 0)
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["image"].dtype == batch["mask"].dtype == torch.float32
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    for i, (top, left) in enumerate(raw["crop"].tolist()):
        expected = raw["image"][i, :, top : top + 32, left : left + 32].float() / 255
        torch.testing.assert_close(batch["image"][i], expected, rtol=0, atol=0)
    assert batch["random"].dtype == torch.float32
    assert torch.equal(batch["random"] * 2**24, raw["random"].float())
    assert torch.equal(batch["index"], raw["index"])


def test_no_size_to_spare(make: Make) -> None:
    module = make(resize=32)
    batch = module.on_after_batch_transfer(epoch(module)[0], 0)
    assert batch["image"].shape == (4, 3, 32, 32)
    assert (batch["crop"] == 0).all()


class Wants(pl.LightningModule):
    """Asks for a margin of so many pixels, and keeps its batches."""

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.crop_margin = margin
        self.batches: dict[str, list[dict]] = {"train": [], "val": []}
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.batches["train"].append(batch)
        return self.weight * 0

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.batches["val"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(data: WSSLDataModule, margin: int, **options) -> Wants:
    module = Wants(margin)
    pl.Trainer(
        accelerator="cpu", max_epochs=8, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    ).fit(module, data)  # fmt: skip
    return module


def test_a_crop_with_margin_lies_in_the_image_and_holds_the_crop(make: Make) -> None:
    data = make()
    batches = fitted(data, 2).batches
    for split, found in batches.items():
        whole = data._datasets[split].images
        for batch in found:
            assert batch["image"].shape[-2:] == (32, 32)
            assert batch["image_with_margin"].shape[-2:] == (36, 36)
            assert torch.equal(batch["image_with_margin"][..., 2:-2, 2:-2], batch["image"])
            pixels, _ = whole.read(batch["index"].numpy())
            for image, wide, (top, left) in zip(
                pixels, batch["image_with_margin"], batch["crop"].tolist(), strict=True
            ):
                expected = torch.from_numpy(image[top - 2 : top + 34, left - 2 : left + 34]).permute(2, 0, 1) / 255
                assert torch.equal(wide, expected)
    crops = torch.cat([batch["crop"] for batch in batches["train"]])
    assert sorted(crops.unique().tolist()) == [2, 3, 4, 5, 6]
    assert all((batch["crop"] == 4).all() for batch in batches["val"])


def test_a_module_without_a_margin_gets_the_crops_it_always_got(make: Make) -> None:
    batch = fitted(make(), 0).batches["train"][0]
    assert "image_with_margin" not in batch
    assert torch.equal(batch["crop"], epoch(make())[0]["crop"])


def test_no_pixels_around_the_crop_are_said_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    data = make(resize=33)
    module = fitted(data, 1)
    data.setup("test")
    assert "image_with_margin" not in module.batches["train"][0]
    (line,) = [line for line in warnings(caplog) if "resize=33" in line]
    assert "resize=33: there are no 1 px around crops of image_size=32" in line
    assert "set resize=34" in line


def test_a_missing_split_is_an_error_when_it_is_needed(make: Make, tmp_path: Path) -> None:
    module = make(images=str(image_tree(tmp_path, {"train": 4, "val": 4})))
    module.setup("fit")
    with pytest.raises(DataError, match=r"has no test images \(split by folders\)"):
        module.setup("test")


def test_nothing_within_the_ratio_gives_the_histogram_and_the_other_polarity(make: Make, tmp_path: Path) -> None:
    masks = mask_tree(tmp_path, {"train": [0.625, 0.65625, 0.125], "test": [0.4]})
    with pytest.raises(DataError) as caught:
        make(masks=str(masks)).setup("fit")
    message = str(caught.value)
    assert "none of 3 train masks has a hole of 30% to 50% with hole=black" in message
    assert "with hole=white 2 would be" in message
    assert "10-20 %: 1, 60-70 %: 2" in message
    assert "\n" not in message


def test_a_polarity_that_would_keep_more_is_warned_of_once(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ratios = [0.625] * 8 + [0.375]
    masks = mask_tree(tmp_path, {"train": ratios, "test": ratios})
    module = make(masks=str(masks))
    module.setup("fit")
    module.setup("test")
    (line,) = warnings(caplog)
    assert "1 of 9 train masks are kept with hole=black, with hole=white 8 would be" in line
    caplog.clear()
    make(masks=str(masks), hole="white").setup("fit")
    assert not warnings(caplog)


@pytest.mark.parametrize("ratios", [[0.625, 0.65625, 0.375, 0.1], [0.625] * 3 + [0.375, 0.1]])
def test_few_masks_do_not_question_the_polarity(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, ratios: list[float]
) -> None:
    make(masks=str(mask_tree(tmp_path, {"train": ratios, "test": ratios}))).setup("fit")
    assert not warnings(caplog)


def test_masks_for_evaluation_alone(make: Make, tmp_path: Path) -> None:
    module = make(masks=str(mask_tree(tmp_path, {"test": [0.3125] * 18})))
    module.setup("test")
    assert module.describe()["masks"]["test"] == {"kept": 18, "total": 18}
    with pytest.raises(DataError, match=r"has no masks for training: it holds a test folder alone"):
        module.setup("fit")


def test_too_few_masks_for_a_hash(make: Make, tmp_path: Path) -> None:
    module = make(masks=str(mask_tree(tmp_path, {"": [0.3125]})))
    with pytest.raises(DataError, match=r"has no masks for evaluation: its 1 masks are too few .*train/ and test/"):
        module.setup("test")


def test_too_few_images_for_a_hash(make: Make, tmp_path: Path) -> None:
    module = make(images=str(image_tree(tmp_path, {"": 4})))
    with pytest.raises(DataError, match=r"has no test images \(split by hash\): 4 images are too few") as caught:
        module.setup("test")
    assert "train/, val/ and test/" in str(caught.value)


def test_without_a_val_folder_one_line_says_what_is_taken(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make(images=str(image_tree(tmp_path, {"train": 40, "test": 4}))).setup("fit")
    (line,) = [record.message for record in caplog.records if record.message.startswith("data: images")]
    assert "split by folders, 5% of train for val): train 39 / val 1 / test 4" in line


def test_a_truncated_file_is_named_or_skipped_and_counted(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = image_tree(tmp_path, {"train": 9, "val": 2}, suffix=".jpg")
    bad = root / "train" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"3\.jpg: is truncated .*\(1 of 9 files cannot be used\).*on_error=skip"):
        make(images=str(root)).setup("fit")
    module = make(images=str(root), on_error="skip")
    assert len(epoch(module)) == 2
    assert [Path(file).name for file, _ in module.skipped] == ["3.jpg"]
    assert module.describe()["skipped"] == 1
    (line,) = warnings(caplog)
    assert "1 of 9 files cannot be used and are omitted: 3.jpg" in line


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_fails_to_decode_is_never_replaced(make: Make, tmp_path: Path, workers: int) -> None:
    root = image_tree(tmp_path, {"train": 9, "val": 4})
    bad = root / "val" / "10.png"
    content = bytearray(bad.read_bytes())
    content[60:120] = bytes(60)
    bad.write_bytes(content)
    with pytest.raises(DataError, match=r"^images=.*val/10\.png: cannot be read: .*on_error=skip") as caught:
        epoch(make(images=str(root), num_workers=workers), "val")
    assert "\n" not in str(caught.value)
    assert (caught.value.parameter, caught.value.value) == ("images", bad)
    assert caught.value.reason.startswith("cannot be read: ")
    module = make(images=str(root), num_workers=workers, on_error="skip")
    (batch,) = epoch(module, "val")
    assert batch["index"].tolist() == [0, 2, 3]
    assert len(batch["image"]) == len(batch["mask"]) == len(batch["crop"]) == 3
    whole = epoch(make(images=str(image_tree(tmp_path / "whole", {"train": 9, "val": 4}))), "val")[0]
    assert torch.equal(batch["mask"], whole["mask"][[0, 2, 3]])
    assert torch.equal(batch["image"], whole["image"][[0, 2, 3]])
    assert [Path(file).name for file, _ in module.skipped] == ["10.png"]


def test_a_prediction_stops_at_a_file_that_fails_to_decode(make: Make, tmp_path: Path) -> None:
    class Predicts(pl.LightningModule):
        def predict_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            return batch["index"]

    root = image_tree(tmp_path, {"train": 4, "test": 5})
    bad = root / "test" / "5.png"
    content = bytearray(bad.read_bytes())
    content[60:120] = bytes(60)
    bad.write_bytes(content)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(DataError, match=r"test/5\.png: cannot be read"):
        trainer.predict(Predicts(), make(images=str(root)))


def test_damaged_masks_follow_the_same_rule(make: Make, tmp_path: Path) -> None:
    masks = mask_tree(tmp_path, {"train": [0.4, 0.4], "test": [0.4]})
    bad = masks / "train" / "00001_train.png"
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"^masks=.*00001_train\.png: is empty"):
        make(masks=str(masks)).setup("fit")
    module = make(masks=str(masks), on_error="skip")
    module.setup("fit")
    assert module.describe()["masks"]["train"] == {"kept": 1, "total": 2}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def faces(split: str, size: int = 256, count: int | None = None) -> np.ndarray:
        return np.full((count or 8, size, size, 3), 7, np.uint8)

    def masks(split: str, size: int = 224, ratio: tuple = (0.3, 0.5), count: int | None = None) -> np.ndarray:
        return np.ones((3, size, size), np.uint8)

    monkeypatch.setattr(synthetic, "synthetic_faces", faces)
    monkeypatch.setattr(synthetic, "synthetic_masks", masks)


@pytest.mark.usefixtures("drawn")
def test_without_a_data_set_the_synthetic_one_is_used_with_a_warning(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    module = make(images=None, masks=None, limit=4)
    module.setup("fit")
    module.setup("test")
    loud = warnings(caplog)
    assert len(loud) == 2
    assert all("SYNTHETIC DATASET" in line for line in loud)
    assert module.train_dataloader().num_workers == 0
    assert epoch(module)[0]["image"].unique().tolist() == [7]
    caplog.clear()
    make(images="synthetic", masks="synthetic", limit=4).setup("fit")
    assert not warnings(caplog)


@pytest.mark.usefixtures("drawn")
def test_a_folder_named_like_the_synthetic_dataset(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "synthetic"
    monkeypatch.chdir(tmp_path)
    image_tree(tmp_path / name, {"train": 4, "val": 2})
    make(images=name, masks="synthetic", limit=4).setup("fit")
    assert f"images={name} is the synthetic dataset" in warnings(caplog)[0]
    assert f"images=./{name}" in warnings(caplog)[0]
    module = make(images=f"./{name}", masks="synthetic")
    module.setup("fit")
    assert module.describe()["images"]["train"] == 4


def test_default_folders_are_taken_if_they_are_there(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image_tree(tmp_path / "data" / "celeba_hq", {"train": 4, "val": 2})
    mask_tree(tmp_path / "data" / "qd_imd", {"train": [0.4], "test": [0.4]})
    module = make(images=None, masks=None)
    module.setup("fit")
    described = module.describe()
    assert described["images"] | {"source": "data/celeba_hq", "train": 4, "val": 2} == described["images"]
    assert described["masks"]["source"] == "data/qd_imd"


@pytest.mark.parametrize("cached", [False, True])
def test_fewer_training_images_are_among_more_and_drawn_from_the_seed(make: Make, cached: bool) -> None:
    source = {"images": "synthetic", "masks": "synthetic", "limit": 9} if cached else {}

    def drawn(**given) -> list[bytes]:
        module = make(**source, image_size=32, resize=32, batch_size=1, **given)
        module.setup("fit")
        dataset = module.train_dataloader().dataset
        assert len(module.val_dataloader().dataset) > 0
        return [dataset[index]["image"].numpy().tobytes() for index in range(len(dataset))]

    few, more, whole = drawn(train_images=2), drawn(train_images=5), drawn()
    assert few == more[:2]
    assert len(set(more)) == 5
    assert set(more) < set(whole)
    assert set(drawn(train_images=5, seed=1)) != set(more)
    with pytest.raises(WSSLError, match=rf"^train_images={len(whole) + 1}: .* has {len(whole)} training images"):
        drawn(train_images=len(whole) + 1)


def test_limit_takes_the_first_of_each_split(make: Make) -> None:
    module = make(limit=3)
    assert torch.cat([batch["index"] for batch in epoch(module, "val")]).tolist() == [0, 1, 2]
    assert {split: module.describe()["images"][split] for split in ("train", "val", "test")} == dict.fromkeys(
        ("train", "val", "test"), 3
    )


def test_hyperparameters_are_plain(make: Make, tmp_path: Path) -> None:
    module = make(hole_ratio=(0.2, 0.6))
    torch.save(dict(module.hparams), tmp_path / "hparams.pt")
    loaded = torch.load(tmp_path / "hparams.pt", weights_only=True)
    assert loaded["hole_ratio"] == [0.2, 0.6]
    assert WSSLDataModule(**loaded).hparams == module.hparams


@pytest.mark.real
def test_real_faces_and_masks(make: Make, real_data: Path) -> None:
    module = make(images=str(real_data / "celeba_hq"), masks=str(real_data / "qd_imd"), image_size=64, resize=72)
    module.setup("fit")
    module.setup("test")
    described = module.describe()
    assert [described["images"][split] for split in ("train", "val", "test")] == [3600, 200, 400]
    kept = described["masks"]["train"]
    assert 0.40 < kept["kept"] / kept["total"] < 0.50
    assert next(iter(module.train_dataloader()))["image"].float().std() > 20


def test_fixed_batches_are_spread_over_the_split_and_move_no_loader(make: Make) -> None:
    module = make(images="synthetic", masks="synthetic", limit=20, batch_size=4)
    expected = epoch(module, number=0)
    loader = module.train_dataloader()
    iterator = iter(loader)
    first = next(iterator)
    fixed = module.fixed_batches("train", 6, 4)
    assert [batch["index"].tolist() for batch in fixed] == [[0, 4, 8, 11], [15, 19]]
    rest = list(iterator)
    assert same([first, *rest], expected)
    # The crops, masks and random numbers are those that the same images have in epoch 0.
    of_epoch = {int(index): (batch, row) for batch in expected for row, index in enumerate(batch["index"])}
    for batch in fixed:
        for row, index in enumerate(batch["index"].tolist()):
            whole, place = of_epoch[index]
            assert all(torch.equal(batch[key][row], whole[key][place]) for key in KEYS)
    assert same(module.fixed_batches("train", 6, 4), fixed)
    assert len(module.fixed_batches("train", 99, 16)[0]["index"]) == 16


def test_an_error_of_a_worker_arrives_as_it_was_raised(make: Make, monkeypatch) -> None:
    def damaged(self, index):
        raise DataError("images", "cache", "is damaged", "prepare it again")

    module = make(num_workers=1)
    module.setup("fit")
    monkeypatch.setattr(type(module._datasets["train"].images), "read", damaged)
    with pytest.raises(DataError) as caught:
        next(iter(module.train_dataloader()))
    assert str(caught.value) == "images=cache: is damaged: prepare it again"
