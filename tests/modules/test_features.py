import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer

from wssl_pl.errors import WSSLError
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.features import IMAGENET_MEAN, IMAGENET_STD, absolute_features, load_features

CHANNELS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """Random weights under torchvision's names, of the three first poolings, in float16."""
    torch.manual_seed(0)
    state = {}
    for layer, (inputs, outputs) in CHANNELS.items():
        state[f"features.{layer}.weight"] = torch.randn(outputs, inputs, 3, 3).mul((2 / 9 / inputs) ** 0.5).half()
        state[f"features.{layer}.bias"] = torch.randn(outputs).mul(0.1).half()
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.pth"
    torch.save(state, path)
    return path, state


@pytest.fixture
def pretext(tmp_path):
    module = PretextModule(["saturation"], width=2, pretext_holes=True, mask_channel=True)
    path = tmp_path / "pretext.ckpt"
    torch.save({"stage": "pretext", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    return path, module


def test_vgg16_layer_by_layer(vgg16):
    path, state = vgg16
    images = torch.rand(1, 3, 16, 16)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    x, expected = (images - mean) / std, []
    for layer in CHANNELS:
        weight, bias = (state[f"features.{layer}.{kind}"].float() for kind in ("weight", "bias"))
        x = F.relu(F.conv2d(x, weight, bias, padding=1))
        if layer in (2, 7, 14):
            x = F.max_pool2d(x, 2)
            expected.append(x)
    found = load_features(f"vgg16:{path}")(images)
    assert [tuple(layer.shape) for layer in found] == [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    torch.testing.assert_close(found, expected)


def test_alexnet_layer_by_layer(tmp_path):
    torch.manual_seed(0)
    # Layer: inputs, outputs, kernel, stride, padding; poolings of 3 with a stride of 2 before layers 3 and 6.
    layers = {0: (3, 64, 11, 4, 2), 3: (64, 192, 5, 1, 2), 6: (192, 384, 3, 1, 1), 8: (384, 256, 3, 1, 1),
              10: (256, 256, 3, 1, 1)}  # fmt: skip
    state = {}
    for layer, (inputs, outputs, kernel, _, _) in layers.items():
        state[f"features.{layer}.weight"] = torch.randn(outputs, inputs, kernel, kernel).mul(
            (2 / inputs) ** 0.5 / kernel
        )
        state[f"features.{layer}.bias"] = torch.randn(outputs).mul(0.1)
    torch.save(state, tmp_path / "alexnet.pth")
    images = torch.rand(1, 3, 64, 48)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    x, expected = (images - mean) / std, []
    for layer, (_, _, _, stride, padding) in layers.items():
        x = F.max_pool2d(x, 3, 2) if layer in (3, 6) else x
        x = F.relu(F.conv2d(x, *(state[f"features.{layer}.{kind}"] for kind in ("weight", "bias")), stride, padding))
        expected.append(x)
    found = load_features(f"alexnet:{tmp_path / 'alexnet.pth'}")(images)
    assert [layer.shape[1] for layer in found] == [64, 192, 384, 256, 256]
    torch.testing.assert_close(found, expected)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["vgg16", "alexnet"])
def test_networks_of_torchvision(real_data, kind):
    network = load_features(f"{kind}:{real_data.parent / 'weights' / f'{kind}_features.pth'}")
    images = torch.rand(2, 3, 64, 64)
    assert all(layer.mean() > 0.05 for layer in network(images))


def test_weights_are_found_where_no_file_is_named(vgg16, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("WSSL_WEIGHTS", raising=False)
    with pytest.raises(
        WSSLError, match=r"found .*: get https.*pth, or train without: --model.perceptual=0 --model.style=0"
    ):
        load_features("vgg16")
    monkeypatch.setenv("WSSL_WEIGHTS", str(vgg16[0].rename(vgg16[0].with_name("vgg16_features.pth")).parent))
    images = torch.rand(1, 3, 16, 16)
    assert load_features("vgg16")(images)[0].shape == (1, 64, 8, 8)
    vgg16[0].with_name("vgg16_features.pth").rename(vgg16[0])


def test_features_of_a_pretext_encoder(pretext):
    path, module = pretext
    images = torch.rand(2, 3, 40, 32)
    network = load_features(f"pretext:{path}")
    found = network(images)
    assert len(found) == 6
    assert found[0].shape == (2, 2, 64, 32)
    with_mask = torch.cat([images[..., :32, :], torch.zeros(2, 1, 32, 32)], dim=1)
    last, _ = module.encoder(with_mask)
    torch.testing.assert_close(network(images[..., :32, :])[-1], last)


def test_pretext_alone_is_the_encoder_of_the_checkpoint(pretext, tmp_path, monkeypatch):
    path, _ = pretext
    module = InpaintModule(str(path), freeze_layers=0, perceptual=0.1, features="pretext")
    assert module.hparams["features"] == f"pretext:{path}"
    monkeypatch.chdir(tmp_path)
    assert absolute_features(f"pretext:{path.name}", "none") == f"pretext:{path}"
    with pytest.raises(WSSLError, match="features=pretext: is the encoder of ckpt=, and there is none"):
        InpaintModule("none", width=2, freeze_layers=0, perceptual=0.1, features="pretext")


def test_losses_join_the_training_loss(pretext, monkeypatch):
    logged = {}
    monkeypatch.setattr(InpaintModule, "log", lambda self, name, value, **kwargs: logged.__setitem__(name, value))
    settings = {"width": 2, "freeze_layers": 0, "ckpt": "none"}
    torch.manual_seed(1)
    plain = InpaintModule(**settings)
    torch.manual_seed(1)
    module = InpaintModule(**settings, perceptual=0.5, style=3.0, features=f"pretext:{pretext[0]}")
    batch = {"image": torch.rand(2, 3, 32, 32), "mask": (torch.rand(2, 1, 32, 32) < 0.5).float()}
    loss = module.training_step(batch, 0)
    perceptual, style = logged["train/perceptual"], logged["train/style"]
    assert perceptual > 0
    assert style > 0
    torch.testing.assert_close(loss, plain.training_step(batch, 0) + 0.5 * perceptual + 3.0 * style)
    loss.backward()
    network = module.feature_network(module.device)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert module.decoder.project.weight.grad.abs().sum() > 0
    # Neither saved nor trained.
    assert module.state_dict().keys() == plain.state_dict().keys()
    # Without a hole the composite is the truth.
    batch["mask"].zero_()
    module.training_step(batch, 0)
    assert logged["train/perceptual"] == 0.0


def test_a_trained_model_opens_without_its_features(pretext):
    module = InpaintModule(width=2, ckpt="none", perceptual=1.0, features=f"pretext:{pretext[0]}")
    pretext[0].unlink()
    assert InpaintModule(**module.hparams).perceptual == 1.0
    with pytest.raises(WSSLError, match=r"features=.*does not exist"):
        module.check_trainer(Trainer(logger=False))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"perceptual": 0.1}, "perceptual=0.1: needs features: give features=vgg16:FILE"),
        ({"style": -1.0, "features": "vgg16:x"}, "style=-1.0: must be a number, 0 or more"),
        ({"features": "vgg16:x"}, "features=vgg16:x: nothing uses them"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(WSSLError, match=message):
        InpaintModule(width=2, ckpt="none", **settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet:x.pth", "features=resnet:x.pth: names no features: give features=vgg16:FILE"),
        ("vgg16:missing.pth", "features=missing.pth: does not exist: get https://download.pytorch.org/models/vgg16"),
        ("pretext:missing.ckpt", "features=missing.ckpt: does not exist"),
    ],
)
def test_wrong_features(name, message):
    with pytest.raises(WSSLError, match=message):
        load_features(name)


def test_vgg16_of_another_shape(vgg16, tmp_path):
    other = dict(vgg16[1])
    other["features.5.weight"] = torch.rand(2, 2)
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(WSSLError, match=r"lacks features\.5\.weight of shape \(128, 64, 3, 3\)"):
        load_features(f"vgg16:{tmp_path / 'other.pth'}")
