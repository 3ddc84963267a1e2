"""Structural similarity per image (Wang et al. 2004), fast enough to be a loss.

Kornia's SSIM is the reference. It filters each of five maps by two depthwise convolutions and lets autograd keep every
intermediate map. Here the five maps are stacked, each side is filtered by one product with a banded matrix that
contains the reflect padding, and the derivative is written down, so that the backward pass filters three maps and the
target costs nothing there. `benchmarks/ssim.py` measures both.
"""

from typing import Any

import torch
from kornia.metrics import ssim as kornia_ssim_map
from torch import Tensor
from torch.autograd.function import once_differentiable

from wssl_pl.metrics.gaussian import C1, C2, WINDOW, blur

IMPLEMENTATIONS = ("fast", "kornia")


def ssim(prediction: Tensor, target: Tensor, implementation: str = "fast") -> Tensor:
    """Mean of each image's SSIM map over all pixels and channels; differentiable in `prediction`.

    Window 11, sigma 1.5, data range 1, reflect padding: the choice of torchmetrics and of Kornia's `padding="same"`.
    Computed in float32 whatever comes in, because the variances are differences of nearly equal numbers.

    Args:
        prediction: `(B, C, H, W)` in [0, 1].
        target: the same shape; with `fast` no gradient flows into it.
        implementation: `fast`, or `kornia` for the reference.

    Returns:
        `(B,)` in [-1, 1], float32 (float64 for float64 inputs).

    Raises:
        ValueError: an unknown implementation, or a side below 6 pixels, which the window's padding needs.
    """
    return ssim_map(prediction, target, implementation).mean(dim=(1, 2, 3))


def ssim_map(prediction: Tensor, target: Tensor, implementation: str = "fast") -> Tensor:
    """The SSIM of every pixel, `(B, C, H, W)`; arguments and errors as for `ssim`."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation={implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    # TensorFloat-32 keeps 10 bits of the products, too few for the difference that a variance is.
    rounds_products = prediction.is_cuda and torch.get_float32_matmul_precision() != "highest"
    with torch.autocast(prediction.device.type, enabled=False):
        if implementation == "kornia" or rounds_products:
            return kornia_ssim_map(prediction.to(dtype), target.to(dtype), WINDOW, max_val=1.0, padding="same")
        return _SSIMMap.apply(prediction.to(dtype), target.detach().to(dtype))


class _SSIMMap(torch.autograd.Function):
    """The map, with the derivative by the prediction x.

    With the filtered maps p = G x, q = G y, a = G x^2, b = G y^2, c = G xy:

        S = A1 A2 / (B1 B2),  A1 = 2 p q + C1,      A2 = 2 (c - p q) + C2,
                              B1 = p^2 + q^2 + C1,  B2 = (a - p^2) + (b - q^2) + C2

    so dS/da = -S / B2, dS/dc = 2 A1 / (B1 B2), dS/dp = 2 q (A2 - A1) / (B1 B2) - 2 p S (1/B1 - 1/B2), and the chain
    rule gives G' (g dS/dp) + 2 x G' (g dS/da) + y G' (g dS/dc) for an incoming gradient g.
    """

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        height, width = prediction.shape[-2:]
        x, y = prediction.reshape(-1, height, width), target.reshape(-1, height, width)
        p, q, a, b, c = blur(torch.cat([x, y, x * x, y * y, x * y])).split(len(x))
        pq, pp, qq = p * q, p * p, q * q
        a1, a2 = 2 * pq + C1, 2 * (c - pq) + C2
        b1, b2 = pp + qq + C1, (a - pp) + (b - qq) + C2
        inverse = 1 / (b1 * b2)
        similarity = a1 * a2 * inverse
        if ctx.needs_input_grad[0]:
            by_p = 2 * (q * (a2 - a1) * inverse - p * similarity * (1 / b1 - 1 / b2))
            ctx.save_for_backward(x, y, by_p, similarity / b2, a1 * inverse)
        return similarity.view(prediction.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, y, by_p, minus_by_a, half_by_c = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            g = gradient.reshape(x.shape)
            direct, square, product = blur(torch.cat([g * by_p, g * minus_by_a, g * half_by_c]), True).split(len(x))
            return (direct + 2 * (y * product - x * square)).view(gradient.shape), None
