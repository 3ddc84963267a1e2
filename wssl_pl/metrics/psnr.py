"""Peak signal-to-noise ratio per image, of all pixels or of the hole."""

import torch
from torch import Tensor


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `-10 log10(MSE)` of each image over all its pixels and channels, for a data range of 1.

    Args:
        prediction: `(B, C, H, W)` in [0, 1].
        target: the same shape.

    Returns:
        `(B,)` in decibel, float32; infinite for an image that equals its target.

    Example:
        >>> psnr(torch.full((1, 3, 8, 8), 0.6), torch.full((1, 3, 8, 8), 0.5))
        tensor([20.0000])
    """
    error = (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
    return -10.0 * torch.log10(error)


def psnr_hole(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the PSNR of each image over the pixels of its hole, for a data range of 1.

    Args:
        prediction: `(B, C, H, W)` in [0, 1].
        target: the same shape.
        mask: `(B, 1, H, W)`, 1 = hole.

    Returns:
        `(B,)` in decibel, float32; infinite for identical holes, NaN without a hole.
    """
    hole = (mask > 0.5).float()
    error = (prediction.float() - target.float()) * hole
    pixels = hole.sum(dim=(1, 2, 3)) * target.shape[1]
    return -10.0 * torch.log10(error.square().sum(dim=(1, 2, 3)) / pixels)
