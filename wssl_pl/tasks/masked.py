"""Masked image modelling: He et al. 2022 and Xie et al. 2022, with a small head on a convolutional encoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.data import mix
from wssl_pl.errors import WSSLError
from wssl_pl.losses import WSSLLoss
from wssl_pl.networks import he_initialise
from wssl_pl.tasks.base import PretextTask

PATCHES = 12
"""Patches along each side of the image."""
REDUCTION = 4
"""Factor by which the reconstruction is smaller than the image."""
SCALE = 5.0
"""Of the loss: faces at a quarter of their size differ from their mean colour by 0.20 to 0.21, so that filling with it
costs about 1, not far from log 4, the loss of a classification at chance."""
FULL_SIZE_SCALE = 7.0
"""The same for the downstream stage's loss of images in full size, which is 0.13 to 0.15 for that filling."""
MURMUR = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))


class ReconstructionHead(nn.Module):
    """3x3 convolution, ReLU, 1x1 convolution, pixel shuffle; without skips, so that all goes through the features.

    Args:
        in_channels: feature maps of the encoder's last features, whose side is a 32nd of the image's.
        hidden: feature maps in between; default: half of `in_channels`, at least 32.
    """

    def __init__(self, in_channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(32, in_channels // 2)
        factor = 32 // REDUCTION
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 3 * factor**2, kernel_size=1),
            nn.PixelShuffle(factor),
        )
        he_initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits of an image `(B, 3, 8h, 8w)`, from features `(B, in_channels, h, w)`."""
        output: Tensor = self.layers(features)
        return output


class Masked(PretextTask):
    """Masks square patches of the image; the whole image is reconstructed, at a quarter of its size.

    The image is the one that the other tasks have made; masked pixels are 0. The score is R²: the fraction of the
    variance around each image's mean colour that the reconstruction explains. Filling with that colour is 0, a perfect
    reconstruction 1.

    Args:
        levels: the smallest and the largest fraction of masked patches; drawn between them for each sample.
    """

    name = "masked"
    score_name = "r2"
    numbers = 3
    default_levels = (0.3, 0.5)
    reconstructs = True
    masks_input = True
    state_shape = (2,)

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        super().__init__(levels)
        self.ratios = self.levels
        if len(self.ratios) != 2 or not 0.0 <= self.ratios[0] <= self.ratios[1] < 1.0:
            reason = f"{self.name} takes the smallest and the largest fraction of masked patches, below 1"
            raise WSSLError("levels", self.levels, reason)
        self.masks_input = self.ratios[1] > 0.0
        self.full_size_loss = WSSLLoss()

    def draw(self, uniform: Tensor) -> Tensor:
        """Return the masked patches `(B, 1, PATCHES, PATCHES)` bool, from uniform numbers `(B, 3)`."""
        low, high = self.ratios
        count = torch.round((low + (high - low) * uniform[:, :1]) * PATCHES**2)
        # The patches in a random order, of which the first are masked: the rank of each is its place in that order.
        rank = expand(uniform[:, 1:], PATCHES**2).argsort(dim=1, stable=True).argsort(dim=1)
        return (rank < count).view(-1, 1, PATCHES, PATCHES)

    def mask(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return a bool `(B, 1, H, W)`, where images `(B, 3, H, W)` are masked, from patches or from such a mask."""
        if drawn.shape[-2:] == images.shape[-2:]:
            return drawn
        return F.interpolate(drawn.to(torch.float32), size=images.shape[-2:]) > 0.5

    def forward(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the images with the masked patches set to 0."""
        return torch.where(self.mask(images, drawn), 0.0, images)

    def target(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the images themselves."""
        return images

    def head(self, in_channels: int) -> nn.Module:
        """Return a `ReconstructionHead`."""
        return ReconstructionHead(in_channels)

    def image(self, output: Tensor) -> Tensor:
        """Return the reconstruction `(B, 3, 8h, 8w)` in [0, 1] of the head's logits, a quarter of the image."""
        return torch.sigmoid(output.float())

    def predict(self, output: Tensor) -> Tensor:
        """Return the reconstruction, as `image` does."""
        return self.image(output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean absolute error; of a decoder's image in full size the loss of the downstream stage.

        With the absolute error over an image that is mostly known a network hardly learns to fill its holes
        (docs/where.md). Both are scaled to about 1 for filling with the mean colour.
        """
        if output.shape[-2:] == target.shape[-2:]:
            loss: Tensor = self.full_size_loss(self.image(output), target.float())
            return FULL_SIZE_SCALE * loss
        return SCALE * F.l1_loss(self.image(output), _reduced(target, output))

    def state(self, output: Tensor, target: Tensor) -> Tensor:
        """Return two sums of squares: the errors, and the differences from each image's mean colour."""
        small = _reduced(target, output)
        mean = small.mean(dim=(2, 3), keepdim=True)
        return torch.stack([(self.image(output) - small).square().sum(), (small - mean).square().sum()])

    def score(self, state: Tensor) -> Tensor:
        """Return R²; 0 where there is nothing to explain."""
        errors, variation = state
        return torch.where(variation > 0, 1.0 - errors / variation, 0.0)


class Autoencoder(Masked):
    """Reconstructs an image of which nothing is masked: the control of `masked`.

    With `pretext_holes` the holes of the data's own masks are filled.
    """

    name = "autoencoder"
    default_levels = (0.0, 0.0)

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        if levels is not None:
            raise WSSLError("levels", list(levels), f"{self.name} masks nothing", "use the task masked")
        super().__init__()


class Restoration(Autoencoder):
    """Reconstructs the clean image, as it was before the other tasks changed it, and before holes were set into it.

    Beside it damages have any strength between their levels, as in the restoration downstream, and their labels are
    those of the nearest levels. Without other tasks and holes it is `autoencoder`. A rotation is beyond a decoder with
    skips.
    """

    name = "restoration"
    masks_input = False


def _reduced(images: Tensor, output: Tensor) -> Tensor:
    height, width = output.shape[-2:]
    # Of sides that 32 does not divide a rest is behind the last feature.
    images = images[..., : REDUCTION * height, : REDUCTION * width]
    return F.adaptive_avg_pool2d(images.float(), (height, width))


def expand(uniform: Tensor, count: int) -> Tensor:
    """Return many random integers from few uniform numbers: `(B, count)` int64 in [0, 2**32) from `(B, K)`.

    A counter is mixed with the numbers' 24 bits, so that a sample's integers depend on its own numbers alone. The
    mixing function is the 32-bit finaliser of MurmurHash3 (Appleby 2011).
    """
    key = torch.zeros_like(uniform[:, :1], dtype=torch.int64)
    for column in (uniform * 2.0**24).long().split(1, dim=1):
        key = mix(key ^ column, MURMUR, bits=32)
    output: Tensor = mix(key + 0x9E3779B9 * torch.arange(1, count + 1, device=uniform.device), MURMUR, bits=32)
    return output
