import pytest
import torch

from wssl_pl.errors import WSSLError
from wssl_pl.losses import WSSLLoss
from wssl_pl.metrics import psnr
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.damages import Damages
from wssl_pl.modules.heads import change_images
from wssl_pl.tasks import Blur, Saturation, Sharpness, make_tasks

NAMES = ["saturation", "sharpness"]
ORACLE = {"width": 2, "restore": ["jpeg", "saturation"], "strength_channels": True}


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


def test_some_images_are_left_as_they_are():
    damages, images = Damages(["saturation", "jpeg"], undamaged=0.5), torch.rand(4, 3, 16, 16)
    uniform = torch.tensor([[0.0, 0.0, 0.49, 0.0], [0.49, 0.0, 0.75, 0.0], [0.5, 0.0, 0.0, 0.0], [0.75, 0.0, 0.5, 0.0]])
    damaged, strengths = damages(images, uniform)
    torch.testing.assert_close(strengths["saturation"], torch.tensor([1.0, 1.0, 0.0, 0.5]))
    torch.testing.assert_close(strengths["jpeg"], torch.tensor([100.0, 55.0, 100.0, 10.0]))
    torch.testing.assert_close(damaged[0], images[0])
    assert (damaged[1:] - images[1:]).abs().amax(dim=(1, 2, 3)).min() > 0.05
    same = Damages(["saturation", "jpeg"])(images, uniform)
    expected = 10.0 + 90.0 * uniform[:, 2]
    assert torch.equal(same[1]["saturation"], uniform[:, 0])  # by default all are damaged
    torch.testing.assert_close(same[1]["jpeg"], expected)


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_a_probability_that_leaves_nothing_to_learn_is_an_error(value):
    with pytest.raises(WSSLError, match=r"undamaged=.* is a probability of at least 0 and below 1"):
        InpaintModule(ckpt="none", width=2, restore=NAMES, undamaged=value)
    with pytest.raises(WSSLError, match=r"undamaged=0\.5: there are no damages"):
        InpaintModule(ckpt="none", width=2, undamaged=0.5)


def test_damages_and_tasks_are_not_rounded_under_autocast():
    images, uniform = torch.rand(4, 3, 44, 44), torch.rand(4, 16)
    damages = Damages(["saturation", "sharpness", "blur", "contrast"])
    tasks = make_tasks(["sharpness", "blur", "saturation"])
    exact = damages(images, uniform, 6)[0], change_images(tasks, images, uniform, 6)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = damages(images, uniform, 6)[0], change_images(tasks, images, uniform, 6)[0]
    for one, other in zip(exact, rounded, strict=True):
        assert torch.equal(one, other)


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
    # Nothing is pasted back, least of all pixels of the truth.
    assert not any("composite" in name for name in logged)
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


@pytest.mark.parametrize("mask_channel", [False, True])
def test_an_oracle_is_given_the_strengths_as_constant_channels(mask_channel, logged):
    module = InpaintModule(ckpt="none", mask_channel=mask_channel, freeze_layers=0, **ORACLE)
    data, seen = batch(size=33), []  # padded to 64
    module.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss = module.training_step(data, 0)
    module.validation_step(data, 0)
    prediction = module.predict_step(data, 0)["prediction"]
    module.validation_images(data)
    assert len(seen) == 4
    for given in seen:
        assert given.shape == (2, 3 + mask_channel + 2, 64, 64)
        expected = data["random"][:, [0, 2], None, None].expand(-1, -1, 64, 64)  # levels 0 to 1, and 10 to 90
        torch.testing.assert_close(given[:, -2:], expected)
    torch.testing.assert_close(loss, WSSLLoss()(prediction, data["image"]))
    weight = module.encoder.stages[0].first.conv.weight
    loss.backward()
    assert (weight.grad[:, -2:] != 0).any(dim=(0, 2, 3)).all()


def test_an_oracle_without_strengths_is_one_line():
    module = InpaintModule(ckpt="none", **ORACLE)
    with pytest.raises(WSSLError, match="strengths of the damages are not known here: such a model is an oracle"):
        module(torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("block", ["plain", "residual", "gated"])
def test_an_oracle_on_a_pretext_encoder_starts_as_the_blind_network(block, tmp_path, logged):
    pretext = PretextModule(["saturation"], width=2, block=block)
    state = {"state_dict": pretext.state_dict(), "hyper_parameters": dict(pretext.hparams)}
    torch.save({"stage": "pretext"} | state, tmp_path / "pretext.ckpt")
    torch.manual_seed(0)
    blind = InpaintModule(ckpt=str(tmp_path / "pretext.ckpt"), freeze_layers=0, restore=ORACLE["restore"])
    torch.manual_seed(0)
    options = ORACLE | {"width": None, "freeze_layers": 0, "mask_channel": True}
    oracle, data = InpaintModule(ckpt=str(tmp_path / "pretext.ckpt"), **options), batch()
    oracle.decoder.load_state_dict(blind.decoder.state_dict())
    torch.testing.assert_close(oracle.training_step(data, 0), blind.training_step(data, 0))
    again = InpaintModule(**oracle.hparams)
    again.load_state_dict(oracle.state_dict())
    _, strengths = again.damages(data["image"], data["random"])
    expected = oracle.predict_step(data, 0)["prediction"]
    torch.testing.assert_close(again(oracle.given(data), data["mask"], strengths), expected)
    with pytest.raises(WSSLError, match=r"strength_channels=true: the encoder .* freezes the weights of 0 for it"):
        InpaintModule(ckpt=str(tmp_path / "pretext.ckpt"), **ORACLE | {"width": None})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"restore": None}, "strength_channels=true: there are no damages: give restore="),
        ({"task_loss": 0.1, "freeze_layers": 0}, r"task_loss=0.1: strength_channels=true gives the answers away"),
        ({"consistency": 0.1, "freeze_layers": 0}, r"consistency=0.1: strength_channels=true"),
    ],
)
def test_what_an_oracle_cannot_be(options, message):
    with pytest.raises(WSSLError, match=message):
        InpaintModule(ckpt="none", **ORACLE | options)


def test_a_damage_has_a_number_of_its_own_for_its_pattern():
    damages, images = Damages(["noise"]), torch.rand(1, 3, 32, 32).expand(2, -1, -1, -1)
    numbers = torch.rand(1, 16).repeat(2, 1)
    numbers[1, 1] = (numbers[0, 1] + 0.5) % 1.0
    damaged, strengths = damages(images, numbers)
    assert all(torch.equal(value[0], value[1]) for value in strengths.values())
    assert not torch.equal(damaged[0], damaged[1])
    numbers[1] = numbers[0]
    assert torch.equal(*damages(images, numbers)[0])


def test_consistency_compares_with_the_damaged_image(logged, monkeypatch):
    module = InpaintModule("none", freeze_layers=0, width=2, restore=["saturation"], consistency=1.0)
    seen = []
    whole = module._features_of_whole
    monkeypatch.setattr(module, "_features_of_whole", lambda images: seen.append(images) or whole(images))
    data = batch()
    module.training_step(data, 0)
    damaged, _ = module.damages(data["image"], data["random"])
    assert torch.equal(seen[0], damaged)
    assert not torch.equal(damaged, data["image"])
