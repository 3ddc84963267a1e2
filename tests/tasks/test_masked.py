import pytest
import torch
import torch.nn.functional as F

from wssl_pl.data.draws import uniform
from wssl_pl.modules.damages import Damages
from wssl_pl.modules.heads import change_images
from wssl_pl.networks import UNetEncoder
from wssl_pl.study.definition import read_studies
from wssl_pl.synthetic import synthetic_faces
from wssl_pl.tasks import Autoencoder, Masked, make_tasks
from wssl_pl.tasks.masked import PATCHES, SCALE, expand


def numbers(count, epoch=0, seed=0):
    """Random numbers as a batch has them."""
    drawn = uniform(seed, "train", epoch, range(count), 16)
    return torch.from_numpy(drawn).float()[:, : Masked.numbers]


def test_the_masked_share_is_drawn_between_its_bounds():
    share = Masked().draw(numbers(2000)).float().mean(dim=(1, 2, 3))
    assert share.min() >= 0.3 - 0.5 / PATCHES**2
    assert share.max() <= 0.5 + 0.5 / PATCHES**2
    assert share.mean().item() == pytest.approx(0.4, abs=0.005)
    assert share.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.05)


def test_every_patch_is_masked_equally_often_and_independently_of_its_neighbour():
    masked = Masked([0.4, 0.4]).draw(numbers(4000)).float()
    often = masked.mean(dim=(0, 1))
    # Four standard deviations of a mean over 4000 samples.
    assert (often - 58 / 144).abs().max() < 4 * (0.24 / 4000) ** 0.5
    beside = (masked[..., 1:] * masked[..., :-1]).mean()
    assert beside.item() == pytest.approx(58 / 144 * 57 / 143, abs=0.003)


def test_a_sample_sees_the_same_whatever_the_batch():
    drawn = Masked().draw(numbers(32))
    assert torch.equal(drawn[7:9], Masked().draw(numbers(32)[7:9]))
    assert not torch.equal(drawn[7], drawn[8])
    assert not torch.equal(drawn, Masked().draw(numbers(32, epoch=1)))
    assert not torch.equal(drawn, Masked().draw(numbers(32, seed=1)))


def test_the_draws_stay_what_they_are():
    # Of MurmurHash3's finaliser fmix32(1) = 0x514E28B7; a change would change what a resumed run sees.
    assert expand(torch.tensor([[0.0]]), 1).item() == mix(0x9E3779B9)
    assert expand(torch.tensor([[2.0**-24, 0.5]]), 3).tolist()[0] == [
        mix(mix(mix(1) ^ (1 << 23)) + lane * 0x9E3779B9) for lane in (1, 2, 3)
    ]
    assert mix(1) == 0x514E28B7


