"""A run that was stopped and resumed sees the batches of one that was not, however Lightning counts its epochs."""

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from wssl_pl.data import WSSLDataModule

Make = Callable[..., WSSLDataModule]
BATCHES = 5  # 22 images in batches of 4


class Recorder(pl.LightningModule):
    """Trains one number and keeps what it was shown."""

    def __init__(self, needs_masks: bool = True) -> None:
        super().__init__()
        self.needs_masks = needs_masks
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        holes = batch["mask"].sum((1, 2, 3)).tolist() if "mask" in batch else None
        place = (self.current_epoch, batch_idx)
        self.seen.append((place, batch["index"].tolist(), batch["crop"].tolist(), holes, batch["random"].sum().item()))
        return (self.weight - batch["image"].mean()) ** 2

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.validated.append(batch["index"].tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(pl.Callback):
    """Saves a checkpoint in one hook, once ``step`` optimiser steps are done."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        def save(trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == step and not trainer.sanity_checking:
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


def train(module: WSSLDataModule, ckpt: Path | None = None, **settings) -> Recorder:
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(recorder, module, ckpt_path=ckpt, weights_only=True)
    return recorder


HOOKS = [
    ("on_train_batch_end", 2),
    ("on_train_batch_end", BATCHES + 2),
    ("on_train_batch_end", 2 * BATCHES),  # the last batch of an epoch
    ("on_validation_end", 2 * BATCHES),
    ("on_train_epoch_end", 2 * BATCHES),
]


@pytest.mark.parametrize("length", [{"max_epochs": 4}, {"max_steps": 4 * BATCHES}], ids=["epochs", "steps"])
@pytest.mark.parametrize(("hook", "step"), HOOKS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("error:.*resuming from a checkpoint that ended before the epoch.*")
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(
    make: Make, tmp_path: Path, hook: str, step: int, workers: int, length: dict
) -> None:
    path = tmp_path / "stopped.ckpt"
    whole = train(make(num_workers=workers), callbacks=[SaveAt(hook, step, path)], **length)
    assert len(whole.seen) == 4 * BATCHES
    resumed = train(make(num_workers=workers), path, **length)
    assert [entry[1:] for entry in resumed.seen] == [entry[1:] for entry in whole.seen[step:]]
    assert resumed.weight == whole.weight


def test_resuming_in_mid_epoch_with_another_batch_size_is_said(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "stopped.ckpt"
    train(make(), callbacks=[SaveAt("on_train_batch_end", 2, path)], max_epochs=1)
    train(make(batch_size=5), path, max_epochs=1)
    assert "the rest of this epoch is not what it would have been" in caplog.text


def test_resuming_at_an_epochs_end_with_another_batch_size_starts_a_whole_epoch(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "stopped.ckpt"
    train(make(), callbacks=[SaveAt("on_train_epoch_end", BATCHES, path)], max_epochs=1)
    resumed = train(make(batch_size=2), path, max_epochs=2)
    assert [entry[0] for entry in resumed.seen] == [(1, batch) for batch in range(11)]


def test_fitting_twice_goes_on_with_the_next_epoch(make: Make) -> None:
    whole = train(make(), max_epochs=3)
    module, recorder = make(), Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=2
    )
    trainer.fit(recorder, module)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(recorder, module)
    assert recorder.seen == whole.seen


def test_validation_sees_all_in_order_every_epoch(make: Make) -> None:
    recorder = train(make(), max_epochs=2, num_sanity_val_steps=0)
    assert recorder.validated == [[0, 1, 2, 3], [4, 5, 6]] * 2


def test_overfitting_on_some_batches_works(make: Make) -> None:
    recorder = train(make(), max_epochs=2, overfit_batches=2)
    first, second = ([entry[1:] for entry in recorder.seen if entry[0][0] == epoch] for epoch in (0, 1))
    assert len(first) == 2
    assert first == second


def test_a_module_without_masks_reads_no_mask_folder(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wssl_pl.data.datamodule.open_masks", lambda *_: pytest.fail("masks were read"))
    recorder = Recorder(needs_masks=False)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1
    )
    module = make()
    trainer.fit(recorder, module)
    assert all(entry[3] is None for entry in recorder.seen)
    assert "masks" not in module.describe()
