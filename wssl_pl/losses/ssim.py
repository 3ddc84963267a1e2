"""The perceptual part of the paper's loss."""

from torch import Tensor

from wssl_pl.metrics import ssim


def ssim_loss(prediction: Tensor, target: Tensor, implementation: str = "fast") -> Tensor:
    """`1 - SSIM`, the mean over the batch (the paper, section 3.3.1).

    Twice `kornia.losses.ssim_loss`, which is `(1 - SSIM) / 2`.

    Args:
        prediction: `(B, 3, H, W)` in [0, 1].
        target: the same shape; no gradient flows into it.
        implementation: `fast`, or `kornia` for the reference.

    Returns:
        a scalar in [0, 2].
    """
    return 1.0 - ssim(prediction, target, implementation).mean()
