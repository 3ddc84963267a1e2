"""SSIM and multi-scale SSIM (Wang, Simoncelli and Bovik 2003) of several predictions of one target, for evaluation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wssl_pl.metrics.gaussian import C1, C2, RADIUS, WINDOW, blur

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the five scales, Wang et al. 2003, table 1
SMALLEST = WINDOW * 2 ** (len(BETAS) - 1)  # the window has to fit into the coarsest scale


def ms_ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the multi-scale SSIM of each image, as torchmetrics defines it.

    Five scales by 2x2 averaging; contrast and structure of the first four over the interior of the map, SSIM of the
    last over the whole reflect-padded map; negative factors count as 0.

    Args:
        prediction: `(B, C, H, W)` in [0, 1], `H` and `W` at least 176.
        target: the same shape.

    Returns:
        `(B,)` in [0, 1], float32.

    Raises:
        ValueError: the images are too small for five scales.
    """
    if min(target.shape[-2:]) < SMALLEST:
        raise ValueError(f"MS-SSIM needs a side of at least {SMALLEST} px, not {min(target.shape[-2:])}")
    return similarities([prediction], target)[0][1]


def similarities(predictions: Sequence[Tensor], target: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return SSIM and MS-SSIM of each image for several predictions of one target.

    Filtering is two matrix products with a banded matrix that holds the Gaussian and the reflected border: a third of
    the time of a separable convolution on a CPU.

    Args:
        predictions: each `(B, C, H, W)` in [0, 1].
        target: the same shape.

    Returns:
        for each prediction `(SSIM, MS-SSIM)`, both `(B,)` float32. MS-SSIM is NaN below a side of 176 px, SSIM of 6 px.
    """
    with torch.autocast(target.device.type, enabled=False):
        target = target.float()
        predictions = [prediction.float() for prediction in predictions]
        if min(target.shape[-2:]) < SMALLEST:
            missing = target.new_full((len(target),), float("nan"))
            if min(target.shape[-2:]) <= RADIUS:
                return [(missing, missing) for _ in predictions]
            return [(similarity, missing) for similarity, _ in _one_scale(predictions, target)]
        found = _one_scale(predictions, target)
        first = [similarity for similarity, _ in found]
        products = [contrast.relu() ** BETAS[0] for _, contrast in found]
        for scale, beta in enumerate(BETAS[1:], start=1):
            target = F.avg_pool2d(target, 2)
            predictions = [F.avg_pool2d(prediction, 2) for prediction in predictions]
            last = scale == len(BETAS) - 1
            found = _one_scale(predictions, target)
            for number, (similarity, contrast) in enumerate(found):
                products[number] = products[number] * (similarity if last else contrast).relu() ** beta
        return list(zip(first, products, strict=True))


def _one_scale(predictions: Sequence[Tensor], target: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return for each prediction mean SSIM over the whole map and mean contrast-structure over its interior."""
    maps = [target, target.square()]
    for prediction in predictions:
        maps += [prediction, prediction.square(), prediction * target]
    mean, square, *rest = blur(torch.stack(maps))
    variance = (square - mean.square()).clamp(min=0.0)
    results = []
    for other, other_square, product in zip(rest[0::3], rest[1::3], rest[2::3], strict=True):
        other_variance = (other_square - other.square()).clamp(min=0.0)
        means = other * mean
        contrast = (2.0 * (product - means) + C2) / (other_variance + variance + C2)
        luminance = (2.0 * means + C1) / (other.square() + mean.square() + C1)
        interior = contrast[..., RADIUS:-RADIUS, RADIUS:-RADIUS]
        results.append(((luminance * contrast).mean(dim=(1, 2, 3)), interior.mean(dim=(1, 2, 3))))
    return results
