"""Short trainings with a plain Trainer on the synthetic dataset."""

import pytest
from lightning import Trainer

from wssl_pl.data import WSSLDataModule


@pytest.fixture
def fit(tmp_path):
    """Train a module: `fit(module, max_steps=3, precision="bf16-mixed")` returns the trainer."""

    def run(module, resume=None, image_size=32, **settings):
        data = WSSLDataModule(
            images="sample", masks="sample", image_size=image_size, resize=36, batch_size=8, limit=24, num_workers=0
        )
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
        trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet | {"max_epochs": 1} | settings)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        return trainer

    return run
