"""Two CPU processes share the sets as they should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import lightning.pytorch as pl
import torch
from wssl_pl.data import WSSLDataModule

images, masks, out = sys.argv[1:]

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"] += batch["index"].tolist()
        return (self.weight - batch["image"].mean()) ** 2

    def validation_step(self, batch, batch_idx):
        self.seen["val"] += batch["index"].tolist()

    def test_step(self, batch, batch_idx):
        self.seen["test"] += batch["index"].tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

data = WSSLDataModule(images, masks, image_size=32, resize=40, batch_size=4, num_workers=0)
trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, num_sanity_val_steps=0,
                     enable_checkpointing=False, enable_progress_bar=False)
model = Model()
trainer.fit(model, data)
trainer.test(model, data)
json.dump(model.seen, open(f"{out}/{trainer.global_rank}.json", "w"))
"""


@pytest.mark.slow
def test_two_processes_of_a_plain_trainer_see_every_image_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(script), str(folders[0]), str(folders[1]), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(root)}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert sorted(first["val"] + second["val"]) == list(range(7))
    assert sorted(first["test"] + second["test"]) == list(range(5))
    assert len(first["train"]) == len(second["train"]) == 8
    assert len(set(first["train"] + second["train"])) == 16
