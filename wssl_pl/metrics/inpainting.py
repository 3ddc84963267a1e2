"""Validation figures of the inpainting stage, summed up over batches and processes."""

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from wssl_pl.metrics.composite import composite
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


class InpaintingMetrics(Metric):
    """Means over images of PSNR and SSIM, raw and composited.

    An infinite PSNR (an image that equals its target) is kept out of the mean of that figure.
    """

    names: ClassVar[tuple[str, ...]] = NAMES
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add a batch: `(4, B)` as `image_metrics` returns it."""
        figures = values.double()
        finite = figures.isfinite()
        self.total += torch.where(finite, figures, 0.0).sum(dim=1)
        self.count += finite.sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """The means by name, scalars."""
        means = (self.total / self.count).float()
        return dict(zip(self.names, means, strict=True))
