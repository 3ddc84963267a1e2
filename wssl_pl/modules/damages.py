"""Damaged images for restoration: the pretext tasks' own operations at random strengths, one after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wssl_pl.data.crop import trim
from wssl_pl.errors import WSSLError
from wssl_pl.networks import without_autocast
from wssl_pl.tasks import TASKS, Damage, make_tasks

KINDS = [name for name, task in TASKS.items() if issubclass(task, Damage)]
NUMBERS = 2
"""Random numbers per sample and damage: its strength, and the key of its noise."""


class Damages(nn.Module):
    """Damages images by several tasks, each at a strength of its own for every sample, between the task's levels.

    Args:
        names: tasks, or class paths of your own subclasses of `Damage`, each at most once.
        undamaged: probability that a task leaves an image as it is, for each task on its own; in [0, 1).

    Attributes:
        margin: pixels around the image that the filters read.
        numbers: random numbers per sample that `forward` takes.

    Raises:
        WSSLError: an unknown task, a task twice, one that cannot damage, or `undamaged` outside [0, 1).

    Example:
        >>> import torch
        >>> damaged, strengths = Damages(["saturation", "jpeg"])(torch.rand(2, 3, 32, 32), torch.rand(2, 4))
        >>> damaged.shape, list(strengths)
        (torch.Size([2, 3, 32, 32]), ['saturation', 'jpeg'])
    """

    def __init__(self, names: Sequence[str], undamaged: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= undamaged < 1.0:
            raise WSSLError(
                "undamaged", undamaged, "is a probability of at least 0 and below 1", "give 0.5, or omit it"
            )
        self.undamaged = undamaged
        try:
            found = make_tasks(names)
        except WSSLError as error:
            raise WSSLError("restore", list(names), error.reason, error.remedy) from None
        for name, task in found.items():
            if not isinstance(task, Damage):
                reason = f"{name} does not damage an image by degrees"
                raise WSSLError("restore", list(names), reason, f"give one or more of {', '.join(KINDS)}")
        self.tasks: Any = nn.ModuleDict(found)
        self.margin = sum(task.margin for task in found.values())
        self.numbers = NUMBERS * len(found)

    def forward(self, images: Tensor, uniform: Tensor, margin: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Return damaged images.

        Args:
            images: `(B, 3, S + 2 * margin, S + 2 * margin)` in [0, 1].
            uniform: `(B, K)` uniform random numbers in [0, 1), K at least `numbers`.
            margin: pixels on every side that are there for the filters alone and are cut off.

        Returns:
            the damaged images `(B, 3, S, S)`, and the strength `(B,)` of each damage by its task's name.
        """
        strengths = {}
        with without_autocast(images.device):  # as in `change_images`
            for number, (name, task) in enumerate(self.tasks.items()):
                strengths[name] = self.strength(name, uniform[:, NUMBERS * number])
                images = task.damage(images, strengths[name], uniform[:, NUMBERS * number + 1])
                # Cut after each filter, so that none ever reads what the one before it made of a border.
                used = min(margin, task.margin)
                images, margin = trim(images, used), margin - used
        return trim(images, margin), strengths

    def strength(self, name: str, uniform: Tensor) -> Tensor:
        """Return strengths `(B,)` of a task from uniform numbers `(B,)`: of those below `undamaged` none at all."""
        task = self.tasks[name]
        drawn: Tensor = task.strength(((uniform - self.undamaged) / (1.0 - self.undamaged)).clamp(min=0.0))
        return torch.where(uniform < self.undamaged, task.default_levels[-1], drawn)

    def fractions(self, strengths: Mapping[str, Tensor]) -> Tensor:
        """Return the strengths of each damage as `forward` returns them, from 0 to 1, as one tensor `(B, damages)`."""
        return torch.stack([task.fraction(strengths[name]) for name, task in self.tasks.items()], dim=1)
