"""The border of a sharpened image tells its level no better than the inside does, neither by too much nor too little.

The statistic is that of the steps between neighbouring rows, from each of the four sides: the logarithm of the mean
step of the outermost three pairs, less that of the seven pairs further in, so that the content and the strength of the
filter cancel. A quadratic discriminant, fitted on half of the images and tested on the others, names the level.
"""

import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.enhance import sharpness

from wssl_pl.data import WSSLDataModule
from wssl_pl.modules import PretextModule
from wssl_pl.tasks import Sharpness

LEVELS = 4
# Steps at the border and inside differ a little in real images, more so when they are smoothed: with real pixels around
# the crop the levels are told with .30 to .37, not .25.
NEAR_CHANCE = (0.18, 0.42)


def border_steps(images):
    """`(B, 3)`: the statistic of the three outermost pairs of rows."""
    steps = 0.0
    for turn in range(4):
        rows = torch.rot90(images, turn, (2, 3))[:, :, :11]
        steps = steps + (rows[:, :, 1:] - rows[:, :, :-1]).abs().mean(dim=(1, 3)).add(1e-4).log()
    return ((steps[:, :3] - steps[:, 3:].mean(dim=1, keepdim=True)) / 4).double().numpy()


def accuracy(classes):
    """Of a quadratic discriminant; `classes` holds `(N, 3)` for each class."""
    half = len(classes[0]) // 2
    fitted = [(part[:half].mean(0), np.cov(part[:half].T) + 1e-9 * np.eye(3)) for part in classes]
    right = 0
    for number, part in enumerate(classes):
        scores = [
            np.einsum("ni,ij,nj->n", part[half:] - mean, np.linalg.inv(spread), part[half:] - mean)
            + np.linalg.slogdet(spread)[1]
            for mean, spread in fitted
        ]
        right += (np.argmin(scores, axis=0) == number).sum()
    return right / sum(len(part) - half for part in classes)


def chance_to_be_larger(one, other):
    """The area under the ROC curve; .5 for equal distributions, below it where `one` tends to be smaller."""
    return (one[:, None] > other[None]).mean()


class Recorder(PretextModule):
    """Keeps the border statistic of what the encoder sees of every training image at each level."""

    def __init__(self):
        super().__init__(["sharpness"], width=2)
        self.found = [[] for _ in range(LEVELS)]

    def training_step(self, batch, batch_idx):
        for level in range(LEVELS):
            chosen = batch | {"random": torch.full_like(batch["random"], (level + 0.5) / LEVELS)}
            self.found[level].append(border_steps(self.prepare_inputs(chosen)[0]))
        return sum(parameter.sum() * 0.0 for parameter in self.parameters())


def classes_in_training(images, resize, image_size, limit):
    module = Recorder()
    data = WSSLDataModule(str(images), "synthetic", image_size, resize, batch_size=40, limit=limit, num_workers=0)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data)
    return [np.concatenate(part) for part in module.found]


def check_near_chance(classes):
    assert len(classes[0]) >= 240
    low, high = NEAR_CHANCE
    assert low < accuracy(classes) < high
    smoothed, sharp = classes[0][:, 0], classes[-1][:, 0]
    assert 0.3 < chance_to_be_larger(smoothed, sharp) < 0.7


def test_the_border_of_the_synthetic_faces_does_not_tell_the_level():
    check_near_chance(classes_in_training("synthetic", resize=64, image_size=56, limit=240))


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("resize", [256, 224])
def test_the_border_of_real_crops_does_not_tell_the_level(real_data, resize):
    check_near_chance(classes_in_training(real_data / "celeba_hq", resize, image_size=224, limit=400))


BORDERS = {
    "unfiltered": (lambda images, factor: sharpness(images, factor), (0.7, 1.0)),
    "reflected": (
        lambda images, factor: sharpness(F.pad(images, (1, 1, 1, 1), mode="reflect"), factor)[..., 1:-1, 1:-1],
        (0.0, 0.3),
    ),
}


@pytest.mark.parametrize("border", BORDERS)
def test_the_check_notices_a_border_that_is_too_sharp_or_too_smooth(border, monkeypatch):
    change, (low, high) = BORDERS[border]
    monkeypatch.setattr(Sharpness, "forward", lambda self, images, labels: change(images, self.factor(labels)))
    monkeypatch.setattr(Sharpness, "margin", 0)
    classes = classes_in_training("synthetic", resize=64, image_size=56, limit=240)
    assert low < chance_to_be_larger(classes[0][:, 0], classes[-1][:, 0]) < high


def test_a_crop_of_a_filtered_image_is_the_filtered_crop_with_its_margin():
    images, uniform = torch.rand(4, 3, 40, 40), torch.rand(4, 16)
    module = PretextModule(["rotation", "saturation", "sharpness"], width=2)
    assert module.crop_margin == 1
    crops, record = module.transform(images[..., 3:-3, 3:-3], uniform, margin=1)
    drawn = record.drawn
    whole = images
    for name, task in module.tasks.items():
        whole = sharpness(whole, task.factor(drawn[name])) if name == "sharpness" else task(whole, drawn[name])
    torch.testing.assert_close(crops, whole[..., 4:-4, 4:-4])
    assert all(torch.equal(record.targets[name], drawn[name]) for name in drawn)


def test_a_task_that_masks_sees_the_crop_alone():
    module = PretextModule(["sharpness", "masked"], width=2)
    images, uniform = torch.rand(4, 3, 50, 50), torch.rand(4, 16)
    changed, record = module.transform(images, uniform, margin=1)
    assert changed.shape == record.targets["masked"].shape == (4, 3, 48, 48)
    expected = module.tasks["masked"](record.targets["masked"], record.drawn["masked"])
    assert torch.equal(changed, expected)
    assert torch.equal(changed == 0, record.mask.expand_as(changed) | (record.targets["masked"] == 0))


def test_without_a_margin_a_linear_image_stays_linear():
    ramp = torch.linspace(0.2, 0.8, 16).expand(1, 3, 16, 16)
    torch.testing.assert_close(Sharpness()(ramp, torch.zeros(1, dtype=torch.long)), ramp)
