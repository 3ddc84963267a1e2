"""Structural similarity per image (Wang et al. 2004), fast enough to be a loss.

Kornia's SSIM is the reference. It filters each of five maps by two depthwise convolutions and lets autograd keep every
intermediate map. Here a few images are taken at a time, so that their maps stay in the processor's cache; only the sum
of both squares is filtered, which leaves four maps, by products with banded matrices that contain the reflect padding;
and the derivative is written down and worked out at once, so that nothing but the gradient is kept.
`benchmarks/ssim.py` measures both.
"""

from typing import Any

import torch
from kornia.filters import gaussian_blur2d
from kornia.metrics import ssim as kornia_ssim_map
from torch import Tensor
from torch.autograd.function import once_differentiable

from wssl_pl.metrics.gaussian import C1, C2, blur, check_window
from wssl_pl.metrics.gaussian import SIGMA as SIGMA
from wssl_pl.metrics.gaussian import WINDOW as WINDOW

IMPLEMENTATIONS = ("fast", "kornia")
PIXELS = 2**16  # taken at a time on a CPU: the maps of one image of 256 px fill a few MB


def ssim(
    prediction: Tensor, target: Tensor, implementation: str = "fast", window: int = WINDOW, sigma: float = SIGMA
) -> Tensor:
    """Return the mean of each image's SSIM map over all pixels and channels; differentiable in `prediction`.

    Data range 1 and reflect padding: the choice of torchmetrics and of Kornia's `padding="same"`.
    Computed in float32 whatever comes in, because the variances are differences of nearly equal numbers.

    Args:
        prediction: `(B, C, H, W)` in [0, 1].
        target: the same shape; with `fast` no gradient flows into it.
        implementation: `fast`, or `kornia` for the reference.
        window: side of the Gaussian window in pixels, odd.
        sigma: standard deviation of the window in pixels.

    Returns:
        `(B,)` in [-1, 1], float32 (float64 for float64 inputs).

    Raises:
        ValueError: an unknown implementation, a window or sigma that cannot be used, or a side of `window // 2`
            pixels or less, beyond which the window's padding does not reach.
    """
    if _takes_kornia(prediction, implementation, window, sigma):
        return ssim_map(prediction, target, implementation, window, sigma).mean(dim=(1, 2, 3))
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    with torch.autocast(prediction.device.type, enabled=False):
        values: Tensor = _MeanSSIM.apply(prediction.to(dtype), target.detach().to(dtype), window, sigma)
        return values


def ssim_map(
    prediction: Tensor, target: Tensor, implementation: str = "fast", window: int = WINDOW, sigma: float = SIGMA
) -> Tensor:
    """Return the SSIM of every pixel, `(B, C, H, W)`; arguments and errors as for `ssim`."""
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    x, y = prediction.to(dtype), target.to(dtype)
    with torch.autocast(prediction.device.type, enabled=False):
        if not _takes_kornia(prediction, implementation, window, sigma):
            return _Terms(*_moments(x, y.detach(), window, sigma)).similarity
        if sigma == SIGMA:
            return kornia_ssim_map(x, y, window, max_val=1.0, padding="same")
        # Kornia's SSIM has no other sigma, its filter has.
        maps = torch.cat([x, y, x * x + y * y, x * y])
        return _Terms(*gaussian_blur2d(maps, (window, window), (sigma, sigma)).chunk(4)).similarity


def check_settings(implementation: str, window: int = WINDOW, sigma: float = SIGMA) -> None:
    """Raise `ValueError` for an unknown implementation, or a window or sigma that cannot be used."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation={implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    check_window(window, sigma)


def _takes_kornia(prediction: Tensor, implementation: str, window: int, sigma: float) -> bool:
    check_settings(implementation, window, sigma)
    # TensorFloat-32 keeps 10 bits of the products, too few for the difference that a variance is.
    rounds_products = prediction.is_cuda and torch.get_float32_matmul_precision() != "highest"
    return implementation == "kornia" or rounds_products


def _moments(x: Tensor, y: Tensor, window: int, sigma: float) -> tuple[Tensor, ...]:
    """Return the filtered maps G x, G y, G (x^2 + y^2) and G xy."""
    return blur(torch.stack([x, y, x * x + y * y, x * y]), window=window, sigma=sigma).unbind()


class _Terms:
    """The map and its derivatives by the filtered maps p = G x, q = G y, s = G (x^2 + y^2), c = G xy.

    S = A1 A2 / (B1 B2),  A1 = 2 p q + C1,      A2 = 2 (c - p q) + C2,
                          B1 = p^2 + q^2 + C1,  B2 = s - p^2 - q^2 + C2
    """

    def __init__(self, p: Tensor, q: Tensor, s: Tensor, c: Tensor) -> None:
        pq, squares = p * q, p * p + q * q
        self.p, self.q = p, q
        self.a1, self.a2 = 2 * pq + C1, 2 * (c - pq) + C2
        self.b1, self.b2 = squares + C1, (s - squares) + C2
        self.inverse = 1 / (self.b1 * self.b2)
        self.similarity = self.a1 * self.a2 * self.inverse

    def derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        """dS/dp, -dS/ds and dS/dc / 2.

        dS/ds = -S / B2, dS/dc = 2 A1 / (B1 B2), dS/dp = 2 q (A2 - A1) / (B1 B2) - 2 p S (1/B1 - 1/B2).
        """
        by_s = self.similarity / self.b2
        by_p = 2 * (self.q * (self.a2 - self.a1) * self.inverse - self.p * (self.similarity / self.b1 - by_s))
        return by_p, by_s, self.a1 * self.inverse


class _MeanSSIM(torch.autograd.Function):
    """The mean over each image; its gradient is worked out in the forward pass, up to a factor for each image.

    With the derivatives above the chain rule gives G' dS/dp + 2 x G' dS/ds + y G' dS/dc over the number of pixels.
    """

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor, window: int, sigma: float) -> Tensor:
        count, pixels = len(prediction), prediction.shape[-2:].numel()
        at_once = max(1, PIXELS // max(1, pixels)) if prediction.device.type == "cpu" else max(1, count)
        means = []
        gradient = torch.empty_like(prediction) if ctx.needs_input_grad[0] else None
        for start in range(0, count, at_once):
            part = slice(start, start + at_once)
            x, y = prediction[part].contiguous(), target[part].contiguous()
            terms = _Terms(*_moments(x, y, window, sigma))
            means.append(terms.similarity.mean(dim=(1, 2, 3)))
            if gradient is not None:
                derivatives = torch.stack(terms.derivatives())
                direct, square, product = blur(derivatives, True, window, sigma).unbind()
                torch.sub(y * product, x * square, out=square).mul_(2).add_(direct)
                gradient[part] = square.div_(x[0].numel())
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return torch.cat(means) if means else prediction.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_mean: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * by_mean[:, None, None, None], None, None, None
