import io

import pytest
import torch
from PIL import Image, ImageEnhance
from torchvision.transforms.functional import gaussian_blur, pil_to_tensor, to_pil_image

from wssl_pl.errors import WSSLError
from wssl_pl.synthetic import draw_face
from wssl_pl.tasks import TASKS, Blur, Contrast, Damage, Jpeg, Noise
from wssl_pl.tasks.noise import normal

DAMAGES = [name for name, task in TASKS.items() if issubclass(task, Damage)]


@pytest.fixture(scope="module")
def faces():
    """Images of 8-bit values, `(4, 3, 48, 32)`."""
    drawn = [torch.from_numpy(draw_face(seed, 48)) for seed in range(4)]
    return torch.stack([image.permute(2, 0, 1) for image in drawn])[..., 8:40].float() / 255.0


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_between_the_levels(name, faces):
    task = TASKS[name]()
    uniform = torch.tensor([0.0, 0.3, 0.7, 1.0])
    strength = task.strength(uniform)
    assert strength[0] == min(task.levels)
    assert strength[3] == max(task.levels)
    damaged = task.damage(faces, strength, torch.full((4,), 0.25))
    assert damaged.shape == faces.shape
    assert damaged.min() >= 0
    assert damaged.max() <= 1
    assert (damaged - faces).abs().amax(dim=(1, 2, 3)).gt(0.01).sum() >= 2
    clean = task.damage(faces, torch.full((4,), task.levels[-1]), torch.zeros(4))
    torch.testing.assert_close(clean, faces, atol=2e-6, rtol=0)


def test_contrast_equals_pil(faces):
    damaged = Contrast().damage(faces, torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.zeros(4))
    for image, before, factor in zip(damaged, faces, (0.25, 0.5, 0.75, 1.0), strict=True):
        expected = pil_to_tensor(ImageEnhance.Contrast(to_pil_image(before)).enhance(factor)).float()
        assert (255 * image - expected).abs().max() <= 2.0  # PIL rounds the mean and the result


@pytest.mark.parametrize("sigma", [0.5, 1.3, 2.0])
def test_blur_equals_torchvision(faces, sigma):
    damaged = Blur().damage(faces, torch.full((4,), sigma), torch.zeros(4))
    torch.testing.assert_close(damaged, gaussian_blur(faces, [13, 13], [sigma, sigma]))


def test_blur_of_an_image_smaller_than_its_kernel():
    image = torch.full((1, 3, 4, 5), 0.3)
    torch.testing.assert_close(Blur().damage(image, torch.tensor([2.0]), torch.zeros(1)), image)


@pytest.mark.parametrize("quality", [10, 30, 60, 90])
def test_jpeg_equals_libjpeg(faces, quality):
    damaged, files = Jpeg().damage(faces, torch.full((4,), float(quality)), torch.zeros(4)), []
    for face in faces:
        file = io.BytesIO()
        to_pil_image(face).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        files.append(pil_to_tensor(Image.open(file)).float())
    difference = 255 * damaged - torch.stack(files)
    # Another upsampling of the colours, and rounding between the steps, which decides some halves otherwise.
    assert difference.abs().mean() < 2.5
    assert difference.mean(dim=(0, 2, 3)).abs().max() < 1.0
    lost, expected = (
        (255 * faces - found).square().mean().sqrt().item() for found in (255 * damaged, torch.stack(files))
    )
    assert lost == pytest.approx(expected, rel=0.02)


def test_noise_has_its_deviation_and_is_a_samples_own(faces):
    grey = torch.full((3, 3, 64, 64), 0.5)
    keys = torch.tensor([0.1, 0.2, 0.1])
    damaged = Noise().damage(grey, torch.tensor([0.05, 0.1, 0.05]), keys)
    assert (damaged - grey).std(dim=(1, 2, 3)).tolist() == pytest.approx([0.05, 0.1, 0.05], rel=0.03)
    assert torch.equal(damaged[0], damaged[2])
    alone = Noise().damage(grey[1:2], torch.tensor([0.1]), keys[1:2])
    assert torch.equal(alone[0], damaged[1])


def test_noise_is_white_and_normal():
    numbers = normal(torch.tensor([0.3, 0.6]), torch.Size((3, 128, 128)))
    assert numbers.mean().abs() < 0.01
    assert numbers.std() == pytest.approx(1.0, abs=0.01)
    assert numbers.pow(4).mean() == pytest.approx(3.0, abs=0.15)
    flat = numbers.flatten(1)
    assert (flat[0] * flat[1]).mean().abs() < 0.02
    assert (flat[:, 1:] * flat[:, :-1]).mean().abs() < 0.02


def test_noise_draws_a_label_and_a_key(faces):
    task = Noise()
    drawn = task.draw(torch.tensor([[0.1, 0.5], [0.9, 0.5], [0.1, 0.7], [0.1, 0.5]]))
    assert task.target(faces, drawn).tolist() == [0, 3, 0, 0]
    damaged = task(faces, drawn)
    assert torch.equal(damaged[1], faces[1])
    added = task(torch.full_like(faces, 0.5), drawn)
    assert torch.equal(added[0], added[3])
    assert not torch.equal(added[0], added[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_each_sample_has_its_own_noise(faces, dtype):
    images, drawn = torch.full_like(faces[:2], 0.5), Noise().draw(torch.tensor([[0.1, 0.8], [0.1, 0.8004]]))
    expected = Noise()(images, drawn)
    torch.set_default_dtype(dtype)  # as Lightning does in a step
    try:
        damaged = Noise()(images, drawn)
    finally:
        torch.set_default_dtype(torch.float32)
    assert not torch.equal(damaged[0], damaged[1])
    assert torch.equal(damaged, expected)


@pytest.mark.parametrize(
    ("task", "levels", "message"),
    [(Blur, [0, 3], "outside"), (Jpeg, [0, 50], "outside"), (Noise, [0, 2], "outside"), (Contrast, [-1, 1], "outside")],
)
def test_levels_that_cannot_be(task, levels, message):
    with pytest.raises(WSSLError, match=message):
        task(levels)
