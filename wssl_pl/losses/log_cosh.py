"""The reconstruction part of the paper's loss."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def log_cosh(prediction: Tensor, target: Tensor, a: float = 1.0) -> Tensor:
    """Return the mean of `log(cosh(a t)) / a` over the errors `t = prediction - target` (the paper, section 3.3.2).

    About `a t^2 / 2` for small errors and `|t| - log(2) / a` for large ones: like the squared error near zero and
    like the absolute error far away, which is the reverse of what the paper says. Computed in float32 at least,
    without the cosh of a large number, which overflows, and without differences of nearly equal numbers near zero.

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
    error = prediction.to(dtype) - target.to(dtype)
    loss: Tensor = _LogCosh.apply(error if a == 1.0 else a * error).mean() / a
    return loss


class _LogCosh(torch.autograd.Function):
    """`log(cosh(x))` of every element, whose derivative is `tanh(x)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        slope = x.tanh()
        ctx.save_for_backward(slope)
        # log cosh x = -log(1 - tanh(x)^2) / 2 keeps all digits near 0, where the other form cancels; far away it is
        # the reverse. At 1 both are exact.
        near = slope.square().neg_().log1p_().mul_(-0.5)
        x = x.abs()
        far = F.softplus(-2.0 * x).add_(x).sub_(math.log(2.0))
        return torch.where(x < 1.0, near, far)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_value: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        gradient: Tensor = by_value * slope
        return gradient
