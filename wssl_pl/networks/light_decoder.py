"""A decoder with few feature maps, by which features are judged."""

import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.networks.blocks import he_initialise
from wssl_pl.networks.unet import stage_widths


class LightDecoder(nn.Module):
    """Reduces each skip to a few feature maps by a 1x1 convolution, and adds them up from coarse to fine.

    A stage is: double the size, add the reduced skip, 3x3 convolution, ReLU. The reduced features are batch-normalised,
    so that the scale of the encoder's features does not matter. The last convolution begins with zeros: a new decoder
    gives 0 everywhere.

    Args:
        width: the encoder's width.
        channels: feature maps of every stage.
        out_channels: channels of the output.

    Example:
        >>> import torch
        >>> from wssl_pl.networks import UNetEncoder
        >>> LightDecoder(width=8)(*UNetEncoder(width=8)(torch.rand(2, 3, 64, 64))).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(self, width: int, channels: int = 16, out_channels: int = 3) -> None:
        super().__init__()
        widths = stage_widths(width)
        self.start = _reduction(widths[-1], channels)
        self.reductions = nn.ModuleList(_reduction(here, channels) for here in widths)
        self.mixes = nn.ModuleList(nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in widths)
        self.project = nn.Conv2d(channels, out_channels, kernel_size=1)
        he_initialise(self)
        nn.init.zeros_(self.project.weight)

    def forward(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        """Return `(B, out_channels, H, W)` from what the encoder returns; `32 | H, W`."""
        x = self.start(features).relu()
        for reduction, mix, skip in zip(reversed(self.reductions), reversed(self.mixes), reversed(skips), strict=True):
            x = mix(F.interpolate(x, scale_factor=2.0) + reduction(skip)).relu()
        output: Tensor = self.project(x)
        return output


def _reduction(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, kernel_size=1, bias=False), nn.BatchNorm2d(channels))
