"""Small models and a running page for the tests of it."""

import threading

import pytest
import torch

from wssl_pl.inference import Inpainter
from wssl_pl.inference import inpainter as inpainting
from wssl_pl.modules import InpaintModule, PretextModule


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder as runs leave it: one pretext and one downstream checkpoint, untrained and small."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    modules = {"pretext": PretextModule(tasks=["rotation"], width=4), "downstream": InpaintModule(ckpt="none", width=4)}
    for stage, module in modules.items():
        path = folder / stage / "today" / "best.ckpt"
        path.parent.mkdir(parents=True)
        content = {"stage": stage, "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        torch.save(content, path)
    return folder


@pytest.fixture(scope="session")
def ckpt(runs):
    return runs / "downstream" / "today" / "best.ckpt"


@pytest.fixture(scope="session")
def inpainter(ckpt):
    return Inpainter.from_checkpoint(ckpt, device="cpu")


@pytest.fixture
def fills(monkeypatch):
    """Fills take many tiles until it is set."""
    go, fill_images = threading.Event(), inpainting.fill_images

    def filled(images, masks, predictor, tiling, progress=None, *options):
        while not go.wait(0.02):
            progress(0, 1)
        return fill_images(images, masks, predictor, tiling, progress, *options)

    monkeypatch.setattr(inpainting, "fill_images", filled)
    yield go
    go.set()
