"""The reconstruction part of the paper's loss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def log_cosh(prediction: Tensor, target: Tensor, a: float = 1.0) -> Tensor:
    """Mean of `log(cosh(a t)) / a` over the errors `t = prediction - target` (the paper, section 3.3.2).

    About `a t^2 / 2` for small errors and `|t| - log(2) / a` for large ones: like the squared error near zero and
    like the absolute error far away, which is the reverse of what the paper says. Computed as
    `|x| + softplus(-2 |x|) - log 2` with `x = a t` in float32, since the cosh of a large number overflows.

    Args:
        prediction: any shape, `(B, 3, H, W)` here.
        target: the same shape.
        a: sharpness of the bend, positive.

    Returns:
        a scalar, at least 0.

    Example:
        >>> log_cosh(torch.tensor([1.0]), torch.tensor([0.0]))
        tensor(0.4338)
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    magnitude = (a * (prediction.to(dtype) - target.to(dtype))).abs()
    return (magnitude + F.softplus(-2.0 * magnitude) - math.log(2.0)).mean() / a
