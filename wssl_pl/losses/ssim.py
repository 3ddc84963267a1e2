"""The perceptual part of the paper's loss."""

from torch import Tensor

from wssl_pl.metrics import ssim
from wssl_pl.metrics.ssim import SIGMA, WINDOW


def ssim_loss(
    prediction: Tensor, target: Tensor, implementation: str = "fast", window: int = WINDOW, sigma: float = SIGMA
) -> Tensor:
    """Return `1 - SSIM`, the mean over the batch (the paper, section 3.3.1).

    Twice `kornia.losses.ssim_loss`, which is `(1 - SSIM) / 2`.

    Args:
        prediction: `(B, 3, H, W)` in [0, 1].
        target: the same shape; no gradient flows into it.
        implementation: `fast`, or `kornia` for the reference.
        window: side of the Gaussian window in pixels, odd.
        sigma: standard deviation of the window in pixels.

    Returns:
        a scalar in [0, 2].
    """
    return 1.0 - ssim(prediction, target, implementation, window, sigma).mean()
