"""Rotation prediction: Gidaris et al. 2018."""

import torch
from torch import Tensor

from wssl_pl.errors import WSSLError
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
    ordered = False

    def check_levels(self) -> None:
        """Raise `WSSLError` for an angle that is no quarter turn."""
        if not set(self.levels) <= set(self.default_levels):
            raise WSSLError("levels", self.levels, "a level of rotation is not one of 0, 90, 180, 270 degrees")

    @property
    def unchanged(self) -> float | None:
        """0 degrees, if that is among the levels."""
        return 0.0 if 0.0 in self.levels else None

    def describe(self, level: float) -> str:
        """Return by how many degrees an image is turned, counter-clockwise."""
        return f"turned by {level:g} degrees"

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the images `(B, 3, S, S)`, each turned by its level."""
        count, channels, height, width = images.shape
        if height != width:
            raise WSSLError("images", tuple(images.shape), "rotation needs square images")
        turns = (self.factor(labels) / 90.0).long()
        # One gather of whole pixels, which are adjacent in channels_last images: on a CPU an eighth of the time of
        # choosing between turned copies, whose columns are read across the memory.
        pixels = torch.arange(height * width, device=images.device, dtype=torch.int32).view(height, width)
        turned = torch.stack([torch.rot90(pixels, number).flatten() for number in range(4)])
        first = torch.arange(count, device=images.device, dtype=torch.int32).mul(height * width)
        index = (turned[turns] + first[:, None]).flatten()
        gathered = images.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, index)
        return gathered.view(count, height, width, channels).permute(0, 3, 1, 2)
