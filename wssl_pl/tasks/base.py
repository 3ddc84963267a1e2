"""What every pretext task has in common."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from wssl_pl.errors import UsageError


class PretextTask(nn.Module):
    """A change to the image whose strength the encoder has to tell: a classification over `levels`.

    A subclass names itself, gives its default levels and implements `forward(images, labels)`. Nothing in it may
    wait for the device: the strength of each sample is looked up on the device, in one batched operation.

    Args:
        levels: the strengths, one class each, at least two; the task's default if left out.
    """

    name: ClassVar[str]
    factors: Tensor
    default_levels: ClassVar[tuple[float, ...]]

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        super().__init__()
        self.levels = tuple(float(level) for level in (self.default_levels if levels is None else levels))
        if len(set(self.levels)) < 2 or len(set(self.levels)) < len(self.levels):
            raise UsageError(f"levels of {self.name} {list(self.levels)}: give two or more different ones")
        self.check_levels()
        # Not in the state dict: levels are a hyperparameter, and a checkpoint holds weights only.
        self.register_buffer("factors", torch.tensor(self.levels), persistent=False)

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
        return self.factors.to(labels.device)[labels]

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images `(B, 3, H, W)` in [0, 1], each changed as its label `(B,)` int64 says."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it changes an image")
