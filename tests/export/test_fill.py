"""A model that was trained with another value in the hole sees it wherever it is used."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.inference.fakes import plane
from wssl_pl.cli import main
from wssl_pl.evaluation.methods import Model
from wssl_pl.export import HubModel
from wssl_pl.inference import Inpainter
from wssl_pl.models import open_model
from wssl_pl.modules import InpaintModule


def outside(images, masks):
    """What is expected of `fill=mean`, in NumPy."""
    return np.stack([image[:, mask[0] <= 0.5].mean(axis=1) for image, mask in zip(images, masks, strict=True)])


@pytest.fixture(params=[0.5, "mean"])
def model(request, tmp_path, fit, monkeypatch):
    """A checkpoint, an exported folder, and what the model without `fill` gives for holes that hold the value."""
    monkeypatch.chdir(tmp_path)
    module = InpaintModule(width=2, fill=request.param)
    fit(module, max_steps=1).save_checkpoint("model.ckpt")
    main(["export", "safetensors", "ckpt=model.ckpt", "-o", "exported"])
    rng = np.random.default_rng(0)
    images, masks = rng.random((2, 3, 64, 96), np.float32), np.zeros((2, 1, 64, 96), np.float32)
    masks[0, :, 8:40, 8:70] = masks[1, :, 20:30, :] = 1
    value = outside(images, masks)[:, :, None, None] if request.param == "mean" else request.param
    seen = np.where(masks > 0.5, value, images).astype(np.float32)
    with torch.inference_mode():
        plain = InpaintModule(width=2)
        plain.load_state_dict(module.state_dict())
        expected = plain.eval()(torch.from_numpy(seen), torch.zeros(2, 1, 64, 96)).numpy()
    # What programs hand over has 0 in the hole.
    return request.param, np.where(masks > 0.5, 0, images).astype(np.float32), masks, expected


def test_checkpoint_folder_hub_and_evaluation(model):
    fill, images, masks, expected = model
    for path in ("model.ckpt", "exported", "exported/model.safetensors"):
        backend = open_model(path, "cpu")
        assert backend.info.hyper_parameters["fill"] == fill
        assert np.abs(backend(images, masks) - expected).max() < 1e-5
    assert json.loads(Path("exported/config.json").read_text())["fill"] == fill
    tensors = torch.from_numpy(images), torch.from_numpy(masks)
    with torch.inference_mode():
        assert np.abs(HubModel.from_pretrained("exported")(*tensors).numpy() - expected).max() < 1e-5
    method = Model("model.ckpt", torch.device("cpu"))
    assert np.abs(method(["a", "b"], *tensors).numpy() - expected).max() < 1e-5
    card = Path("exported/README.md").read_text()
    assert ("the image's mean colour in the hole" if fill == "mean" else "sees 0.5 in the hole") in card


@pytest.mark.slow
def test_onnx(model):
    fill, images, masks, expected = model
    main(["export", "onnx", "ckpt=model.ckpt", "-o", "model.onnx"])
    backend = open_model("model.onnx", "cpu")
    assert backend.info.hyper_parameters["fill"] == fill
    assert np.abs(backend(images, masks) - expected).max() < 1e-4
    picture, hole = plane(50, 70), np.zeros((50, 70), bool)
    hole[10:30, 20:50] = True
    first, second = (Inpainter.from_checkpoint(path, "cpu")(picture, hole) for path in ("model.onnx", "model.ckpt"))
    assert np.abs(first.astype(int) - second).max() <= 1
