"""Blur prediction."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wssl_pl.errors import WSSLError
from wssl_pl.tasks.classification import Damage

LARGEST = 2.0
"""Standard deviation in pixels."""
SMALLEST = 1e-3
"""Below it the neighbours' weights are 0 in float32: no blur."""


class Blur(Damage):
    """Blurs with a Gaussian of a standard deviation of 2, 1, 0.5 or 0 pixels, cut off at three of the largest."""

    name = "blur"
    margin = 6
    default_levels = (2.0, 1.0, 0.5, 0.0)

    def check_levels(self) -> None:
        """Raise `WSSLError` for a standard deviation that the margin is too small for."""
        if not all(0.0 <= level <= LARGEST for level in self.levels):
            raise WSSLError("levels", self.levels, f"a level of blur is outside [0, {LARGEST:g}] pixels")

    def damage(self, images: Tensor, strength: Tensor, key: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, each blurred by its standard deviation in pixels; `key` has no effect."""
        count, channels, height, width = images.shape
        offsets = torch.arange(-self.margin, self.margin + 1, device=images.device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / strength.view(-1, 1).clamp(min=SMALLEST)).square())
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(images.dtype).repeat_interleave(channels, dim=0)
        # One group for each channel of each sample, because every sample has its own kernel.
        flat = images.contiguous(memory_format=torch.contiguous_format).view(1, count * channels, height, width)
        around = (self.margin, self.margin)
        for side, padding, shape in ((width, (*around, 0, 0), (1, -1)), (height, (0, 0, *around), (-1, 1))):
            flat = F.pad(flat, padding, mode="reflect" if side > self.margin else "replicate")
            flat = F.conv2d(flat, kernel.view(count * channels, 1, *shape), groups=count * channels)
        return flat.view(count, channels, height, width).clamp(0.0, 1.0)
