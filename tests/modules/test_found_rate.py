"""The learning rate that Lightning's tuner finds is the one that trains."""

import lightning
import pytest
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

from tests.data.test_own_dataset import Faces
from wssl_pl import InpaintModule, PretextModule

SEARCH = {"min_lr": 1e-6, "max_lr": 1.0, "early_stop_threshold": None}


class Rates(lightning.Callback):
    """The rates of the first step, by parameter group."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            self.first = [group["lr"] for group in trainer.optimizers[0].param_groups]


def trainer(*callbacks):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return lightning.Trainer(
        max_epochs=9, accelerator="cpu", callbacks=[*callbacks], enable_model_summary=False, **quiet
    )


@pytest.mark.parametrize("settings", [{}, {"lr_schedule": "cosine"}, {"encoder_lr": 1e-5}])
def test_by_the_callback(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)  # Lightning writes a checkpoint
    module, rates = InpaintModule(width=2, freeze_layers=0, **settings), Rates()
    trainer(LearningRateFinder(num_training_steps=16, **SEARCH), rates).fit(module, DataLoader(Faces(True), 4))
    assert module.hparams["lr"] != 1e-4
    own = [settings["encoder_lr"]] if "encoder_lr" in settings else []
    assert rates.first == [*own, module.hparams["lr"]]


def test_after_another_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, fitting = PretextModule(["rotation"], width=4, lr_schedule="cosine"), trainer()
    for _ in range(2):
        Tuner(fitting).lr_find(module, DataLoader(Faces(True), 4), num_training=16, **SEARCH)
    assert module.hparams["lr"] != 1e-4


def test_by_the_tuner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, rates = PretextModule(["rotation"], width=4), Rates()
    fitting = trainer(rates)
    Tuner(fitting).lr_find(module, DataLoader(Faces(True), 4), num_training=16, **SEARCH)
    found = module.hparams["lr"]
    assert found != 1e-4
    fitting.fit(module, DataLoader(Faces(True), 4))
    assert rates.first == [found]
