"""The networks of a model file, without what trained them."""

import pytest
import torch

from wssl_pl.models import open_model
from wssl_pl.models.weights import TorchPredictor
from wssl_pl.modules import InpaintModule
from wssl_pl.modules.network import OF_NETWORK, OF_TRAINING, InpaintNetwork


def saved(module, path, **settings):
    torch.save(
        {"stage": "downstream", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams) | settings},
        path,
    )
    return path


def test_every_hyperparameter_belongs_to_one_of_the_two():
    """One in neither is safe: the model is opened as an `InpaintModule`, which takes seconds."""
    names = InpaintModule("none", width=2).hparams.keys()
    assert not OF_NETWORK & OF_TRAINING
    assert OF_NETWORK | OF_TRAINING == names


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"norm": "batch", "block": "residual", "mask_channel": True, "fill": "mean"},
        {"block": "gated", "context": "fourier", "context_levels": 2, "fill": 0.5, "init": "xavier"},
        {"context": "attention"},
        {"output": "change", "fill": "smooth", "mask_channel": True},
        {"restore": ["saturation", "jpeg"], "task_loss": 0.1, "freeze_layers": 0},
    ],
)
def test_they_predict_what_the_module_does(tmp_path, settings):
    torch.manual_seed(0)
    module = InpaintModule("none", width=2, **settings).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # context blocks begin as the identity
    predictor = open_model(saved(module, tmp_path / "a.ckpt"), "cpu")
    assert isinstance(predictor.module, InpaintNetwork)
    images, masks = torch.rand(2, 3, 40, 56), (torch.rand(2, 1, 40, 56) > 0.7).float()
    with torch.inference_mode():
        expected = module(images, masks)
    assert torch.equal(torch.from_numpy(predictor(images.numpy(), masks.numpy())), expected)


def test_heads_of_such_a_model_are_read_when_they_are_asked_for(tmp_path):
    module = InpaintModule("none", width=2, task_loss=0.1, tasks=["rotation"], freeze_layers=0)
    predictor = TorchPredictor(saved(module, tmp_path / "a.ckpt"), "cpu")
    assert list(predictor.heads.tasks) == ["rotation"]
    assert predictor.heads is predictor.heads


def test_keys_that_no_setting_explains_are_refused(tmp_path):
    module = InpaintModule("none", width=2, task_loss=0.1, tasks=["rotation"], freeze_layers=0)
    path = saved(module, tmp_path / "a.ckpt", task_loss=0.0, tasks=None, weights=None, levels=None)
    with pytest.raises(ValueError, match=r"unexpected joint\.heads"):
        open_model(path, "cpu")
