"""What a network sees in the hole of a masked image."""

from typing import Literal

import torch
from torch import Tensor

GREY = 0.5
"""The colour of an image without a known pixel."""

Fill = float | Literal["mean"]
"""A grey value in [0, 1], or each image's mean colour outside the hole."""


def mean_colour(images: Tensor, masks: Tensor) -> Tensor:
    """Return each image's mean colour outside the hole; mid-grey where nothing is known.

    Args:
        images: `(B, 3, H, W)`.
        masks: `(B, 1, H, W)`, above 0.5 in the hole.

    Returns:
        `(B, 3, 1, 1)`, broadcastable to the images.
    """
    hole = masks > 0.5
    known = torch.where(hole, 0.0, images).sum(dim=(2, 3), keepdim=True)
    count = (~hole).sum(dim=(2, 3), keepdim=True)
    return torch.where(count > 0, known / count.clamp(min=1), GREY)


def fill_holes(images: Tensor, masks: Tensor, fill: Fill = 0.0) -> Tensor:
    """Return images with `fill` in the hole; what was there has no influence.

    Args:
        images: `(B, 3, H, W)` in [0, 1].
        masks: `(B, 1, H, W)`, above 0.5 in the hole.
        fill: a value in [0, 1], or `mean`.

    Example:
        >>> image, mask = torch.full((1, 3, 1, 2), 0.8), torch.tensor([[[[0.0, 1.0]]]])
        >>> fill_holes(image, mask, 0.5)[0, 0]
        tensor([[0.8000, 0.5000]])
        >>> fill_holes(image, mask, "mean")[0, 0]
        tensor([[0.8000, 0.8000]])
    """
    value = mean_colour(images, masks) if fill == "mean" else fill
    return torch.where(masks > 0.5, value, images)
