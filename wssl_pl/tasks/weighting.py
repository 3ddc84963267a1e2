"""How much each pretext task counts."""

import math
from collections.abc import Sequence

from wssl_pl.errors import UsageError


def normalise_weights(tasks: Sequence[str], weights: Sequence[float] | None) -> dict[str, float]:
    """The weight of each task, scaled to sum 1; equal ones when `weights` is left out.

    Raises:
        UsageError: not as many weights as tasks, or a weight that is not a positive number.

    Example:
        >>> normalise_weights(["rotation", "sharpness"], [3, 7])
        {'rotation': 0.3, 'sharpness': 0.7}
    """
    if weights is None:
        weights = [1.0] * len(tasks)
    if len(weights) != len(tasks):
        raise UsageError(f"weights: {len(weights)} given for {len(tasks)} tasks ({', '.join(tasks)}); give one each")
    for weight in weights:
        if not (math.isfinite(weight) and weight > 0):
            raise UsageError(f"weights: {weight} is not a positive number; leave a task out of tasks= instead")
    total = math.fsum(weights)
    return {task: weight / total for task, weight in zip(tasks, weights, strict=True)}
