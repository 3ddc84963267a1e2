"""Validation metrics of the inpainting stage by hole ratio."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wssl_pl.metrics.bins import BINS, bins_of
from wssl_pl.metrics.mean import RunningMean


class BinnedMetrics(RunningMean):
    """Means over the images of each hole-ratio bin, summed over batches and processes.

    The PSNR of an image that equals its target is infinite and is excluded from the mean of its bin; any other value
    that is not finite makes that mean NaN.

    Args:
        names: of the metrics, in the order of the values.

    Example:
        >>> metrics = BinnedMetrics(["psnr"])
        >>> masks = torch.zeros(2, 1, 10, 10)
        >>> masks[..., :4] = 1.0
        >>> metrics.update(torch.tensor([[20.0, 30.0]]), masks)
        >>> metrics.compute()
        {'psnr/ratio_30_40': tensor(25.)}
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__((len(names), len(BINS)))
        self.names = tuple(names)

    def update(self, values: Tensor, masks: Tensor) -> None:
        """Add a batch.

        Args:
            values: `(metrics, B)`, computed per image.
            masks: `(B, 1, H, W)`, 1 = hole.
        """
        belongs = bins_of(masks).unsqueeze(1) == torch.arange(len(BINS), device=masks.device)
        # Selected rather than multiplied: 0 times NaN is NaN, and one bad image must not reach the other bins.
        selected = belongs & ~values.isposinf().unsqueeze(2)
        self._add(torch.where(selected, values.unsqueeze(2), 0.0).sum(dim=1), selected.sum(dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Return the means by `<metric>/ratio_<low>_<high>`, bounds in percent; a bin without images is omitted."""
        means = self._mean()
        full = (self.count > 0).tolist()
        return {
            f"{name}/ratio_{label.replace('-', '_')}": means[row, column]
            for row, name in enumerate(self.names)
            for column, label in enumerate(BINS)
            if full[row][column]
        }
