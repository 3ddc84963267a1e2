"""PSNR over the pixels of the hole, as a mean over images."""

import torch
from torch import Tensor

from wssl_pl.metrics.mean import RunningMean
from wssl_pl.metrics.psnr import psnr_hole


class HolePSNR(RunningMean):
    """Mean over images of the PSNR of the hole, summed over batches and processes.

    An image without a hole does not count, nor one whose hole equals its target; NaN makes the mean NaN.

    Example:
        >>> metric, mask = HolePSNR(), torch.zeros(1, 1, 8, 8)
        >>> mask[..., :2] = 1.0
        >>> metric.update(torch.full((1, 3, 8, 8), 0.6), torch.full((1, 3, 8, 8), 0.5), mask)
        >>> metric.compute()
        tensor(20.0000)
    """

    def update(self, prediction: Tensor, image: Tensor, mask: Tensor) -> None:
        """Add a batch: `prediction` and `image` `(B, 3, H, W)` in [0, 1], `mask` `(B, 1, H, W)`, 1 = hole."""
        values = psnr_hole(prediction, image, mask)
        included = (mask.amax(dim=(1, 2, 3)) > 0.5) & ~values.isposinf()
        self._add(torch.where(included, values, 0.0).sum(), included.sum())

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar; NaN without an image that counts."""
        return self._mean()
