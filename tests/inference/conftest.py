"""A small untrained model in every kind of file."""

import pytest
import torch

from wssl_pl.export.weights import write_folder, write_safetensors
from wssl_pl.models import ModelInfo
from wssl_pl.modules import InpaintModule
from wssl_pl.modules.migration import FORMAT


@pytest.fixture(scope="session")
def tiny_module():
    torch.manual_seed(0)
    return InpaintModule(width=2).eval()


@pytest.fixture(scope="session")
def model_files(tiny_module, tmp_path_factory):
    """A `.ckpt`, a `.safetensors` file and an exported folder of the same model, trained, they say, at 64 px."""
    folder = tmp_path_factory.mktemp("models")
    settings, training = dict(tiny_module.hparams), {"image_size": 64, "hole_ratio": [0.3, 0.5]}
    info = ModelInfo("", settings, training)
    checkpoint = {
        "stage": "downstream",
        "state_dict": tiny_module.state_dict(),
        "hyper_parameters": settings | {"_class_path": "left by the command line"},
        "datamodule_hyper_parameters": training | {"images": "/some/where"},
        "epoch": 2,
        "global_step": 30,
        "pytorch-lightning_version": "2.6.4",
        "format": FORMAT,
    }
    torch.save(checkpoint, folder / "model.ckpt")
    write_safetensors(tiny_module.state_dict(), info, folder / "model.safetensors")
    (folder / "exported").mkdir()
    write_folder(tiny_module.state_dict(), info, folder / "exported")
    return {"ckpt": folder / "model.ckpt", "safetensors": folder / "model.safetensors", "folder": folder / "exported"}
