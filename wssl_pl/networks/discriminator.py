"""The discriminator of an adversarial loss."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from wssl_pl.networks.blocks import he_initialise
from wssl_pl.networks.precision import without_autocast

FACTORS = (1, 2, 4, 4, 4, 4)
"""Feature maps of each layer, over those of the first."""


class PatchDiscriminator(nn.Module):
    """SN-PatchGAN (Yu et al. 2019, DeepFill v2): six 5x5 convolutions of stride 2 with spectral normalisation.

    Every element of the last features is the score of a patch, above 0 for a true one. Between the layers is a leaky
    ReLU of slope 0.2; behind the last one, where DeepFill v2 has one too, is none.

    Args:
        width: feature maps of the first layer.

    Example:
        >>> PatchDiscriminator(width=4)(torch.rand(2, 3, 128, 96), torch.zeros(2, 1, 128, 96)).shape
        torch.Size([2, 16, 2, 2])
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = [4, *(width * factor for factor in FACTORS)]
        self.layers = nn.ModuleList(
            nn.Conv2d(below, here, kernel_size=5, stride=2, padding=2) for below, here in itertools.pairwise(widths)
        )
        he_initialise(self)
        for layer in self.layers:
            spectral_norm(layer)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the scores `(B, 4 * width, ceil(H / 64), ceil(W / 64))`; in training, this changes the buffers.

        Args:
            images: `(B, 3, H, W)` in [0, 1].
            masks: `(B, 1, H, W)`, 1 = hole.
        """
        features = torch.cat([2.0 * images.float() - 1.0, (masks > 0.5).float()], dim=1)
        layer: nn.Module
        for number, layer in enumerate(self.layers):
            with without_autocast(features.device):
                weight: Tensor = layer.weight  # type: ignore[assignment]  # normalised in float32
            features = F.conv2d(F.leaky_relu(features, 0.2) if number else features, weight, layer.bias, 2, 2)  # type: ignore[arg-type]
        return features
