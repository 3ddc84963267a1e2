"""Which way up: Gidaris et al. 2018."""

import torch
from kornia.geometry.transform import rot180
from torch import Tensor

from wssl_pl.errors import UsageError
from wssl_pl.tasks.classification import Classification


class Rotation(Classification):
    """Rotates by 0, 90, 180 or 270 degrees counter-clockwise; lossless, for square images.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 3, 8, 8)
        >>> turned = Rotation()(image, torch.tensor([1]))
        >>> torch.equal(torch.rot90(turned, -1, dims=(2, 3)), image)
        True
    """

    name = "rotation"
    default_levels = (0.0, 90.0, 180.0, 270.0)

    def check_levels(self) -> None:
        """Raises `UsageError` for an angle that is no quarter turn."""
        for level in self.levels:
            if level not in self.default_levels:
                raise UsageError(f"level {level} of rotation is not one of 0, 90, 180, 270 degrees")

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images `(B, 3, S, S)`, each turned by its level."""
        if images.shape[-1] != images.shape[-2]:
            raise UsageError(f"rotation needs square images, got {tuple(images.shape[-2:])}")
        turns = (self.factor(labels) / 90.0).long().view(-1, 1, 1, 1)
        # Two choices per sample instead of four rotations and a gather: a quarter turn or none, a half turn or none.
        images = torch.where(turns % 2 == 1, torch.rot90(images, 1, dims=(2, 3)), images)
        return torch.where(turns >= 2, rot180(images), images)
