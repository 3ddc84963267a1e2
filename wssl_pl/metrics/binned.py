"""Validation metrics of the inpainting stage by hole ratio."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from wssl_pl.metrics.bins import BINS, bins_of


class BinnedMetrics(Metric):
    """Means over the images of each hole-ratio bin, summed over batches and processes.

    An infinite value (the PSNR of an image that equals its target) is excluded from the mean of its bin.

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

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        # float32, because MPS has no float64.
        for state in ("total", "count"):
            self.add_state(state, torch.zeros(len(self.names), len(BINS)), dist_reduce_fx="sum")

    def update(self, values: Tensor, masks: Tensor) -> None:
        """Add a batch.

        Args:
            values: `(metrics, B)`, computed per image.
            masks: `(B, 1, H, W)`, 1 = hole.
        """
        belongs = bins_of(masks).unsqueeze(1) == torch.arange(len(BINS), device=masks.device)
        # Selected rather than multiplied: 0 times NaN is NaN, and one bad image must not reach the other bins.
        selected = belongs & ~values.isinf().unsqueeze(2)
        # Not in place: with trainer.precision=bf16-true the states are bfloat16 until the first update.
        self.total = self.total.float() + torch.where(selected, values.float().unsqueeze(2), 0.0).sum(dim=1)
        self.count = self.count.float() + selected.sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """Return the means by `<metric>/ratio_<low>_<high>`, bounds in percent; a bin without images is omitted."""
        means = self.total / self.count
        full = (self.count > 0).tolist()
        return {
            f"{name}/ratio_{label.replace('-', '_')}": means[row, column]
            for row, name in enumerate(self.names)
            for column, label in enumerate(BINS)
            if full[row][column]
        }
