"""Means over images, summed up over batches and processes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class RunningMean(Metric):
    """Base of metrics that are a mean over images of one value or of several, in float32.

    The sums are compensated (Neumaier 1974), so that they are as exact as in float64, which MPS devices do not have.
    A value that is not finite makes the mean NaN: torchmetrics' `MeanMetric` drops NaN instead, and makes the host
    wait for the device to find them.

    Args:
        shape: shape of the values of one image; `()` for one value.
    """

    full_state_update = False
    total: Tensor
    compensation: Tensor
    count: Tensor

    def __init__(self, shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(tuple(shape)), dist_reduce_fx="sum")
        self.add_state("compensation", torch.zeros(tuple(shape)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(tuple(shape), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, part: Tensor, count: Tensor) -> None:
        """Add sums over images, and the number of values in each, both of the metric's shape."""
        part = part.to(torch.float32)
        before = self.total.to(torch.float32)  # trainer.precision=bf16-true makes bfloat16 states
        total = before + part
        rounded = total - before
        error = (before - (total - rounded)) + (part - rounded)
        self.total, self.compensation = total, self.compensation.to(torch.float32) + error
        self.count = self.count + count

    def _mean(self) -> Tensor:
        """Return the means; NaN where there is no value, or one that is not finite."""
        return (self.total + self.compensation).to(torch.float32) / self.count


class Mean(RunningMean):
    """Mean over images of a value that is known as the mean of each batch.

    Example:
        >>> mean = Mean()
        >>> mean.update(torch.tensor(1.5), count=2)
        >>> mean.update(torch.tensor(6.0), count=1)
        >>> mean.compute()
        tensor(3.)
    """

    def update(self, mean: Tensor, count: int) -> None:
        """Add a batch of `count` images with the mean `mean`, a scalar."""
        self._add(mean.detach().to(torch.float32) * count, torch.full_like(self.count, count))

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar."""
        return self._mean()
