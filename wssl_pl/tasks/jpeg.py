"""Prediction of JPEG's quality."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_ycbcr, ycbcr_to_rgb
from torch import Tensor

from wssl_pl.errors import WSSLError
from wssl_pl.networks import crop_to, pad_to_multiple, without_autocast
from wssl_pl.tasks.classification import Damage

# ITU-T T.81, annex K: the tables of brightness and of colour that libjpeg scales by the quality.
BRIGHTNESS = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
COLOUR = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *[99] * 32,
)  # fmt: skip
SIDE = 8
UNCHANGED = 100.0


class Jpeg(Damage):
    """Compresses by JPEG with a quality of 10, 30, 60, or 100, which leaves the image; colours at half the resolution.

    Computed on the device as libjpeg does but for the rounding of pixels and of the tables: DCT of 8 x 8 blocks,
    quantised. Kornia's `jpeg_codec_differentiable` waits for the device at every call.
    """

    name = "jpeg"
    default_levels = (10.0, 30.0, 60.0, 100.0)

    tables: Tensor

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        super().__init__(levels)
        # On the device once; whole numbers, which a module in 16 bits does not round.
        self.register_buffer("tables", torch.tensor([BRIGHTNESS, COLOUR]).view(2, SIDE, SIDE), persistent=False)

    def check_levels(self) -> None:
        """Raise `WSSLError` for a quality outside [1, 100]."""
        if not all(1.0 <= level <= UNCHANGED for level in self.levels):
            raise WSSLError("levels", self.levels, "a level of jpeg is outside [1, 100], libjpeg's qualities")

    def damage(self, images: Tensor, strength: Tensor, key: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, each compressed with its quality; `key` has no effect."""
        padded = pad_to_multiple(images.float(), 2 * SIDE)
        brightness, colour = (rgb_to_ycbcr(padded) * 255.0).split((1, 2), dim=1)
        # libjpeg's scale of the tables, in percent.
        scale = torch.where(strength < 50.0, 5000.0 / strength, 200.0 - 2.0 * strength)
        brightness = quantised(brightness - 128.0, self.tables[0], scale) + 128.0
        # Grey is 0, as in libjpeg: Kornia's colours are around 0.5.
        colour = quantised(F.avg_pool2d(colour - 127.5, 2), self.tables[1], scale) + 127.5
        colour = F.interpolate(colour, scale_factor=2.0, mode="bilinear", align_corners=False)
        changed = ycbcr_to_rgb(torch.cat([brightness, colour], dim=1) / 255.0).clamp(0.0, 1.0)
        changed = crop_to(changed, *images.shape[-2:]).to(images.dtype)
        return torch.where(strength.view(-1, 1, 1, 1) >= UNCHANGED, images, changed)


def quantised(channels: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    """Return channels of which each 8 x 8 block's DCT is rounded to multiples of the table.

    Args:
        channels: `(B, C, H, W)`, around 0, 255 wide; 8 divides H and W.
        table: `(8, 8)`, the steps.
        scale: `(B,)`, of the table, in percent.
    """
    count, number, height, width = channels.shape
    blocks = channels.reshape(count, number, height // SIDE, SIDE, width // SIDE, SIDE).transpose(3, 4)
    rows = torch.arange(SIDE, device=channels.device, dtype=torch.float32)
    # The orthonormal DCT-II.
    basis = torch.cos(torch.pi / SIDE * (rows + 0.5) * rows.view(-1, 1)) * (2.0 / SIDE) ** 0.5
    basis = torch.where(rows.view(-1, 1) == 0, basis * 0.5**0.5, basis)
    steps = ((table.float() * scale.view(-1, 1, 1, 1, 1, 1) + 50.0) / 100.0).floor().clamp(1.0, 255.0)
    with without_autocast(channels.device):
        coefficients = torch.round(basis @ blocks @ basis.mT / steps) * steps
        blocks = basis.mT @ coefficients @ basis
    return blocks.transpose(3, 4).reshape(count, number, height, width)
