"""A downstream training that starts from a finished model."""

import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.export.weights import write_safetensors
from wssl_pl.models.info import ModelInfo
from wssl_pl.modules import InpaintModule, PretextModule

SETTINGS = {"fill": "smooth", "mask_channel": True, "output": "change"}
GO_ON = {"reuse": "all", "freeze_layers": 0}


def perturbed(module):
    """Return a module none of whose weights are at their start: `output=change` and context blocks start with zeros."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return module


def save(module, path):
    settings = dict(module.hparams)
    if path.suffix == ".safetensors":
        write_safetensors(module.state_dict(), ModelInfo(str(path), settings, {"image_size": 32}), path)
    else:
        torch.save({"stage": module.stage, "state_dict": module.state_dict(), "hyper_parameters": settings}, path)
    return str(path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("context", ["none", "attention"])
def test_all_networks_are_taken_over(tmp_path, name, context):
    model = perturbed(InpaintModule("none", width=2, context=context, **SETTINGS))
    ckpt = save(model, tmp_path / name)
    module = InpaintModule(ckpt, lr=3e-4, composite_loss=2.0, **GO_ON)
    images, masks = torch.rand(1, 3, 32, 32), (torch.rand(1, 1, 32, 32) < 0.4).float()
    torch.testing.assert_close(module(images, masks), model(images, masks))
    assert (SETTINGS | {"width": 2, "context": context}).items() <= dict(module.hparams).items()
    assert all(parameter.requires_grad for parameter in module.parameters())
    # The checkpoint of the new training opens without the model that it started from.
    assert InpaintModule(**module.hparams).hparams["reuse"] == "encoder"


def test_a_context_and_heads_may_be_added(tmp_path):
    model = perturbed(InpaintModule("none", width=2, **SETTINGS))
    ckpt = save(model, tmp_path / "model.ckpt")
    module = InpaintModule(ckpt, context="attention", task_loss=0.1, tasks=["saturation"], **GO_ON)
    images, masks = torch.rand(1, 3, 32, 32), (torch.rand(1, 1, 32, 32) < 0.4).float()
    torch.testing.assert_close(module(images, masks), model(images, masks))
    assert list(module.joint.heads) == ["saturation"]


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_heads_of_a_finished_model_are_taken_over_where_they_mean_the_same(tmp_path, name):
    joint = {"task_loss": 0.1, "tasks": ["saturation", "rotation"], "levels": {"saturation": [0.0, 0.5, 1.0]}}
    model = perturbed(InpaintModule("none", width=2, freeze_layers=0, **SETTINGS, **joint))
    ckpt = save(model, tmp_path / name)
    module = InpaintModule(ckpt, **joint, **GO_ON)
    for task in ("saturation", "rotation"):
        assert same_weights(module.joint.heads[task], model.joint.heads[task])
    others = InpaintModule(ckpt, task_loss=0.1, tasks=["saturation", "rotation", "blur"], **GO_ON)
    assert same_weights(others.joint.heads["rotation"], model.joint.heads["rotation"])
    assert not same_weights(others.joint.heads["saturation"], model.joint.heads["saturation"])  # of four levels


def same_weights(module, other):
    pairs = zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    return all(one.shape == two.shape and torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "image"}, "output=image: the model has output=change: omit it"),
        ({"context": "none"}, "context=none: the model has context=dilated"),
        ({"context_levels": 2}, "context_levels=2: the model has context_levels=1"),
        ({"width": 4}, "width=4: the encoder of ckpt=.* has width=2"),
        ({"reuse": "encoder"}, "is a downstream checkpoint; a pretext one is needed: .* reuse=all"),
    ],
)
def test_settings_that_are_not_those_of_the_model(tmp_path, settings, message):
    ckpt = save(InpaintModule("none", width=2, context="dilated", **SETTINGS), tmp_path / "model.ckpt")
    with pytest.raises(WSSLError, match=message):
        InpaintModule(ckpt, **GO_ON | settings)


def test_a_file_that_is_no_model(tmp_path):
    ckpt = save(PretextModule(["saturation"], width=2), tmp_path / "pretext.ckpt")
    with pytest.raises(WSSLError, match="has no decoder"):
        InpaintModule(ckpt, reuse="all")
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(WSSLError, match="is not a safetensors file"):
        InpaintModule(str(path), reuse="all")
    with pytest.raises(WSSLError, match=r"holds weights alone.* reuse=all trains a finished model on"):
        InpaintModule(str(path))
    with pytest.raises(WSSLError, match="does not exist"):
        InpaintModule(str(tmp_path / "none.safetensors"), reuse="all")
