"""What lies behind: He et al. 2022 and Xie et al. 2022, with a small head on a convolutional encoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.errors import UsageError
from wssl_pl.networks import he_initialise
from wssl_pl.tasks.base import PretextTask

PATCHES = 12
"""Patches along each side of the image."""
REDUCTION = 4
"""By how much the reconstruction is smaller than the image."""
SCALE = 5.0
"""Of the loss: faces at a quarter of their size differ from their mean colour by 0.20 to 0.21, so that filling with it
costs about 1, not far from the log 4 that guessing costs a classification."""


class ReconstructionHead(nn.Module):
    """3x3 convolution, ReLU, 1x1 convolution, pixel shuffle; without skips, so that all goes through the features.

    Args:
        in_channels: feature maps of the encoder's last stage, whose side is a 32nd of the image's.
        hidden: feature maps in between; half of `in_channels` if left out.
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
        """Logits of an image `(B, 3, 8h, 8w)`, from features `(B, in_channels, h, w)`."""
        output: Tensor = self.layers(features)
        return output


class Masked(PretextTask):
    """Hides square patches of the image and has the whole of it reconstructed, at a quarter of its size.

    The image is that which the other tasks have made; what is hidden is 0. The score is R²: the share of the variance
    around each image's mean colour that the reconstruction explains. Filling with that colour is 0, a perfect
    reconstruction 1.

    Args:
        levels: the smallest and the largest share of the patches that are hidden; drawn between them for each sample.
    """

    name = "masked"
    score_name = "r2"
    numbers = 3
    default_levels = (0.3, 0.5)
    hides = True
    tally_shape = (2,)

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        super().__init__(levels)
        if len(self.levels) != 2 or not 0.0 <= self.levels[0] <= self.levels[1] < 1.0:
            raise UsageError(
                f"levels of {self.name} {list(self.levels)}: give the smallest and the largest hidden share, below 1"
            )
        self.hides = self.levels[1] > 0.0

    def draw(self, uniform: Tensor) -> Tensor:
        """The hidden patches `(B, 1, PATCHES, PATCHES)` bool, from uniform numbers `(B, 3)`."""
        low, high = self.levels
        count = torch.round((low + (high - low) * uniform[:, :1]) * PATCHES**2)
        # The patches in a random order, of which the first are hidden: the rank of each is its place in that order.
        rank = expand(uniform[:, 1:], PATCHES**2).argsort(dim=1, stable=True).argsort(dim=1)
        return (rank < count).view(-1, 1, PATCHES, PATCHES)

    def hidden(self, images: Tensor, drawn: Tensor) -> Tensor:
        """`(B, 1, H, W)` bool, where images `(B, 3, H, W)` are hidden."""
        return F.interpolate(drawn.to(torch.float32), size=images.shape[-2:]) > 0.5

    def forward(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The images with their hidden patches set to 0."""
        return torch.where(self.hidden(images, drawn), 0.0, images)

    def target(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The images themselves."""
        return images

    def head(self, in_channels: int) -> nn.Module:
        """See `ReconstructionHead`."""
        return ReconstructionHead(in_channels)

    def picture(self, output: Tensor) -> Tensor:
        """The reconstruction `(B, 3, H / 4, W / 4)` in [0, 1] that the head's logits stand for, float32."""
        return torch.sigmoid(output.float())

    def predict(self, output: Tensor) -> Tensor:
        """Return the reconstruction `(B, 3, H / 4, W / 4)`; see `picture`."""
        return self.picture(output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean absolute error, scaled to about 1 for filling with the mean colour."""
        return SCALE * F.l1_loss(self.picture(output), _reduced(target, output))

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """Two sums of squares: the errors, and the differences from each image's mean colour."""
        small = _reduced(target, output)
        mean = small.mean(dim=(2, 3), keepdim=True)
        return torch.stack([(self.picture(output) - small).square().sum(), (small - mean).square().sum()])

    def score(self, tally: Tensor) -> Tensor:
        """R²; 0 where there is nothing to explain."""
        errors, spread = tally
        return torch.where(spread > 0, 1.0 - errors / spread, 0.0)


class Autoencoder(Masked):
    """Has the image reconstructed of which nothing is hidden: the control of `masked`.

    With `pretext_holes` the holes of the data's own masks are filled.
    """

    name = "autoencoder"
    default_levels = (0.0, 0.0)

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        if levels is not None:
            raise UsageError(f"levels of {self.name} {list(levels)}: it hides nothing; take the task masked")
        super().__init__()


def _reduced(images: Tensor, output: Tensor) -> Tensor:
    height, width = output.shape[-2:]
    return F.adaptive_avg_pool2d(images.float(), (height, width))


def expand(uniform: Tensor, count: int) -> Tensor:
    """Many random integers from few uniform numbers, on the device: `(B, count)` int64 in [0, 2**32) from `(B, K)`.

    A counter is mixed with the numbers' 24 bits, so that a sample's integers depend on its own numbers alone. The
    mixing function is the 32-bit finaliser of MurmurHash3 (Appleby 2011).
    """
    key = torch.zeros_like(uniform[:, :1], dtype=torch.int64)
    for column in (uniform * 2.0**24).long().split(1, dim=1):
        key = _mix(key ^ column)
    return _mix(key + 0x9E3779B9 * torch.arange(1, count + 1, device=uniform.device))


def _mix(x: Tensor) -> Tensor:
    # In int64, since PyTorch does not shift unsigned integers on every device; only the lower 32 bits count.
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13), (1, 16)):
        x = x & 0xFFFFFFFF
        x = (x ^ (x >> shift)) * factor
    return x & 0xFFFFFFFF
