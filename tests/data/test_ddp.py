"""Two CPU processes share the sets as they should."""

import json
from pathlib import Path

import pytest

from tests.data.fakes import image_tree
from tests.processes import run_both_ranks
from wssl_pl.data.prepare_shards import prepare_shards

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
trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, num_sanity_val_steps=0,
                     enable_checkpointing=False, enable_progress_bar=False)
model = Model()
trainer.fit(model, data)
trainer.test(model, data)
json.dump(model.seen, open(f"{out}/{trainer.global_rank}.json", "w"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["folder", "shards"])
def test_two_processes_of_a_plain_trainer_see_every_image_once(
    folders: tuple[Path, Path], tmp_path: Path, source: str
) -> None:
    # 24 images are three batches of both processes, and five chunks, the last of them smaller.
    images = image_tree(tmp_path / "images", {"train": 24, "val": 7, "test": 5})
    if source == "shards":
        prepare_shards(images, tmp_path / "shards", 40, workers=0, chunk_size=5)
        images = tmp_path / "shards"
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    code, said = run_both_ranks(script, str(images), str(folders[1]), str(tmp_path), folder=tmp_path)
    assert code == 0, said
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert sorted(first["val"] + second["val"]) == sorted(2 * [*range(7)])
    assert sorted(first["test"] + second["test"]) == list(range(5))
    epochs = [first["train"][start : start + 12] + second["train"][start : start + 12] for start in (0, 12)]
    assert epochs[0] != epochs[1]
    assert [sorted(epoch) for epoch in epochs] == 2 * [[*range(24)]]
