"""The weights of the pretext tasks."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from wssl_pl.errors import WSSLError


def normalise_weights(tasks: Sequence[str], weights: Sequence[float] | None) -> dict[str, float]:
    """Return the weight of each task, scaled to sum 1; equal ones if `weights` is None.

    Raises:
        WSSLError: not as many weights as tasks, or a weight that is not a positive number.

    Example:
        >>> normalise_weights(["rotation", "sharpness"], [3, 7])
        {'rotation': 0.3, 'sharpness': 0.7}
    """
    if weights is None:
        weights = [1.0] * len(tasks)
    if len(weights) != len(tasks):
        reason = f"{len(weights)} given for {len(tasks)} tasks ({', '.join(tasks)})"
        raise WSSLError("weights", list(weights), reason, "give one each")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise WSSLError("weights", list(weights), "one is not a positive number", "omit the task instead")
    total = math.fsum(weights)
    return {task: weight / total for task, weight in zip(tasks, weights, strict=True)}


class FixedWeights(nn.Module):
    """`sum_k w_k L_k`: the paper's weighting.

    Args:
        weights: the weight of each task.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum, a scalar, of the losses by task, scalars."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def learned(self) -> dict[str, Tensor]:
        """Return nothing: the weights do not change."""
        return {}


class UncertaintyWeights(nn.Module):
    """`sum_k exp(-s_k) L_k + s_k / 2` with learned log-variances `s_k = log sigma_k^2`, which start at 0.

    Kendall, Gal and Cipolla 2018, "Multi-task learning using uncertainty to weigh losses", equation 10 in its form for
    a classification, `L / sigma^2 + log sigma`. A task with a loss that stays large loses weight; for a loss that
    does not change, `s = log(2 L)` is best.

    Args:
        names: the tasks.
    """

    # Of the log-variances, absolutely. At the networks' rate, 1e-4, they would move by 0.1 in a thousand steps of Adam,
    # and short runs would compare equal weights with themselves.
    LR = 1e-2

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.log_variances = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the objective, a scalar, of the losses by task, scalars; it can be negative."""
        stacked = torch.stack([losses[name] for name in self.names])
        return (torch.exp(-self.log_variances) * stacked + 0.5 * self.log_variances).sum()

    def learned(self) -> dict[str, Tensor]:
        """Return `exp(-s)` by task: the factors of the losses."""
        return dict(zip(self.names, torch.exp(-self.log_variances.detach()), strict=True))
