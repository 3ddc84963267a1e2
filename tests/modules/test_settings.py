"""Settings of READING: the hole's fill value, the initialisation, log-cosh's `a`, SSIM's window; all with defaults."""

import math

import pytest
import torch
from lightning import Trainer

from wssl_pl.errors import WSSLError
from wssl_pl.losses import WSSLLoss, log_cosh, ssim_loss
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.networks.inputs import smooth_fill

SIZE = 32


def batch(count=4):
    mask = torch.zeros(count, 1, SIZE, SIZE)
    mask[..., 8:20, 4:28] = 1.0
    return {"image": torch.rand(count, 3, SIZE, SIZE), "mask": mask, "random": torch.randint(2**24, (count, 16)).int()}


def in_hole(seen, data):
    return seen[:, :3][(data["mask"] > 0.5).expand(-1, 3, -1, -1)]


@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mask_channel", [False, True])
def test_the_network_sees_the_value_in_the_hole(fill, mask_channel):
    module, data = InpaintModule(width=2, fill=fill, mask_channel=mask_channel), batch()
    seen = module.with_holes(data["image"], data["mask"])
    assert seen.shape[1] == 3 + mask_channel
    assert (in_hole(seen, data) == fill).all()
    known = (data["mask"] <= 0.5).expand(-1, 3, -1, -1)
    assert torch.equal(seen[:, :3][known], data["image"][known])


def test_mean_is_each_images_colour_outside_the_hole():
    data = batch()
    spoilt = torch.where(data["mask"] > 0.5, torch.nan, data["image"])
    seen = InpaintModule(width=2, fill="mean").with_holes(spoilt, data["mask"])
    for number in range(len(seen)):
        known = data["image"][number][:, data["mask"][number, 0] <= 0.5].mean(dim=1)
        hole = seen[number][:, data["mask"][number, 0] > 0.5]
        torch.testing.assert_close(hole, known[:, None].expand_as(hole))


@pytest.mark.parametrize("fill", ["mean", "smooth"])
def test_an_image_without_a_known_pixel_is_grey(fill):
    seen = InpaintModule(width=2, fill=fill).with_holes(torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8))
    assert (seen == 0.5).all()


def test_a_change_is_0_at_first_and_is_added_to_the_logit_of_the_input():
    images, masks = torch.rand(2, 3, 40, 56), (torch.rand(2, 1, 40, 56) > 0.7).float()
    module = InpaintModule("none", width=2, freeze_layers=0, output="change", fill="smooth", mask_channel=True)
    start = smooth_fill(images, masks).clamp(0.01, 0.99)
    torch.testing.assert_close(module(images, masks), start)
    with torch.no_grad():
        module.decoder.project.bias.fill_(0.5)
    # By the definition of the logit: the odds p / (1 - p) are multiplied by exp(0.5).
    odds = start / (1 - start) * math.exp(0.5)
    torch.testing.assert_close(module(images, masks), odds / (1 + odds))
    loss = module.loss(module(images, masks), images)
    loss.backward()
    assert module.decoder.project.weight.grad.abs().sum() > 0


def test_smooth_is_between_the_colours_at_the_border_of_the_hole():
    image, mask = torch.rand(2, 3, 37, 70), torch.zeros(2, 1, 37, 70)
    image[..., :20], image[..., 50:] = 0.2, 0.8
    mask[0, :, :, 20:50] = 1  # between two colours; the second image has no hole
    image = torch.where(mask > 0.5, torch.nan, image)
    filled = smooth_fill(image, mask)
    known = (mask <= 0.5).expand_as(image)
    assert torch.equal(filled[known], image[known])
    hole = filled[0, :, :, 20:50]
    assert 0.2 <= hole.min() < 0.3 < 0.7 < hole.max() < 0.8001
    assert (hole.diff(dim=-1) >= -1e-6).all()
    assert (hole[..., 0] < 0.35).all()
    assert (hole[..., -1] > 0.65).all()
    torch.testing.assert_close(smooth_fill(image[:1], mask[:1]), filled[:1])


@pytest.mark.parametrize("fill", [0.25, "mean"])
@pytest.mark.parametrize(
    "settings",
    [{"tasks": ["rotation"], "pretext_holes": True}, {"tasks": ["masked"]}, {"tasks": ["masked", "rotation"]}],
)
def test_the_pretext_stage_sees_it_too(fill, settings):
    data, seen = batch(), []
    for value in (0.0, fill):
        module = PretextModule(width=2, fill=value, **settings)
        seen.append(module.prepare_inputs(data)[0])
    changed = (seen[0] != seen[1]).any(dim=1, keepdim=True)
    assert changed.any()
    assert (seen[0][changed.expand_as(seen[0])] == 0).all()
    if fill == 0.25:
        assert (seen[1][changed.expand_as(seen[1])] == 0.25).all()


