"""The modules train on a user's own dataset in a plain Lightning script."""

import re
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from wssl_pl import InpaintModule, PretextModule
from wssl_pl.data.dataset import complete_batch
from wssl_pl.errors import WSSLError
from wssl_pl.synthetic import draw_mask, synthetic_faces

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


class Faces(Dataset):
    def __init__(self, floats: bool) -> None:
        faces = torch.from_numpy(synthetic_faces("train", 32, 8)).permute(0, 3, 1, 2)
        self.images = faces.float() / 255 if floats else faces
        self.masks = torch.stack([torch.from_numpy(draw_mask(seed, 32)) for seed in range(8)])

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": self.images[index], "mask": self.masks[index]}


class Losses(lightning.Callback):
    def __init__(self) -> None:
        self.train: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.train.append(float(outputs["loss"]))


def fit(module: lightning.LightningModule, floats: bool, steps: int) -> tuple[list[float], lightning.Trainer]:
    losses = Losses()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=steps, accelerator="cpu", callbacks=[losses], enable_model_summary=False, **quiet
    )
    loaders = DataLoader(Faces(floats), batch_size=8, shuffle=True), DataLoader(Faces(floats), batch_size=4)
    trainer.fit(module, *loaders)
    return losses.train, trainer


@pytest.mark.parametrize("floats", [True, False])
def test_both_stages_learn_from_a_plain_loader(tmp_path: Path, floats: bool) -> None:
    module = PretextModule(["saturation"], width=4, norm="batch", lr=3e-3)
    losses, trainer = fit(module, floats, steps=20)
    assert sum(losses[-5:]) < sum(losses[:5])
    validated = [trainer.validate(module, DataLoader(Faces(floats), 4), verbose=False)[0] for _ in range(2)]
    assert validated[0] == validated[1]  # the levels of an image in validation are fixed
    trainer.save_checkpoint(tmp_path / "pretext.ckpt")
    model = InpaintModule(str(tmp_path / "pretext.ckpt"), freeze_layers=0, lr=3e-3)
    losses, trainer = fit(model, floats, steps=20)
    assert losses[-1] < losses[0]
    (first, second) = trainer.predict(model, DataLoader(Faces(floats), batch_size=4))
    assert first["composite"].shape == second["composite"].shape == (4, 3, 32, 32)


class FacesModule(lightning.LightningDataModule):
    """As Lightning's documentation has them: loaders and no hooks."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Faces(False), batch_size=4)

    val_dataloader = train_dataloader


def test_batches_of_a_datamodule_without_hooks_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = InpaintModule.training_step

    def watched(self, batch, batch_idx):
        seen.append(batch)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(InpaintModule, "training_step", watched)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
    module = InpaintModule(width=2, freeze_layers=0)
    trainer.fit(module, datamodule=FacesModule())
    assert seen[0]["image"].is_floating_point()
    assert seen[0]["image"].max() <= 1
    assert seen[0]["mask"].shape == (4, 1, 32, 32)
    assert seen[0]["random"].shape == (4, 16)


class Flipping(FacesModule):
    """With the hook in which many augment images on the device."""

    def on_after_batch_transfer(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> dict[str, torch.Tensor]:
        return {"image": batch["image"].flip(3), "mask": batch["mask"].flip(2)}


def test_a_datamodule_may_use_lightnings_hook() -> None:
    quiet = {"logger": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", **quiet)
    module = PretextModule(["rotation", "noise"], width=4)
    found = [trainer.validate(module, datamodule=Flipping(), verbose=False)[0] for _ in range(2)]
    assert found[0] == found[1]
    flipped = Faces(False)
    flipped.images, flipped.masks = flipped.images.flip(3), flipped.masks.flip(2)
    model = InpaintModule(width=2, freeze_layers=0)
    expected = trainer.validate(model, DataLoader(flipped, 4), verbose=False)
    assert trainer.validate(model, datamodule=Flipping(), verbose=False) == expected


@pytest.mark.parametrize(("scale", "shift"), [(2.0, -1.0), (255.0, 0.0)])
def test_normalised_images_are_an_error(scale: float, shift: float) -> None:
    faces = Faces(True)
    faces.images = faces.images * scale + shift
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(WSSLError, match=r"image is between .*: return uint8, or floating-point numbers in \[0, 1\]"):
        trainer.validate(PretextModule(["rotation"], width=4), DataLoader(faces, 4), verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **quiet)
    with pytest.raises(WSSLError, match="image is between"):  # also behind images for training that are not
        trainer.fit(PretextModule(["rotation"], width=4), DataLoader(Faces(True), 4), DataLoader(faces, 4))
    faces.images[:] = float("nan")
    with pytest.raises(WSSLError, match="image has NaN"):
        trainer.validate(PretextModule(["rotation"], width=4), DataLoader(faces, 4), verbose=False)


def test_what_a_batch_lacks_is_said() -> None:
    images, masks = torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32)
    for batch, message in [
        (images, "has no image"),
        ({"image": images}, "has no mask"),
        ({"image": images[0]}, r"image is \(3, 32, 32\)"),
        ({"image": images, "mask": masks[:, :8]}, r"mask is \(2, 1, 8, 32\)"),
    ]:
        with pytest.raises(WSSLError, match=message):
            complete_batch(batch, train=True, needs_masks=True)
    given = {"image": images, "random": torch.zeros(2, 16), "index": torch.tensor([5, 6])}
    completed = complete_batch(given, train=True, needs_masks=False)
    assert completed["index"].tolist() == [5, 6]
    assert not completed["random"].any()


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.read_text().partition("## Your own dataset")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code
    monkeypatch.chdir(tmp_path)
    exec(compile(code[1].replace("max_epochs=5", "max_epochs=1"), "docs/data.md", "exec"), {"__name__": "example"})
    assert (tmp_path / "pretext.ckpt").is_file()


def test_in_validation_each_image_has_its_own_numbers_wherever_it_is() -> None:
    images = torch.rand(3, 3, 32, 32)
    first = complete_batch({"image": images}, train=False, needs_masks=False)["random"]
    assert len({tuple(row) for row in first.tolist()}) == 3
    again = complete_batch({"image": images[[2, 0]]}, train=False, needs_masks=False)["random"]
    assert torch.equal(again, first[[2, 0]])
