import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.losses import WSSLLoss
from wssl_pl.metrics import psnr
from wssl_pl.modules import InpaintModule
from wssl_pl.modules.damages import Damages
from wssl_pl.tasks import Blur, Saturation, Sharpness

NAMES = ["saturation", "sharpness"]


@pytest.fixture
def logged(monkeypatch):
    """Modules log into a dictionary instead of a trainer."""
    figures = {}
    monkeypatch.setattr(InpaintModule, "log", lambda self, name, value, **kwargs: figures.__setitem__(name, value))
    return figures


def batch(margin=0, size=32):
    wide = torch.rand(2, 3, size + 2 * margin, size + 2 * margin)
    image = wide[..., margin : margin + size, margin : margin + size]
    mask = torch.zeros(2, 1, size, size)
    mask[..., :10, :] = 1.0
    return {
        "image": image,
        "image_with_margin": wide,
        "mask": mask,
        "random": torch.rand(2, 16),
        "index": torch.arange(2),
    }


def test_damages_by_hand():
    damages, data = Damages(["sharpness", "saturation"]), batch(margin=1)
    damaged, strengths = damages(data["image_with_margin"], data["random"], 1)
    random = data["random"]
    faded = Saturation().damage(data["image_with_margin"], random[:, 0], random[:, 1])  # levels from 0 to 1
    expected = Sharpness().damage(faded, random[:, 2], random[:, 3])[..., 1:-1, 1:-1]
    torch.testing.assert_close(damaged, expected)
    assert list(strengths) == ["saturation", "sharpness"]  # in the order of the tasks
    assert torch.equal(strengths["sharpness"], random[:, 2])


def test_filters_read_real_pixels_beyond_the_crop():
    damages, data = Damages(["blur", "sharpness"]), batch(margin=7)
    assert damages.margin == 7
    damaged, strengths = damages(data["image_with_margin"], data["random"], 7)
    blurred = Blur().damage(data["image_with_margin"], strengths["blur"], torch.zeros(2))[..., 6:-6, 6:-6]
    expected = Sharpness().damage(blurred, strengths["sharpness"], torch.zeros(2))[..., 1:-1, 1:-1]
    torch.testing.assert_close(damaged, expected)


def test_the_target_is_the_clean_image(logged):
    module, data = InpaintModule(ckpt="none", width=2, restore=NAMES), batch(margin=1)
    assert module.crop_margin == 1
    given = module.given(data)
    assert (given - data["image"]).abs().max() > 0.1
    prediction = module(given, data["mask"])
    expected = WSSLLoss()(prediction, data["image"])
    torch.testing.assert_close(module.training_step(data, 0), expected)
    torch.testing.assert_close(module.predict_step(data, 0)["prediction"], prediction)
    known = module.predict_step(data, 0)["composite"][..., 10:, :]
    assert torch.equal(known, given[..., 10:, :])


def test_metrics_of_hole_and_known_part(logged):
    module, data = InpaintModule(ckpt="none", width=2, restore=NAMES), batch(margin=1)
    module.validation_step(data, 0)
    module.log_metrics("val")
    with torch.no_grad():
        prediction = module(module.given(data), data["mask"])
    for name, rows in (("psnr_hole", slice(0, 10)), ("psnr_known", slice(10, 32))):
        expected = psnr(prediction[..., rows, :], data["image"][..., rows, :]).mean()
        assert logged[f"val/{name}"].item() == pytest.approx(expected.item(), abs=1e-4)
    # Without restoration the known part is copied, and its PSNR of no interest.
    assert not InpaintModule(ckpt="none", width=2).val_parts


def test_a_saved_model_is_restored_with_its_settings():
    module = InpaintModule(ckpt="none", width=2, restore=NAMES)
    again = InpaintModule(**module.hparams)
    assert again.state_dict().keys() == InpaintModule(ckpt="none", width=2).state_dict().keys()
    assert list(again.damages.tasks) == NAMES


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["rotation"],
            r"restore=\[rotation\]: rotation does not damage an image by degrees: give one or more of sat",
        ),
        (["masked"], "masked does not damage"),
        (["saturaton"], "is not a pretext task: did you mean saturation"),
        (["jpeg", "jpeg"], "given twice"),
        ([], "none given"),
    ],
)
def test_what_cannot_damage(names, message):
    with pytest.raises(WSSLError, match=message):
        InpaintModule(ckpt="none", width=2, restore=names)