def mix(x):
    """MurmurHash3's finaliser in Python's integers."""
    x &= 0xFFFFFFFF
    x = (x ^ (x >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ (x >> 16)


@pytest.mark.parametrize("size", [96, 50, 7])
def test_masked_patches_are_zero_and_the_rest_is_untouched(size):
    task = Masked()
    images = 0.1 + 0.9 * torch.rand(4, 3, size, size)
    drawn = task.draw(numbers(4))
    changed = task(images, drawn)
    masked = task.mask(images, drawn)
    assert torch.equal(task(images, masked), changed)
    assert torch.equal(changed == 0, masked.expand_as(images))
    assert torch.equal(changed[~masked.expand_as(images)], images[~masked.expand_as(images)])
    if size == 96:
        assert torch.equal(masked[:, :, ::8, ::8], drawn)


def test_a_feature_aims_at_its_own_part_of_an_image_whose_sides_32_does_not_divide():
    image = torch.rand(1, 3, 48, 40)
    logits = torch.zeros(1, 3, 8, 8)  # of one feature, which is that of the first 32 pixels
    same = image[..., :32, :32]
    assert torch.equal(Autoencoder().loss(logits, image), Autoencoder().loss(logits, same))
    assert torch.equal(Autoencoder().state(logits, image), Autoencoder().state(logits, same))


def test_the_autoencoder_masks_nothing():
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(Autoencoder()(images, Autoencoder().draw(numbers(4))), images)


def test_the_restoration_aims_at_the_image_before_all_other_tasks():
    tasks = make_tasks(["saturation", "sharpness", "restoration"], {"saturation": [0.0, 0.1], "sharpness": [0.0, 0.1]})
    assert list(tasks) == ["restoration", "saturation", "sharpness"]
    images = torch.rand(4, 3, 34, 34)
    changed, drawn = change_images(tasks, images, torch.rand(4, 16), margin=1)
    assert torch.equal(drawn.targets["restoration"], images[..., 1:-1, 1:-1])
    assert (changed - drawn.targets["restoration"]).abs().mean() > 0.05
    assert drawn.mask is None


def test_beside_the_restoration_damages_have_the_strengths_of_the_downstream_stage():
    tasks, damages = make_tasks(["restoration", "saturation", "noise"]), Damages(["saturation", "noise"])
    images, random = torch.rand(64, 3, 32, 32), torch.rand(64, 16)
    changed, drawn = change_images(tasks, images, random)
    # The pretext's columns are those of restoration, saturation, and noise with its key.
    first = tasks["restoration"].numbers
    own = torch.stack([random[:, first], random[:, 0], random[:, first + 1], random[:, first + 2]], dim=1)
    expected, strengths = damages(images, own)
    assert torch.equal(changed, expected)
    for name, values in strengths.items():
        assert torch.equal(drawn.drawn[name], values)
        assert torch.equal(drawn.targets[name], tasks[name].nearest(values))
    assert len(drawn.drawn["saturation"].unique()) == 64


def test_the_arms_that_restore_in_the_pretext_aim_at_the_clean_image():
    (study,) = read_studies(["where"], ["damaged"]).values()
    arms = [arm for arm in study.arms.values() if "restoration" in (arm.pretext or {}).get("model.tasks", [])]
    assert {arm.name for arm in arms} == {"restoring", "all_tuned", "all_equal"}
    for arm in arms:
        assert next(iter(make_tasks(arm.pretext["model.tasks"]))) == "restoration"


@pytest.mark.parametrize("size", [64, 100])
def test_the_head_makes_a_quarter_of_the_image(size):
    features, _ = UNetEncoder(width=4)(torch.rand(2, 3, size, size))
    output = Masked().head(64)(features)
    assert output.shape == (2, 3, size // 32 * 8, size // 32 * 8)
    assert Masked().loss(output, torch.rand(2, 3, size, size)).item() > 0


def test_loss_and_r2_by_hand():
    task = Masked()
    target = torch.tensor([0.2, 0.8]).repeat(2, 3, 4, 4).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    small = F.avg_pool2d(target, 4)
    perfect = torch.logit(small)
    grey = torch.zeros_like(small)
    assert task.loss(perfect, target).item() == pytest.approx(0.0, abs=1e-6)
    assert task.loss(grey, target).item() == pytest.approx(SCALE * 0.3)
    score = [task.score(task.state(output, target)).item() for output in (perfect, grey, torch.logit(1 - small))]
    # The mean colour is 0.5, so that grey fills with it; the negative is four times as far from the truth.
    assert score == pytest.approx([1.0, 0.0, -3.0], abs=1e-5)


def test_states_add_up():
    task = Masked()
    output, target = torch.randn(6, 3, 8, 8), torch.rand(6, 3, 32, 32)
    parts = task.state(output[:4], target[:4]) + task.state(output[4:], target[4:])
    assert torch.allclose(parts, task.state(output, target), rtol=1e-5)


def test_an_image_of_one_colour_has_nothing_to_explain():
    task = Masked()
    assert task.score(task.state(torch.randn(1, 3, 8, 8), torch.full((1, 3, 32, 32), 0.5))).item() == 0.0


def test_figures_are_float32_under_autocast():
    task = Masked()
    output, target = torch.randn(2, 3, 8, 8).bfloat16(), torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, state = task.loss(output, target), task.state(output, target)
    assert loss.dtype == state.dtype == torch.float32


def test_filling_with_the_mean_colour_costs_about_one_and_explains_nothing():
    faces = torch.from_numpy(synthetic_faces("train", 96, 16)).permute(0, 3, 1, 2).float() / 255
    small = F.avg_pool2d(faces, 4)
    task = Autoencoder()
    for images, size in ((small, 24), (faces, 96)):
        logits = torch.logit(images.mean(dim=(2, 3), keepdim=True)).expand(-1, 3, size, size)
        assert task.loss(logits, faces).item() == pytest.approx(1.0, abs=0.35)
    # Of each image and each channel: a grey of the same brightness explains less than nothing.
    mean = torch.logit(small.mean(dim=(2, 3), keepdim=True)).expand(-1, 3, 24, 24)
    assert task.score(task.state(mean, faces)).item() == pytest.approx(0.0, abs=1e-5)
    grey = torch.logit(small.mean(dim=(1, 2, 3), keepdim=True)).expand(-1, 3, 24, 24)
    assert task.score(task.state(grey, faces)).item() < -0.01


def test_the_mask_of_two_tasks_that_mask_is_their_union():
    tasks = {"first": Masked([0.3, 0.3]), "second": Masked([0.3, 0.3])}
    images, drawn = change_images(tasks, 0.1 + 0.9 * torch.rand(2, 3, 48, 48), torch.rand(2, 16), 0)
    patches = [F.interpolate(drawn.drawn[name].float(), size=(48, 48)) > 0.5 for name in tasks]
    assert torch.equal(drawn.mask.bool(), patches[0] | patches[1])
    assert torch.equal(images == 0, drawn.mask.bool().expand_as(images))
    assert not torch.equal(*patches)
