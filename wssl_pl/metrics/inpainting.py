"""Validation metrics of the inpainting stage, summed up over batches and processes."""

from typing import ClassVar

import torch
from torch import Tensor

from wssl_pl.metrics.composite import composite
from wssl_pl.metrics.mean import RunningMean
from wssl_pl.metrics.psnr import psnr
from wssl_pl.metrics.ssim import ssim

NAMES = ("psnr", "ssim", "psnr_composite", "ssim_composite")


def image_metrics(prediction: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return PSNR and SSIM of each image, raw and composited, in the order of `NAMES`.

    Args:
        prediction: `(B, 3, H, W)` in [0, 1].
        image: the same shape.
        mask: `(B, 1, H, W)`, 1 = hole.

    Returns:
        `(4, B)` float32.
    """
    filled = composite(prediction, image, mask)
    return torch.stack([psnr(prediction, image), ssim(prediction, image), psnr(filled, image), ssim(filled, image)])


class InpaintingMetrics(RunningMean):
    """Means over images of PSNR and SSIM, of the prediction and of the composite.

    The PSNR of an image that equals its target is infinite and does not count in the mean, unless all are. Any other
    value that is not finite makes the mean NaN.
    """

    names: ClassVar[tuple[str, ...]] = NAMES

    def __init__(self) -> None:
        super().__init__((len(self.names),))

    def update(self, values: Tensor) -> None:
        """Add a batch: `(4, B)` as `image_metrics` returns it."""
        included = ~values.isposinf()
        self._add(torch.where(included, values, 0.0).sum(dim=1), included.sum(dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Return the means by name, float32 scalars."""
        # SSIM is never infinite, so that its count is the number of images.
        all_infinite = (self.count == 0) & (self.count.max() > 0)
        means = torch.where(all_infinite, torch.inf, self._mean())
        return dict(zip(self.names, means, strict=True))
