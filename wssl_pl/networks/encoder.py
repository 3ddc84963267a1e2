"""The interface of encoders, for the package's own and for those by class path."""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from wssl_pl.errors import WSSLError

LEVELS = 5
"""How often an encoder halves the sides of an image."""


class Encoder(nn.Module):
    """Base of the encoders: features for the heads, and features of five finer levels for the decoder.

    A subclass is built with one keyword argument, `in_channels` (3 for RGB, 4 with a mask channel), sets
    `out_channels`, and implements `forward`. An example is in `docs/add_an_encoder.md`.

    Attributes:
        out_channels: feature maps of the five skips, the finest first, and of the last features.
    """

    out_channels: Sequence[int]
    _frozen_layers = 0

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode images.

        Args:
            images: `(B, in_channels, H, W)`, H and W at least 32; the decoder is given multiples of 32.

        Returns:
            the last features `(B, out_channels[5], H / 32, W / 32)`, and the five skips, `skips[k]` with the shape
            `(B, out_channels[k], H / 2**k, W / 2**k)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement forward")

    def layers(self) -> list[nn.Module]:
        """Return the layers that `freeze` counts, the first one first: by default the children in their order."""
        return list(self.children())

    def freeze(self, layers: int | None = None) -> None:
        """Freeze the first `layers` layers, by default all of them, and unfreeze the rest.

        Frozen means: no gradient, and normalisation statistics that do not move even in training mode. A frozen
        beginning of the network builds no gradient graph, because nothing in it requires a gradient.

        Raises:
            WSSLError: there are not so many layers.
        """
        found = self.layers()
        layers = len(found) if layers is None else layers
        if not 0 <= layers <= len(found):
            reason = f"is not between 0 and {len(found)}, the number of layers of {type(self).__name__}"
            raise WSSLError("freeze_layers", layers, reason, f"give {len(found)} to freeze the whole encoder")
        self._frozen_layers = layers
        for number, layer in enumerate(found):
            layer.requires_grad_(number >= layers)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of what is not frozen; frozen layers stay in evaluation mode."""
        super().train(mode)
        for layer in self.layers()[: self._frozen_layers]:
            layer.eval()
        return self
