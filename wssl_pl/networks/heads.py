"""Small networks on an encoder's features: the classification head, and the decoder of the online probe."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.networks.blocks import he_initialise

SLOPE = 0.1
"""Of a head's activation for negative values. With 0, a ReLU, all units of a head can die in its first steps: before
the features show the task, noise pushes them below 0, and no gradient brings them back. The head then gives the same
answer for every image, and the task teaches the encoder nothing."""


class LeakyReLU(nn.Module):
    """`max(x, slope * x)`, with the slope in the state dict: that of heads of earlier versions is 0."""

    slope: Tensor

    def __init__(self, slope: float = SLOPE) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape and type of `x`."""
        return torch.maximum(x, self.slope.to(x.dtype) * x)


class TaskHead(nn.Module):
    """Global average pool, Linear, `LeakyReLU`, Linear to the task's levels.

    Args:
        in_channels: feature maps of the encoder's last features.
        levels: classes of the task.
        hidden: units between the two linear layers; default: a quarter of `in_channels`, at least 32.

    Example:
        >>> import torch
        >>> TaskHead(128, levels=4)(torch.rand(2, 128, 7, 7)).shape
        torch.Size([2, 4])
    """

    def __init__(self, in_channels: int, levels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(32, in_channels // 4)
        self.layers = nn.Sequential(nn.Linear(in_channels, hidden), LeakyReLU(), nn.Linear(hidden, levels))
        he_initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `(B, levels)` from feature maps `(B, in_channels, H, W)`."""
        output: Tensor = self.layers(features.mean(dim=(2, 3)))
        return output


class LightDecoder(nn.Module):
    """Reduces each skip to a few feature maps by a 1x1 convolution, and adds them up from coarse to fine.

    A stage is: double the size, add the reduced skip, 3x3 convolution, ReLU. The reduced features are batch-normalised,
    so that the scale of the encoder's features does not matter. The last convolution starts with zeros: a new decoder
    returns 0 everywhere.

    Args:
        encoder_channels: the encoder's `out_channels`.
        channels: feature maps of every stage.
        out_channels: channels of the output.

    Example:
        >>> import torch
        >>> from wssl_pl.networks import UNetEncoder
        >>> encoder = UNetEncoder(width=8)
        >>> LightDecoder(encoder.out_channels)(*encoder(torch.rand(2, 3, 64, 64))).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(self, encoder_channels: Sequence[int], channels: int = 16, out_channels: int = 3) -> None:
        super().__init__()
        *skips, last = encoder_channels
        self.start = _reduction(last, channels)
        self.reductions = nn.ModuleList(_reduction(skip, channels) for skip in skips)
        self.mixes = nn.ModuleList(nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in skips)
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