def test_the_downstream_stage_takes_the_checkpoints_value(fit, tmp_path):
    fit(PretextModule(["masked"], width=2, fill=0.5), max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    ckpt = str(tmp_path / "a.ckpt")
    assert InpaintModule(ckpt).hparams["fill"] == 0.5
    assert InpaintModule(ckpt, fill="mean").hparams["fill"] == "mean"
    assert InpaintModule(width=2).hparams["fill"] == 0.0


def test_initialisations():
    modules = {init: InpaintModule(width=8, freeze_layers=0, init=init) for init in ("he", "xavier", "pytorch")}
    weights = {init: module.decoder.stages[0].first.conv.weight for init, module in modules.items()}
    biases = {init: module.decoder.stages[0].first.conv.bias for init, module in modules.items()}
    outputs, inputs = weights["he"].shape[:2]
    assert weights["he"].std().item() == pytest.approx(math.sqrt(2 / (9 * inputs)), rel=0.02)
    assert weights["xavier"].std().item() == pytest.approx(math.sqrt(2 / (9 * (inputs + outputs))), rel=0.02)
    assert weights["pytorch"].std().item() == pytest.approx(math.sqrt(1 / (27 * inputs)), rel=0.02)
    assert not biases["he"].any()
    assert not biases["xavier"].any()
    assert biases["pytorch"].any()
    first = modules["xavier"].encoder.stages[0].first.conv.weight
    assert first.std().item() == pytest.approx(math.sqrt(2 / (9 * 11)), rel=0.15)


def test_the_initialisation_reaches_the_heads_and_leaves_an_encoder_that_is_taken_over(fit, tmp_path):
    pretext = PretextModule(["rotation"], width=2, init="pytorch")
    assert pretext.heads["rotation"].layers[0].bias.any()
    fit(pretext, max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    module = InpaintModule(str(tmp_path / "a.ckpt"), init="xavier")
    for key, value in module.encoder.state_dict().items():
        assert torch.equal(value, pretext.state_dict()[f"encoder.{key}"])


def test_the_loss_has_its_settings():
    a, b = torch.rand(2, 3, SIZE, SIZE), torch.rand(2, 3, SIZE, SIZE)
    loss = WSSLLoss(0.5, "fast", a=4.0, window=7, sigma=1.0)
    expected = 0.5 * log_cosh(a, b, 4.0) + 0.5 * ssim_loss(a, b, "fast", 7, 1.0)
    assert loss(a, b).item() == pytest.approx(expected.item(), rel=1e-6)
    module = InpaintModule(width=2, alpha=0.5, log_cosh_a=4.0, ssim_window=7, ssim_sigma=1.0)
    assert module.loss(a, b).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{}, {"ssim_window": 7}, {"ssim_sigma": 3.0}, {"log_cosh_a": 4.0}, {"alpha": 0.3}, {"loss": "ssim"}],
)
def test_the_validation_loss_is_the_loss_and_the_metric_stays_the_same(settings, monkeypatch):
    logged = {}
    monkeypatch.setattr(InpaintModule, "log", lambda self, name, value, **kwargs: logged.__setitem__(name, value))
    module = InpaintModule(width=2, **settings)
    with torch.no_grad():
        for _ in range(2):  # a validation starts again
            parts = [batch(3), batch(1)]
            for part in parts:
                module.validation_step(part, 0)
            module.on_validation_epoch_end()
            outputs = [module(part["image"], part["mask"]) for part in parts]
            losses, ssims = (
                [measure(output, part["image"]).item() for output, part in zip(outputs, parts, strict=True)]
                for measure in (module.loss, ssim_loss)
            )
            assert logged["val/loss"].item() == pytest.approx((3 * losses[0] + losses[1]) / 4, rel=1e-5)
            assert logged["val/ssim"].item() == pytest.approx(1 - (3 * ssims[0] + ssims[1]) / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "both"}, "output=both: is neither image nor change"),
        ({"fill": 1.5}, r"fill=1\.5: must be a value between 0 and 1, mean or smooth"),
        ({"fill": float("nan")}, r"fill=nan"),
        ({"log_cosh_a": 0.0}, r"log_cosh_a=0\.0: must be a positive number"),
        ({"ssim_window": 10}, r"ssim_window=10: must be odd and at least 3"),
        ({"ssim_sigma": -1.0}, r"ssim_sigma=-1\.0: must be a positive number"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line(settings, message):
    with pytest.raises(WSSLError, match=message):
        InpaintModule(width=2, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"log_cosh_a": 2.0, "loss": "ssim"}, r"log_cosh_a=2\.0: loss=ssim has no log-cosh: .* loss=wssl"),
        ({"log_cosh_a": 2.0, "alpha": 0.0}, r"log_cosh_a=2\.0: alpha=0\.0 has no log-cosh: .* another alpha"),
        ({"ssim_window": 7, "alpha": 1.0}, r"ssim_window=7: alpha=1\.0 has no SSIM: omit it, or give another alpha"),
        ({"ssim_sigma": 2.0, "loss": "log_cosh"}, r"ssim_sigma=2\.0: loss=log_cosh has no SSIM"),
    ],
)
def test_a_setting_without_effect_is_refused_before_a_training_and_opened_from_a_file(settings, message):
    module = InpaintModule(width=2, **settings)  # as version 0.2 has trained it
    with pytest.raises(WSSLError, match=message):
        module.check_trainer(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"))


def test_images_smaller_than_the_window_are_refused():
    class Data:
        image_size = 16

    with pytest.raises(WSSLError, match="needs at least 17 pixels"):
        InpaintModule(width=2, ssim_window=33).check_data(Data())


def test_a_resumed_run_keeps_its_settings(fit, tmp_path):
    settings = {"fill": 0.5, "log_cosh_a": 3.0, "ssim_window": 7, "init": "xavier"}
    fit(InpaintModule(width=2, **settings), max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    assert InpaintModule.load_from_checkpoint(tmp_path / "a.ckpt").hparams.items() >= settings.items()
