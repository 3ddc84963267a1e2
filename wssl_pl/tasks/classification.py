"""The tasks of the paper: tell how strongly an image was changed."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.errors import UsageError
from wssl_pl.networks import TaskHead
from wssl_pl.tasks.base import PretextTask


class Classification(PretextTask):
    """A change to the image whose strength the encoder has to tell: a classification over `levels`.

    A subclass names itself, gives its default levels and implements `forward(images, labels)`. Nothing in it may
    wait for the device: the strength of each sample is looked up on the device, in one batched operation.

    Args:
        levels: the strengths, one class each, at least two; the task's default if left out.
    """

    score_name = "accuracy"
    factor_bits: Tensor

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        super().__init__(levels)
        if len(set(self.levels)) < 2 or len(set(self.levels)) < len(self.levels):
            raise UsageError(f"levels of {self.name} {list(self.levels)}: give two or more different ones")
        self.check_levels()
        self.tally_shape = (len(self.levels), len(self.levels))
        # Not in the state dict: levels are a hyperparameter, and a checkpoint holds weights only.
        # As bits, because a module in 16 bits (`trainer.precision=bf16-true`) would round numbers.
        bits = torch.tensor(self.levels, dtype=torch.float32).view(torch.int32)
        self.register_buffer("factor_bits", bits, persistent=False)

    def check_levels(self) -> None:
        """Raises `UsageError` for a level outside [0, 1]: the levels are factors, and 1 leaves the image unchanged."""
        for level in self.levels:
            if not 0.0 <= level <= 1.0:
                raise UsageError(f"level {level} of {self.name} is outside [0, 1]: 0 removes it, 1 leaves the image")

    def labels(self, uniform: Tensor) -> Tensor:
        """Labels `(B,)` int64, each level equally likely, from uniform numbers `(B,)` in [0, 1)."""
        return (uniform * len(self.levels)).long().clamp_(max=len(self.levels) - 1)

    def factor(self, labels: Tensor) -> Tensor:
        """The level `(B,)`, float32, that each label `(B,)` stands for."""
        return self.factor_bits.to(labels.device).view(torch.float32)[labels]

    def draw(self, uniform: Tensor) -> Tensor:
        """A label for each sample, from uniform numbers `(B, 1)`."""
        return self.labels(uniform[:, 0])

    def target(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The labels."""
        return drawn

    def head(self, in_channels: int) -> nn.Module:
        """Logits `(B, levels)` from the mean features."""
        return TaskHead(in_channels, len(self.levels))

    def predict(self, output: Tensor) -> Tensor:
        """Return the probability of each level, `(B, levels)` float32."""
        return output.float().softmax(dim=1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy; log(levels) for guessing."""
        return F.cross_entropy(output, target)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """The confusion matrix, rows true, columns predicted, as counts."""
        cells = target * len(self.levels) + output.argmax(dim=1)
        # No `bincount` and no `one_hot`: both ask the device for the largest label.
        counts = torch.zeros(len(self.levels) ** 2, dtype=torch.int64, device=cells.device)
        return counts.scatter_add_(0, cells, torch.ones_like(cells)).view(self.tally_shape)

    def score(self, tally: Tensor) -> Tensor:
        """The share of right answers."""
        return tally.diag().sum() / tally.sum()

    def guesses(self, tally: Tensor) -> Tensor:
        """Whether so many right answers could be luck: within three standard deviations of one in `levels`."""
        chance = 1.0 / len(self.levels)
        deviation = torch.sqrt(chance * (1.0 - chance) / tally.sum())
        return self.score(tally) <= chance + 3.0 * deviation
