"""PConv (Liu et al. 2018, "Image inpainting for irregular holes using partial convolutions"): networks and training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.errors import WSSLError
from wssl_pl.networks import he_initialise

KERNELS = (7, 5, 5)  # sides of the encoder's first convolutions; all others have 3
FACTORS = (1, 2, 4)  # feature maps of the encoder's first convolutions, over the width; all others have 8
SLOPE = 0.2  # of the decoder's leaky ReLUs

Part = tuple[Tensor, Tensor]
"""Features `(B, C, H, W)`, and `(B, 1, H, W)` float32, 1 where they are known."""


class PartialConv(nn.Conv2d):
    """Partial convolution: `W (X * M) * sum(1) / sum(M) + b` where a window holds a known value, 0 elsewhere.

    The padding is not known, so that `sum(M)` is smaller at the border.

    Args:
        in_channels: feature maps of all parts of the input.
        out_channels: feature maps of the output.
        kernel: side of the kernel in pixels, odd.
        stride: of the windows.

    Example:
        >>> conv = PartialConv(1, 1, kernel=3)
        >>> _ = nn.init.ones_(conv.weight), nn.init.zeros_(conv.bias)
        >>> features, known = conv((torch.ones(1, 1, 3, 4), torch.tensor([[[[1.0, 0, 0, 0]] * 3]])))
        >>> features[0, 0, 1].tolist(), known[0, 0, 1].tolist()
        ([9.0, 9.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2)

    def forward(self, *parts: Part) -> Part:  # type: ignore[override]
        """Return the features `(B, out, ceil(H / stride), ceil(W / stride))` and where they are known.

        Args:
            parts: what is concatenated, each with the mask that all of its channels have.
        """
        fraction: Tensor | float = 0.0
        padding = self.kernel_size[0] // 2
        for features, known in parts:  # sum(M) / sum(1): a mean over each window, of one channel for all of a part
            mean = F.avg_pool2d(known, self.kernel_size, self.stride, padding)
            fraction = fraction + mean * (features.shape[1] / self.in_channels)
        assert isinstance(fraction, Tensor)
        known = (fraction > 0).to(fraction.dtype)
        inputs = torch.cat([features * mask.to(features.dtype) for features, mask in parts], dim=1)
        output = F.conv2d(inputs, self.weight, None, self.stride, padding)
        # 1 is added where the fraction is 0, and the product is 0 there.
        scale = (known / (fraction + (1.0 - known))).to(output.dtype)
        bias = self.bias.reshape(-1, 1, 1).to(output.dtype)  # type: ignore[union-attr]
        return output * scale + bias * known.to(output.dtype), known


class PartialUnit(nn.Module):
    """Partial convolution, batch normalisation and an activation: parts of an input to features and their mask.

    Args:
        in_channels: feature maps of all parts of the input.
        out_channels: feature maps of the output.
        kernel: side of the kernel in pixels, odd.
        stride: of the windows.
        norm: whether there is a normalisation.
        slope: of a leaky ReLU below 0; 0 for a ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, norm: bool, slope: float) -> None:
        super().__init__()
        self.conv = PartialConv(in_channels, out_channels, kernel, stride)
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.slope = slope

    def forward(self, *parts: Part) -> Part:
        """Return the features and where they are known, as the convolution does."""
        features, known = self.conv(*parts)
        features = self.norm(features)
        return F.leaky_relu(features, self.slope) if self.slope else features.relu(), known


class PConvUNet(nn.Module):
    """The U-Net of partial convolutions, He-normal initialised.

    At every level the decoder doubles features and mask by nearest neighbours, and concatenates those of the encoder.
    Sides need not divide: a convolution rounds half a side up, and what is doubled is cut to the encoder's side.

    Args:
        width: feature maps of the first convolution.
        downs: convolutions of stride 2.

    Example:
        >>> output, known = PConvUNet(width=4, downs=5)(torch.rand(2, 3, 40, 33), torch.ones(2, 1, 40, 33))
        >>> output.shape, known.shape
        (torch.Size([2, 3, 40, 33]), torch.Size([2, 1, 40, 33]))
    """

    def __init__(self, width: int = 64, downs: int = 7) -> None:
        super().__init__()
        for name, value in (("width", width), ("downs", downs)):
            if value < 1:
                raise WSSLError(name, value, "must be at least 1")
        channels = [3, *(width * (*FACTORS, *[8] * downs)[level] for level in range(downs))]
        kernels = (*KERNELS, *[3] * downs)
        self.encoder = nn.ModuleList(
            PartialUnit(channels[level], channels[level + 1], kernels[level], 2, norm=level > 0, slope=0.0)
            for level in range(downs)
        )
        self.decoder = nn.ModuleList(
            PartialUnit(channels[level + 1] + channels[level], channels[level], 3, 1, norm=True, slope=SLOPE)
            for level in reversed(range(1, downs))
        )
        self.last = PartialConv(channels[1] + 3, 3, kernel=3)
        he_initialise(self)

    def forward(self, images: Tensor, known: Tensor) -> Part:
        """Return the raw output `(B, 3, H, W)`, and where it is known.

        Args:
            images: `(B, 3, H, W)` in [0, 1]; finite also where they are not known.
            known: `(B, 1, H, W)`, 1 where a pixel is known, else 0.
        """
        parts = [(images, known.float())]
        for unit in self.encoder:
            parts.append(unit(parts[-1]))
        below = parts.pop()
        for unit in (*self.decoder, self.last):
            skip = parts.pop()
            below = unit(tuple(F.interpolate(each, size=skip[0].shape[-2:], mode="nearest") for each in below), skip)
        return below

    def norms(self) -> list[nn.Module]:
        """Return the encoder's normalisations."""
        return [unit.norm for unit in self.encoder if isinstance(unit.norm, nn.BatchNorm2d)]


def total_variation(filled: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of absolute differences of neighbours in the hole dilated by one pixel, over all values.

    Args:
        filled: the composites `(B, 3, H, W)`.
        mask: `(B, 1, H, W)`, above 0.5 in the hole.

    Example:
        >>> image = torch.tensor([[0.0, 1.0, 3.0, 7.0, 15.0]]).expand(1, 3, 1, 5)
        >>> mask = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]).expand(1, 1, 1, 5)
        >>> total_variation(image, mask)  # (|3 - 1| + |7 - 3|) / 5
        tensor(1.2000)
    """
    filled, near = filled.float(), F.max_pool2d((mask > 0.5).float(), 3, stride=1, padding=1)
    rows = (filled[..., 1:, :] - filled[..., :-1, :]).abs() * (near[..., 1:, :] * near[..., :-1, :])
    columns = (filled[..., 1:] - filled[..., :-1]).abs() * (near[..., 1:] * near[..., :-1])
    return (rows.sum() + columns.sum()) / filled.numel()
