"""The U-Net of the paper (Ronneberger et al. 2015) as two halves: five encoder stages and five decoder stages."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wssl_pl.networks.blocks import ConvUnit, he_initialise

STAGES = 5
# In Keras's count, which the paper uses: the input, then (convolution, convolution, pooling) five times.
ENCODER_LAYERS = 1 + 3 * STAGES


def stage_widths(width: int) -> list[int]:
    """Feature maps of the five stages: the width doubles with each, 64 to 1024 in the paper."""
    return [width * 2**stage for stage in range(STAGES)]


class EncoderStage(nn.Module):
    """Two convolution units and a 2x2 max-pool: `(B, in, H, W)` to features `(B, out, H, W)` and their pooled half."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.first = ConvUnit(in_channels, out_channels, norm)
        self.second = ConvUnit(out_channels, out_channels, norm)
        self.pool = nn.MaxPool2d(2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The features before pooling, which the decoder's skip connection takes, and after it."""
        skip = self.second(self.first(features))
        return self.pool(skip), skip


class UNetEncoder(nn.Module):
    """Five stages of (3x3 conv, ReLU, 3x3 conv, ReLU, 2x2 max-pool), He-normal initialised.

    Args:
        width: feature maps of the first stage; each further stage has twice as many.
        norm: `none` (the paper), `batch`, `group` or `instance`, after each convolution.
        in_channels: 3 for RGB, 4 with a mask channel.

    Example:
        >>> features, skips = UNetEncoder(width=8)(torch.rand(2, 3, 64, 64))
        >>> features.shape, len(skips)
        (torch.Size([2, 128, 2, 2]), 5)
    """

    def __init__(self, width: int = 64, norm: str = "none", in_channels: int = 3) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width} must be at least 1")
        self.width, self.norm, self.in_channels = width, norm, in_channels
        widths = stage_widths(width)
        self.stages = nn.ModuleList(
            EncoderStage(below, here, norm) for below, here in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self._frozen_layers = 0
        he_initialise(self)

    @property
    def out_channels(self) -> int:
        """Feature maps of the last stage."""
        return stage_widths(self.width)[-1]

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encodes images `(B, in_channels, H, W)`, `H` and `W` at least 32.

        Returns:
            the pooled output of the last stage `(B, 16 width, H // 32, W // 32)`, and the features of the five
            stages before pooling, the finest first, for the decoder's skip connections.
        """
        skips = []
        features = images
        for stage in self.stages:
            features, skip = stage(features)
            skips.append(skip)
        return features, skips

    def layers(self) -> Iterator[Any]:
        """The 16 layers in Keras's count: the input (an empty module), then conv, conv, pool of each stage."""
        yield nn.Identity()
        for stage in self.stages:
            yield from (stage.first, stage.second, stage.pool)

    def freeze(self, layers: int = ENCODER_LAYERS) -> None:
        """Freezes the first `layers` layers (0 to 16) in Keras's count and unfreezes the rest.

        Frozen means: no gradient, and normalisation statistics that stand still even in training mode. A frozen
        beginning of the network builds no gradient graph, because nothing in it requires a gradient.

        Raises:
            ValueError: `layers` is outside 0 to 16.
        """
        if not 0 <= layers <= ENCODER_LAYERS:
            raise ValueError(f"freeze_layers={layers} is not between 0 and {ENCODER_LAYERS}")
        self._frozen_layers = layers
        for number, layer in enumerate(self.layers(), start=1):
            layer.requires_grad_(number > layers)
        self.train(self.training)

    def train(self, mode: bool = True) -> "UNetEncoder":
        """Training mode for what is not frozen; frozen layers stay in evaluation mode."""
        super().train(mode)
        for number, layer in enumerate(self.layers(), start=1):
            if number <= self._frozen_layers:
                layer.eval()
        return self


class DecoderStage(nn.Module):
    """2x2 up-convolution, concatenation with the skip connection, two convolution units."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.first = ConvUnit(out_channels + skip_channels, out_channels, norm)
        self.second = ConvUnit(out_channels, out_channels, norm)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """`(B, in, H, W)` and the skip `(B, skip, 2H, 2W)` to `(B, out, 2H, 2W)`."""
        output: Tensor = self.second(self.first(torch.cat([self.up(features), skip], dim=1)))
        return output


class UNetDecoder(nn.Module):
    """Five stages that mirror `UNetEncoder`, then a 1x1 convolution to `out_channels`; He-normal initialised.

    Args:
        width: the encoder's width.
        norm: as for the encoder.
        out_channels: channels of the output.

    Example:
        >>> encoder, decoder = UNetEncoder(width=8), UNetDecoder(width=8)
        >>> decoder(*encoder(torch.rand(2, 3, 64, 64))).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(self, width: int = 64, norm: str = "none", out_channels: int = 3) -> None:
        super().__init__()
        widths = stage_widths(width)[::-1]
        self.stages = nn.ModuleList(
            DecoderStage(below, here, here, norm) for below, here in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self.project = nn.Conv2d(width, out_channels, kernel_size=1)
        he_initialise(self)

    def forward(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        """Logits `(B, out_channels, H, W)` before the sigmoid, from what the encoder returns; `32 | H, W`."""
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            features = stage(features, skip)
        output: Tensor = self.project(features)
        return output
