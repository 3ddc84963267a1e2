import kornia
import pytest
import torch
from PIL import Image, ImageEnhance

from wssl_pl.errors import WSSLError
from wssl_pl.tasks import TASKS, Classification, Rotation, Saturation, Sharpness, make_tasks

CLASSIFICATIONS = [name for name, task in TASKS.items() if issubclass(task, Classification)]


@pytest.fixture
def images():
    return torch.rand(8, 3, 32, 32)


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])


def test_rotating_back_gives_the_image(images, labels):
    turned = Rotation()(images, labels)
    for image, before, label in zip(turned, images, labels, strict=True):
        assert torch.equal(torch.rot90(image, -int(label), dims=(1, 2)), before)


def test_rotation_with_other_levels(images):
    turned = Rotation([0, 180])(images, torch.tensor([0, 1] * 4))
    assert torch.equal(turned[0], images[0])
    assert torch.equal(turned[1], images[1].flip(1, 2))


def test_saturation_scales_the_saturation_of_hsv(images, labels):
    changed = Saturation()(images, labels)
    before, after = kornia.color.rgb_to_hsv(images), kornia.color.rgb_to_hsv(changed)
    factors = torch.tensor([0, 0.25, 0.75, 1.0])[labels].view(-1, 1, 1)
    assert torch.allclose(after[:, 1], before[:, 1] * factors, atol=1e-4)
    assert torch.allclose(after[:, 2], before[:, 2], atol=1e-6)


def test_saturation_zero_is_grey_of_the_brightest_channel(images):
    grey = Saturation()(images, torch.zeros(8, dtype=torch.long))
    assert torch.allclose(grey, images.amax(dim=1, keepdim=True).expand_as(grey), atol=1e-6)


def test_sharpness_equals_pil_inside(images, labels):
    images = (images * 255).round() / 255
    changed = Sharpness()(images, labels)
    for image, before, label in zip(changed, images, labels, strict=True):
        picture = Image.fromarray((before * 255).byte().permute(1, 2, 0).numpy())
        expected = ImageEnhance.Sharpness(picture).enhance((0, 0.25, 0.75, 1.0)[label])
        expected = torch.frombuffer(bytearray(expected.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
        difference = (image * 255 - expected.float())[:, 1:-1, 1:-1].abs().max()
        assert difference <= 1.5  # PIL rounds twice


@pytest.mark.parametrize("task", [Saturation, Sharpness])
def test_the_last_level_leaves_the_image_unchanged(task, images):
    assert torch.allclose(task()(images, torch.full((8,), 3)), images, atol=1e-6)


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_each_sample_has_its_own_label(name, images, labels):
    task = TASKS[name]()
    together = task(images, labels)
    alone = torch.cat([task(images[i : i + 1], labels[i : i + 1]) for i in range(8)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert together.shape == images.shape
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert together.max() <= 1


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_every_level_is_equally_likely(name):
    counts = TASKS[name]().labels(torch.rand(40_000)).bincount()
    assert len(counts) == 4
    assert (counts - 10_000).abs().max() < 500


def test_labels_at_the_ends_of_the_range():
    assert Saturation().labels(torch.tensor([0.0, 0.2499, 0.25, 0.99999994])).tolist() == [0, 0, 1, 3]


def test_the_state_is_the_confusion_matrix_and_the_score_its_diagonal():
    task = Saturation([0, 0.5, 1])
    output = torch.eye(3)[[0, 1, 1, 2, 0]]
    state = task.state(output, torch.tensor([0, 1, 2, 2, 1]))
    assert state.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert task.score(state).item() == pytest.approx(3 / 5)


def test_tasks_that_mask_come_last_even_before_one_that_is_registered_later(monkeypatch):
    class Later(Saturation):
        name = "later"

    monkeypatch.setitem(TASKS, "later", Later)
    assert list(make_tasks(["masked", "later", "autoencoder", "rotation"])) == [
        "rotation", "later", "autoencoder", "masked",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "levels", "message"),
    [
        (["rotate"], None, "did you mean rotation"),
        (["sharpness", "sharpness"], None, "given twice"),
        ([], None, "none given"),
        (["saturation"], {"saturation": [0, 1.5]}, r"outside \[0, 1\]"),
        (["saturation"], {"saturation": [0.5]}, "two or more"),
        (["saturation"], {"saturation": [0.5, 0.5]}, "two or more"),
        (["saturation"], {"sharpness": [0, 1]}, "not among the tasks"),
        (["rotation"], {"rotation": [0, 45]}, "0, 90, 180, 270"),
        (["masked"], {"masked": [0.5, 0.3]}, "smallest and the largest"),
        (["masked"], {"masked": [0.5, 1.0]}, "below 1"),
        (["masked"], {"masked": [0.1, 0.2, 0.3]}, "smallest and the largest"),
        (["masked"], {"masked": [float("nan"), 0.5]}, "smallest and the largest"),
        (["autoencoder"], {"autoencoder": [0.3, 0.5]}, "use the task masked"),
        (["mask"], None, "did you mean masked"),
    ],
)
def test_bad_tasks_and_levels(names, levels, message):
    with pytest.raises(WSSLError, match=message):
        make_tasks(names, levels)


def test_tasks_act_in_one_order_whatever_the_user_types():
    assert list(make_tasks(["sharpness", "rotation"])) == ["rotation", "sharpness"]


def test_one_answer_for_all_images_is_chance_however_frequent_it_is():
    always_second = torch.zeros(4, 4)
    always_second[:, 1] = torch.tensor([25.0, 74.0, 76.0, 25.0])
    assert Saturation().at_chance(always_second)
    always_second[1, 1], always_second[2, 2] = 74.0, 30.0
    always_second[2, 1] = 46.0
    assert not Saturation().at_chance(always_second)


@pytest.mark.parametrize(("levels", "samples"), [(4, 200), (4, 16), (2, 1000)])
def test_chance_is_distinguished_from_learning(levels, samples):
    task = Saturation([number / (levels - 1) for number in range(levels)])
    generator = torch.Generator().manual_seed(0)
    chance = 1 / levels
    named = {}
    for accuracy in (chance, chance + 5 * (chance * (1 - chance) / samples) ** 0.5):
        right = torch.binomial(torch.full((500,), float(samples)), torch.tensor(accuracy), generator=generator)
        # Of every level equally many.
        even = torch.eye(levels) / levels
        states = [count * even + (samples - count) * even.roll(1, dims=1) for count in right]
        named[accuracy] = sum(bool(task.at_chance(state)) for state in states) / 500
    by_chance, knowing = named.values()
    assert by_chance > 0.985  # 0.9987 were the binomial distribution a normal one
    assert knowing < 0.1
