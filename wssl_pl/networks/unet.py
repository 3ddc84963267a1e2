"""The U-Net of the paper (Ronneberger et al. 2015) as two halves: five encoder stages and five decoder stages."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wssl_pl.errors import WSSLError
from wssl_pl.networks.blocks import ConvPair, he_initialise
from wssl_pl.networks.encoder import LEVELS, Encoder

WIDTH = 64
"""Feature maps of the first stage in the paper; they double with each of the five stages."""


class EncoderStage(ConvPair):
    """Two convolution units and a 2x2 max-pool: `(B, in, H, W)` to features `(B, out, H, W)` and their pooled half."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, block: str) -> None:
        super().__init__()
        self.add_units(in_channels, out_channels, norm, block)
        self.pool = nn.MaxPool2d(2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features after pooling, and those before it, which the decoder's skip connection takes."""
        skip = self.convolve(features)
        return self.pool(skip), skip


class UNetEncoder(Encoder):
    """Five stages of (3x3 conv, ReLU, 3x3 conv, ReLU, 2x2 max-pool), He-normal initialised.

    Args:
        width: feature maps of the first stage; each further stage has twice as many.
        norm: `none` (the paper), `batch`, `group` or `instance`, after each convolution.
        in_channels: 3 for RGB, 4 with a mask channel.
        block: `plain` (the paper), `residual` or `gated`: see `ConvPair`.

    Example:
        >>> features, skips = UNetEncoder(width=8)(torch.rand(2, 3, 64, 64))
        >>> features.shape, len(skips)
        (torch.Size([2, 128, 2, 2]), 5)
    """

    def __init__(self, width: int = WIDTH, norm: str = "none", in_channels: int = 3, block: str = "plain") -> None:
        super().__init__()
        if width < 1:
            raise WSSLError("width", width, "must be at least 1")
        widths = [width * 2**stage for stage in range(LEVELS)]
        self.out_channels = (*widths, widths[-1])
        self.stages = nn.ModuleList(
            EncoderStage(below, here, norm, block)
            for below, here in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        he_initialise(self)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled features of the last stage, and those of all stages before pooling; see `Encoder`."""
        skips = []
        features = images
        for stage in self.stages:
            features, skip = stage(features)
            skips.append(skip)
        return features, skips

    def layers(self) -> list[nn.Module]:
        """Return the 16 layers in Keras's count, as the paper does: the input, then conv, conv, pool of each stage."""
        layers: list[Any] = [nn.Identity()]
        stage: Any
        for stage in self.stages:
            # A shortcut is trained as long as one of the two convolutions beside it is.
            second = stage.second if stage.shortcut is None else nn.ModuleList([stage.second, stage.shortcut])
            layers += [stage.first, second, stage.pool]
        return layers


class DecoderStage(ConvPair):
    """2x2 up-convolution, concatenation with the skip connection, two convolution units."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, norm: str, block: str) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.add_units(out_channels + skip_channels, out_channels, norm, block)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Return `(B, out, 2H, 2W)` from `(B, in, H, W)` and the skip `(B, skip, 2H, 2W)`."""
        return self.convolve(torch.cat([self.up(features), skip], dim=1))


class UNetDecoder(nn.Module):
    """Five stages that mirror the encoder, then a 1x1 convolution to `out_channels`; He-normal initialised.

    Args:
        encoder_channels: the encoder's `out_channels`.
        norm: as for the encoder.
        out_channels: channels of the output.
        min_width: feature maps of a stage, at least; without it a stage has as many as its skip.
        block: as for the encoder.

    Example:
        >>> encoder = UNetEncoder(width=8)
        >>> decoder = UNetDecoder(encoder.out_channels)
        >>> decoder(*encoder(torch.rand(2, 3, 64, 64))).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        norm: str = "none",
        out_channels: int = 3,
        min_width: int = 1,
        block: str = "plain",
    ) -> None:
        super().__init__()
        below, skips = encoder_channels[-1], encoder_channels[-2::-1]
        stages = []
        for skip in skips:
            here = max(skip, min_width)
            stages.append(DecoderStage(below, skip, here, norm, block))
            below = here
        self.stages = nn.ModuleList(stages)
        self.last_channels = below
        self.project = nn.Conv2d(below, out_channels, kernel_size=1)
        he_initialise(self)

    def forward(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        """Return logits `(B, out_channels, H, W)`, before the sigmoid, from what the encoder returns; `32 | H, W`."""
        output: Tensor = self.project(self.features(features, skips))
        return output

    def features(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        """Return the last stage's features, `(B, last_channels, H, W)`."""
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            features = stage(features, skip)
        return features
