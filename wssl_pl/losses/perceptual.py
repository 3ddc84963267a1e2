"""Distances of images in the features of a network that is not trained: content and style (Gatys et al. 2016)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wssl_pl.networks import without_autocast


def perceptual_loss(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the sum over layers of the mean absolute difference of features (Liu et al. 2018, PConv, equation 3).

    Args:
        features: of the prediction, `(B, C, H, W)` of every layer.
        targets: of the true images, of the same shapes.
    """
    layers = [F.l1_loss(ours.float(), true.float()) for ours, true in zip(features, targets, strict=True)]
    return torch.stack(layers).sum()


def gram(features: Tensor) -> Tensor:
    """Return the Gram matrices `(B, C, C)` of features `(B, C, H, W)`, over C H W, in float32 also under autocast."""
    with without_autocast(features.device):
        flat = features.float().flatten(2)
        return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


def style_loss(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the sum over layers of the mean absolute difference of Gram matrices (PConv, equation 4).

    Args:
        features: of the prediction, `(B, C, H, W)` of every layer.
        targets: of the true images, of the same shapes.
    """
    layers = [F.l1_loss(gram(ours), gram(true)) for ours, true in zip(features, targets, strict=True)]
    return torch.stack(layers).sum()
