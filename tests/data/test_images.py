"""Images decoded from files by threads are those decoded one after the other."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from wssl_pl.data.images import FileImages
from wssl_pl.modules import PretextModule


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(9):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(paths[-1])
    for number in (2, 7):
        paths[number].write_bytes(b"no image")
    return paths


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_any_number_of_threads_reads_the_same(files: list[Path], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    images, failures = FileImages(files, 8).read(np.array([8, 7, 0, 2, 1, 1]))
    assert images.shape == (4, 8, 8, 3)
    assert images[:, 0, 0, 0].tolist() == [160, 0, 20, 20]
    assert [position for position, _ in failures] == [1, 3]
    assert failures[0][1].value == files[7]
    assert FileImages(files, 8).read(np.array([], np.int64))[0].shape == (0, 8, 8, 3)


def test_a_training_on_a_cpu_decodes_in_its_own_process(make, files: list[Path], tmp_path: Path) -> None:
    data = make(images=str(tmp_path), num_workers=None, on_error="skip", split_rule="hash")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(PretextModule(["rotation"], width=1))
    data.trainer = trainer
    data._datasets["train"] = type("Files", (), {"images": FileImages(files, 8), "__len__": lambda self: 9})()
    assert data._workers(data._datasets["train"]) == 0
