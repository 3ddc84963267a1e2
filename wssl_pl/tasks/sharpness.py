"""Sharpness prediction."""

from kornia.enhance import sharpness
from torch import Tensor

from wssl_pl.tasks.classification import Damage


class Sharpness(Damage):
    """Blends the image with its 3x3 smoothed copy: 0 is the smoothed copy, 1 the image, as PIL's `Sharpness`.

    A border that is not filtered like the rest shows the class to a network that sees nothing else. PIL, TensorFlow
    Addons and Kornia leave one pixel unfiltered; a reflected image is smoother at its border than inside. The
    task therefore takes a `margin` of real pixels. Without one, the pixels beyond the border are extrapolated linearly,
    which comes closest to real ones (`docs/add_a_task.md`).
    """

    name = "sharpness"
    margin = 1
    default_levels = (0.0, 0.25, 0.75, 1.0)

    def damage(self, images: Tensor, strength: Tensor, key: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, H and W at least 2, each of its sharpness; `key` has no effect."""
        return sharpness(extrapolated(images), strength)[..., 1:-1, 1:-1]


def extrapolated(images: Tensor) -> Tensor:
    """Return the images with one more pixel on every side, each on a line with its two neighbours inwards.

    Args:
        images: `(B, C, H, W)` in [0, 1], H and W at least 2.

    Returns:
        `(B, C, H + 2, W + 2)` in [0, 1], channels_last.

    Example:
        >>> import torch
        >>> extrapolated(torch.tensor([[[[0.2, 0.3], [0.2, 0.3]]]]))[0, 0, 1]
        tensor([0.1000, 0.2000, 0.3000, 0.4000])
    """
    count, channels, height, width = images.shape
    wide = images.new_empty(count, height + 2, width + 2, channels).permute(0, 3, 1, 2)
    wide[..., 1:-1, 1:-1] = images
    for dim in (-2, -1):
        for border, first, second in ((0, 1, 2), (-1, -2, -3)):
            line = 2.0 * wide.select(dim, first) - wide.select(dim, second)
            wide.select(dim, border).copy_(line.clamp_(0.0, 1.0))
    return wide
