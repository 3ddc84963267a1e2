"""Structural similarity per image (Wang et al. 2004)."""

import torch
from kornia.metrics import ssim as kornia_ssim_map
from torch import Tensor

WINDOW = 11  # Gaussian of sigma 1.5, Wang et al. 2004


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of each image's SSIM map over all pixels and channels; differentiable.

    Window 11, sigma 1.5, data range 1, reflect padding: the choice of torchmetrics and of Kornia's `padding="same"`.
    Computed in float32 whatever comes in, because the variances are differences of nearly equal numbers.

    Args:
        prediction: `(B, C, H, W)` in [0, 1], `H` and `W` at least 6.
        target: the same shape.

    Returns:
        `(B,)` in [-1, 1], float32 (float64 for float64 inputs).
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    with torch.autocast(prediction.device.type, enabled=False):
        similarity = kornia_ssim_map(prediction.to(dtype), target.to(dtype), WINDOW, max_val=1.0, padding="same")
        return similarity.mean(dim=(1, 2, 3))
