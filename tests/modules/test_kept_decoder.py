import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.losses import WSSLLoss
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.synthetic import draw_face
from wssl_pl.tasks import Masked

TASKS = ["saturation", "masked"]


@pytest.fixture(autouse=True)
def logged(monkeypatch):
    """Modules log into a dictionary instead of a trainer."""
    figures = {}
    for module in (PretextModule, InpaintModule):
        monkeypatch.setattr(module, "log", lambda self, name, value, **kwargs: figures.__setitem__(name, value))
    return figures


def batch(size=32):
    return {
        "image": torch.rand(2, 3, size, size),
        "mask": torch.zeros(2, 1, size, size),
        "random": torch.rand(2, 16),
        "index": torch.arange(2),
    }


def save(module, path):
    torch.save({"stage": "pretext", "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    return str(path)


@pytest.mark.parametrize("heads", ["encoder", "decoder", "both"])
def test_every_part_is_trained(heads, logged):
    module = PretextModule(TASKS, width=2, decoder=True, heads=heads)
    module.training_step(batch(), 0).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    (group,) = module.parameter_groups()
    assert len(group["params"]) == len(list(module.parameters()))
    assert list(module.heads) == ["saturation"]
    assert {"train/r2/masked", "train/accuracy/saturation"} <= set(logged)


def test_the_reconstruction_is_the_decoders_in_full_size():
    module = PretextModule(["masked"], width=2, decoder=True)
    images = torch.rand(1, 3, 40, 64)  # 40 is padded to 64
    outputs = module(images)
    assert outputs["masked"].shape == (1, 3, 40, 64)
    features, skips = module.encoder(images[..., :32, :])
    torch.testing.assert_close(module(images[..., :32, :])["masked"], module.decoder(features, skips))


def test_the_reconstruction_is_trained_on_the_loss_of_the_downstream_stage():
    target = torch.rand(2, 3, 32, 32)
    output = torch.randn(2, 3, 32, 32)
    expected = 7.0 * WSSLLoss()(torch.sigmoid(output), target)
    torch.testing.assert_close(Masked().loss(output, target), expected)
    small = torch.randn(2, 3, 8, 8)  # of the small head, the absolute error
    pooled = torch.nn.functional.avg_pool2d(target, 4)
    torch.testing.assert_close(Masked().loss(small, target), 5.0 * (torch.sigmoid(small) - pooled).abs().mean())
    # Filling faces with their mean colour costs about 1, so that weights mean the same with and without the decoder.
    faces = torch.stack([torch.from_numpy(draw_face(seed, 64)).permute(2, 0, 1) / 255 for seed in range(8)])
    mean = faces.mean(dim=(2, 3), keepdim=True).expand_as(faces)
    assert 0.7 < Masked().loss(torch.logit(mean), faces) < 1.3


def test_heads_read_the_decoders_features():
    module = PretextModule(TASKS, width=2, decoder=True, heads="both")
    images = torch.rand(2, 3, 32, 32)
    features, skips = module.encoder(images)
    decoded = module.decoder.features(features, skips)
    means = torch.cat([features.mean(dim=(2, 3)), decoded.mean(dim=(2, 3))], dim=1)
    torch.testing.assert_close(module(images)["saturation"], module.heads["saturation"].layers(means))


def test_the_downstream_stage_takes_over_both(tmp_path):
    pretext = PretextModule(TASKS, width=2, decoder=True, block="residual")
    ckpt = save(pretext, tmp_path / "pretext.ckpt")
    module = InpaintModule(ckpt=ckpt, reuse="all", context="fourier")
    for part in ("encoder", "decoder"):
        own, taken = getattr(module, part).state_dict(), getattr(pretext, part).state_dict()
        assert own.keys() == taken.keys()
        assert all(torch.equal(own[key], taken[key]) for key in own)
    # Without asking, the decoder is new; and a saved model does not need the pretext checkpoint.
    other = InpaintModule(ckpt=ckpt)
    assert not torch.equal(other.decoder.project.weight, pretext.decoder.project.weight)
    assert InpaintModule(**module.hparams).hparams["reuse"] == "encoder"
    images, masks = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    torch.testing.assert_close(module(images, masks), torch.sigmoid(pretext(images)["masked"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": TASKS, "heads": "decoder"}, "heads=decoder: there is no decoder"),
        ({"tasks": ["saturation"], "decoder": True}, r"decoder=true: none of the tasks \['saturation'\] reconstructs"),
        ({"tasks": ["masked"], "decoder": True, "heads": "both"}, "heads=both: none of the tasks .* is a classif"),
        ({"tasks": TASKS, "decoder": True, "weighting": "upgrad"}, "decoder=true: upgrad combines"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    pytest.importorskip("torchjd")
    with pytest.raises(WSSLError, match=message):
        PretextModule(width=2, **settings)


def test_a_checkpoint_without_a_decoder(tmp_path):
    ckpt = save(PretextModule(TASKS, width=2), tmp_path / "pretext.ckpt")
    with pytest.raises(WSSLError, match=r"reuse=all: ckpt=.* has no decoder: train it with decoder=true"):
        InpaintModule(ckpt=ckpt, reuse="all")
    with pytest.raises(WSSLError, match="reuse=all: there is no checkpoint"):
        InpaintModule(ckpt="none", width=2, reuse="all")
