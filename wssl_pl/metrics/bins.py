"""Hole-ratio bins of 10 %, the convention of NVIDIA's irregular masks (Liu et al. 2018)."""

import math

import torch
from torch import Tensor

BINS = ("0-10", "10-20", "20-30", "30-40", "40-50", "50-60", "60-100")
"""Names of the bins in percent; a bin holds its upper bound and not its lower one, the first also no hole at all."""


def bin_of(ratio: float) -> str:
    """Return the bin of a hole ratio in [0, 1]."""
    # A fraction of whole pixels is no multiple of 0.1 in binary: 0.3 must not be above its bound by an ulp.
    return BINS[min(max(math.ceil(round(ratio * 10, 9)) - 1, 0), len(BINS) - 1)]


def bins_of(masks: Tensor) -> Tensor:
    """Return the number of each mask's bin in `BINS`, without waiting for the device.

    Args:
        masks: `(B, 1, H, W)`, above 0.5 in the hole.

    Returns:
        `(B,)` int64.

    Example:
        >>> bins_of(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 5))
        tensor([2])
    """
    pixels = masks.shape[-2:].numel()
    tenths = (masks > 0.5).sum(dim=(1, 2, 3)) * 10
    # Whole numbers, so that a mask of exactly 30 % belongs to the bin with that upper bound.
    return (torch.div(tenths + pixels - 1, pixels, rounding_mode="floor") - 1).clamp(0, len(BINS) - 1)
