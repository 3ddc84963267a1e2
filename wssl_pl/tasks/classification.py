"""The tasks of the paper: classify how strongly an image was changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.drawing import new_figure
from wssl_pl.errors import WSSLError
from wssl_pl.networks import TaskHead
from wssl_pl.tasks.base import PretextTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPERATURE_STEPS = (-16, 32)
"""Temperatures from 1/4 to 16, in eighths of a doubling: wider ones come of too few images alone."""


class Classification(PretextTask):
    """A change to the image whose strength the encoder has to recognise: a classification over `levels`.

    A subclass has a name and default levels and implements `forward(images, labels)`. Nothing in it may wait for the
    device: the strength of each sample is looked up on the device, in one batched operation.

    Args:
        levels: the strengths, one class each, at least two; default: `default_levels`.
    """

    score_name = "accuracy"
    ordered = True  # whether a number between two levels has a meaning
    factor_bits: Tensor

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        super().__init__(levels)
        if len(set(self.levels)) < 2 or len(set(self.levels)) < len(self.levels):
            raise WSSLError("levels", self.levels, f"{self.name} takes two or more different ones")
        self.check_levels()
        self.state_shape = (len(self.levels), len(self.levels))
        # Not in the state dict: levels are a hyperparameter, and a checkpoint holds weights only.
        # As bits, because a module in 16 bits (`trainer.precision=bf16-true`) would round numbers.
        bits = torch.tensor(self.levels, dtype=torch.float32).view(torch.int32)
        self.register_buffer("factor_bits", bits, persistent=False)

    def check_levels(self) -> None:
        """Raise `WSSLError` for a level outside [0, 1]: the levels are factors, and 1 leaves the image unchanged."""
        if not all(0.0 <= level <= 1.0 for level in self.levels):
            reason = f"a level of {self.name} is outside [0, 1]: 0 removes it, 1 leaves the image"
            raise WSSLError("levels", self.levels, reason)

    def labels(self, uniform: Tensor) -> Tensor:
        """Return labels `(B,)` int64, each level equally likely, from uniform numbers `(B,)` in [0, 1)."""
        return (uniform * len(self.levels)).long().clamp_(max=len(self.levels) - 1)

    def factor(self, labels: Tensor) -> Tensor:
        """Return the level `(B,)`, float32, of each label `(B,)`."""
        return self.factor_bits.to(labels.device).view(torch.float32)[labels]

    def draw(self, uniform: Tensor) -> Tensor:
        """Return a label for each sample, from uniform numbers `(B, 1)`."""
        return self.labels(uniform[:, 0])

    def target(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the labels."""
        return drawn

    def head(self, in_channels: int) -> nn.Module:
        """Return the head that gives logits `(B, levels)` from the mean features."""
        return TaskHead(in_channels, len(self.levels))

    def predict(self, output: Tensor) -> Tensor:
        """Return the probability of each level, `(B, levels)` float32."""
        return output.float().softmax(dim=1)

    @property
    def unchanged(self) -> float | None:
        """The level that leaves the image as it is; None if there is none."""
        return None

    def describe(self, level: float) -> str:
        """Return what happened to an image, in a few words."""
        return f"{self.name} about {level:.2g}"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy; it is log(levels) at chance."""
        return F.cross_entropy(output, target)

    def losses_by_temperature(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of the outputs over each temperature, `(49,)`, summed over the batch.

        The temperature of the smallest sum over a validation makes probabilities of the outputs (`best_temperature`;
        Guo et al. 2017, "On calibration of modern neural networks").
        """
        # Computed on the device: a constant would be copied there.
        steps = torch.arange(TEMPERATURE_STEPS[0], TEMPERATURE_STEPS[1] + 1, device=output.device)
        scaled = output.float() / torch.exp2(steps.float() / 8.0).view(-1, 1, 1)
        right = target.expand(len(steps), -1).unsqueeze(2)
        return -scaled.log_softmax(dim=2).gather(2, right).sum(dim=(1, 2))

    def state(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the confusion matrix, rows true, columns predicted, as counts."""
        cells = target * len(self.levels) + output.argmax(dim=1)
        # No `bincount` and no `one_hot`: both ask the device for the largest label.
        counts = torch.zeros(len(self.levels) ** 2, dtype=torch.int64, device=cells.device)
        return counts.scatter_add_(0, cells, torch.ones_like(cells)).view(self.state_shape)

    def score(self, state: Tensor) -> Tensor:
        """Return the accuracy."""
        return state.diag().sum() / state.sum()

    def at_chance(self, state: Tensor) -> Tensor:
        """Return whether the accuracy is that of guessing, or of one answer for all images.

        The first is one in `levels`, within three standard deviations; the second is the fraction of the most frequent
        level: those that are nearest to a damage's strength are not equally frequent.
        """
        chance = 1.0 / len(self.levels)
        deviation = torch.sqrt(chance * (1.0 - chance) / state.sum())
        most = state.sum(dim=1).max() / state.sum()
        return self.score(state) <= torch.maximum(chance + 3.0 * deviation, most)

    def figures(self, state: Tensor, title: str) -> "dict[str, Figure]":
        """Return the confusion matrix, drawn with the fractions of each row."""
        fractions = state.float() / state.sum(dim=1, keepdim=True).clamp(min=1)
        figure = new_figure(3.6, 3.4, dpi=100)
        axes = figure.subplots()
        axes.imshow(fractions.numpy(), vmin=0, vmax=1, cmap="Blues")
        names = [f"{level:g}" for level in self.levels]
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="predicted", ylabel="true", title=title)
        for row, line in enumerate(fractions.tolist()):
            for column, value in enumerate(line):
                colour = "white" if value > 0.5 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
        return {"confusion": figure}


def best_temperature(losses: Tensor) -> float:
    """Return the temperature of the smallest of the sums of `losses_by_temperature`; 1 if they are not numbers."""
    step = int(losses.argmin()) + TEMPERATURE_STEPS[0]
    return float(2.0 ** (step / 8.0)) if bool(losses.isfinite().all()) else 1.0


class Damage(Classification):
    """A classification of how strongly an image was damaged, whose strength can also be any number between its levels.

    A subclass has a name and default levels, the last of which leaves the image as it is, and implements `damage`.
    """

    def damage(self, images: Tensor, strength: Tensor, key: Tensor) -> Tensor:
        """Return damaged images.

        Args:
            images: `(B, 3, H, W)` in [0, 1].
            strength: `(B,)` float32, between the smallest and the largest level.
            key: `(B,)` in [0, 1), from which a sample's own noise is made; only a task of more than one random number
                per sample looks at it.

        Returns:
            `(B, 3, H, W)` in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement damage")

    @property
    def unchanged(self) -> float | None:
        """The last of the default levels, if it is among the levels."""
        level = float(self.default_levels[-1])
        return level if level in self.levels else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, each damaged as strongly as its level says."""
        return self.damage(images, self.factor(labels), torch.zeros_like(labels, dtype=torch.float32))

    def nearest(self, strength: Tensor) -> Tensor:
        """Return the label `(B,)` of the level nearest to each strength `(B,)`."""
        levels = self.factor_bits.to(strength.device).view(torch.float32)
        return (levels - strength.float().unsqueeze(1)).abs().argmin(dim=1)

    def strength(self, uniform: Tensor) -> Tensor:
        """Return strengths `(B,)` between the extreme levels, each equally likely, from uniform numbers `(B,)`."""
        low, high = min(self.levels), max(self.levels)
        return low + (high - low) * uniform.float()

    def fraction(self, strength: Tensor) -> Tensor:
        """Return where strengths `(B,)` are between the extreme levels, 0 to 1."""
        low, high = min(self.levels), max(self.levels)
        return (strength.float() - low) / (high - low)
