"""What the networks take: images with a value in the hole, padded to sides that five poolings can halve."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 0.5
"""The colour of an image without a known pixel."""

Fill = float | Literal["mean", "smooth"]
"""A grey value in [0, 1]; each image's mean colour outside the hole; or what `smooth_fill` interpolates."""

LEVELS = 8
"""How often `smooth_fill` halves an image: holes of up to about 256 px are filled from their border."""


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


def smooth_fill(images: Tensor, masks: Tensor) -> Tensor:
    """Return images whose hole is interpolated from its border, by pull and push (Gortler et al. 1996, section 3.4).

    An image is halved again and again, each time to the mean of what is known of four pixels. From the smallest on,
    what is not known is taken from the level below, bilinearly; from the image's mean colour where none knows anything.

    Args:
        images: `(B, 3, H, W)`; pixels in the hole have no influence.
        masks: `(B, 1, H, W)`, above 0.5 in the hole.

    Returns:
        `(B, 3, H, W)`, the images where they are known.

    Example:
        >>> image, mask = torch.tensor([[[[0.2, 0.0, 0.0, 0.6]]]]).expand(1, 3, 1, 4), torch.zeros(1, 1, 1, 4)
        >>> mask[..., 1:3] = 1
        >>> smooth_fill(image, mask)[0, 0]
        tensor([[0.2000, 0.3000, 0.5000, 0.6000]])
    """
    known = (masks <= 0.5).to(images.dtype)
    levels = [(torch.where(masks > 0.5, 0.0, images), known)]
    for _ in range(LEVELS):
        halved = [F.avg_pool2d(part, 2, ceil_mode=True) for part in levels[-1]]
        count = halved[1]
        levels.append((halved[0] / count.clamp(min=1e-6), (count > 0).to(count.dtype)))
    filled = mean_colour(images, masks).expand_as(levels[-1][0])
    for values, has in reversed(levels):
        above = F.interpolate(filled, size=values.shape[-2:], mode="bilinear", align_corners=False)
        filled = values * has + above * (1.0 - has)
    return filled


def fill_holes(images: Tensor, masks: Tensor, fill: Fill = 0.0) -> Tensor:
    """Return images with `fill` in the hole; the pixels there have no influence.

    Args:
        images: `(B, 3, H, W)` in [0, 1].
        masks: `(B, 1, H, W)`, above 0.5 in the hole.
        fill: a value in [0, 1], `mean` or `smooth`.

    Example:
        >>> image, mask = torch.full((1, 3, 1, 2), 0.8), torch.tensor([[[[0.0, 1.0]]]])
        >>> fill_holes(image, mask, 0.5)[0, 0]
        tensor([[0.8000, 0.5000]])
        >>> fill_holes(image, mask, "mean")[0, 0]
        tensor([[0.8000, 0.8000]])
    """
    if fill == "smooth":
        return smooth_fill(images, masks)
    value = mean_colour(images, masks) if fill == "mean" else fill
    return torch.where(masks > 0.5, value, images)


def pad_to_multiple(images: Tensor, multiple: int = 32) -> Tensor:
    """Pad `(B, C, H, W)` on all sides until `H` and `W` divide by `multiple`.

    Reflects at the border; where a side is too short to be reflected, its last pixels are repeated first. Images
    that fit already come back unchanged. Undo with `crop_to(padded, H, W)`.

    Example:
        >>> pad_to_multiple(torch.rand(1, 3, 1, 70)).shape
        torch.Size([1, 3, 32, 96])
    """
    height, width = images.shape[-2:]
    top, bottom = _split(-height % multiple)
    left, right = _split(-width % multiple)
    # A graph for any size always pads: whether it has to is not known when it is exported.
    if not torch.compiler.is_exporting() and not (top or bottom or left or right):
        return images
    # One side at a time, because each may need another mode: reflection takes fewer pixels than the side has.
    for padding, side in (((left, right, 0, 0), width), ((0, 0, top, bottom), height)):
        mode = "reflect" if max(padding) < side else "replicate"
        images = F.pad(images, padding, mode=mode)
    return images


def crop_to(images: Tensor, height: int, width: int) -> Tensor:
    """Return the central `(B, C, height, width)` part of what `pad_to_multiple` made of an image of that size."""
    top, _ = _split(images.shape[-2] - height)
    left, _ = _split(images.shape[-1] - width)
    return images[..., top : top + height, left : left + width]


def _split(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2
