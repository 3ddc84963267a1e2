"""Context blocks: layers between encoder and decoder with which a hole sees the whole image.

All are residual and return their input at first, so that any trained encoder and decoder fit around them.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.errors import WSSLError
from wssl_pl.networks.blocks import he_initialise
from wssl_pl.networks.precision import without_autocast

CONTEXTS = ("none", "dilated", "fourier", "attention")
MOST_LEVELS = 3
DILATIONS = (1, 2, 4, 8)
HEAD_CHANNELS = 32
"""Channels of an attention head."""


class ContextBlock(nn.Module):
    """`x + project(body(x))`, where `project` is a 1x1 convolution that starts with zeros: `(B, C, H, W)` to the same.

    Args:
        body: `(B, channels, H, W)` to the same.
        channels: feature maps of input and output.
    """

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.project = nn.Conv2d(channels, channels, kernel_size=1)
        he_initialise(self)
        nn.init.zeros_(self.project.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        output: Tensor = features + self.project(self.body(features))
        return output


class DilatedContext(nn.Module):
    """Four 3x3 convolutions side by side, with the dilations 1, 2, 4 and 8: `(B, C, H, W)` to the same.

    Aggregated contextual transformations (Zeng et al. 2021, AOT-GAN), without their gate.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        count, rest = divmod(channels, len(DILATIONS))
        widths = [count + (number < rest) for number in range(len(DILATIONS))]
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, width, kernel_size=3, padding=dilation, dilation=dilation)
            for width, dilation in zip(widths, DILATIONS, strict=True)
            if width
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, at least 0."""
        return torch.cat([branch(features) for branch in self.branches], dim=1).relu()


class FourierUnit(nn.Module):
    """A 1x1 convolution of the spectrum: `(B, C, H, W)` to the same (Chi et al. 2020; Suvorov et al. 2022, LaMa).

    Each frequency's real and imaginary parts are 2 C channels. The transforms are products with cosine and sine
    matrices, in float32 also under autocast: one implementation for every device and for ONNX at any size. Normalised
    as `norm="ortho"` of `torch.fft.rfft2`. LaMa's batch normalisation is omitted.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, 2 * channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        with without_autocast(features.device):
            real, imaginary = spectrum(features.to(dtype))
            stacked = torch.cat([real, imaginary], dim=1)
            bias = None if self.mix.bias is None else self.mix.bias.to(dtype)
            mixed = F.conv2d(stacked, self.mix.weight.to(dtype), bias).relu()
            real, imaginary = mixed.chunk(2, dim=1)
            return image_of(real, imaginary, features.shape[-1]).to(features.dtype)


class FourierContext(nn.Module):
    """Half of the maps through a 3x3 convolution, half through a `FourierUnit`: `(B, C, H, W)` to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 2:
            raise WSSLError("context", "fourier", "needs at least 2 feature maps")
        self.local = nn.Conv2d(channels, channels - channels // 2, kernel_size=3, padding=1)
        self.reduce = nn.Conv2d(channels, channels // 2, kernel_size=1)
        self.fourier = FourierUnit(channels // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        reduced = self.reduce(features).relu()
        return torch.cat([self.local(features).relu(), reduced + self.fourier(reduced)], dim=1)


class AttentionContext(nn.Module):
    """Self-attention over all positions, in heads of 32 channels: `(B, C, H, W)` to the same.

    Positions are known through a depthwise 3x3 convolution before it (Chu et al. 2021). Memory grows with
    `(H W)^2` where PyTorch has no fused kernel, and in ONNX.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_CHANNELS)
        if channels % self.heads:
            raise WSSLError("context", "attention", f"needs a number of feature maps that {self.heads} divides")
        self.position = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)
        self.norm = nn.GroupNorm(1, channels)
        self.queries_keys_values = nn.Conv2d(channels, 3 * channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        batch, channels, height, width = features.shape
        normed = self.norm(features + self.position(features))
        # (B, 3, heads, C / heads, H W), then positions before channels.
        stacked = self.queries_keys_values(normed).reshape(batch, 3, self.heads, -1, height * width)
        queries, keys, values = stacked.transpose(-1, -2).unbind(dim=1)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        return attended.transpose(-1, -2).reshape(batch, channels, height, width)


def make_contexts(name: str, encoder_channels: Sequence[int], levels: int = 1) -> nn.ModuleList:
    """Return a context block for each of the coarsest levels of an encoder's features, the coarsest first.

    Args:
        name: one of `CONTEXTS`; none makes no block.
        encoder_channels: the encoder's `out_channels`.
        levels: 1 for the last features, 2 and 3 with the skips at 1/16 and 1/8 of the image's side.

    Raises:
        WSSLError: no such name, or levels that there are not, or that have no effect.

    Example:
        >>> (context,) = make_contexts("fourier", (8, 16, 32, 64, 128, 128))
        >>> features = torch.rand(2, 128, 7, 5)
        >>> bool((context(features) == features).all())
        True
    """
    if name not in CONTEXTS:
        raise WSSLError("context", name, f"is not one of {', '.join(CONTEXTS)}")
    if not 1 <= levels <= MOST_LEVELS:
        raise WSSLError("context_levels", levels, f"is not between 1 and {MOST_LEVELS}")
    if name == "none":
        if levels != 1:
            raise WSSLError("context_levels", levels, "context=none has none", "omit it, or give context=fourier")
        return nn.ModuleList()
    bodies: dict[str, type[nn.Module]] = {
        "dilated": DilatedContext,
        "fourier": FourierContext,
        "attention": AttentionContext,
    }
    return nn.ModuleList(
        ContextBlock(bodies[name](channels), channels) for channels in encoder_channels[: -levels - 1 : -1]
    )


def spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real and the imaginary part of `torch.fft.rfft2(images, norm="ortho")`, `(..., H, W // 2 + 1)` each.

    Args:
        images: `(..., H, W)`, real.
    """
    height, width = images.shape[-2:]
    cos_w, sin_w = _waves(width // 2 + 1, width, images)
    cos_h, sin_h = _waves(height, height, images)
    real, imaginary = images @ cos_w.mT, -(images @ sin_w.mT)
    return cos_h @ real + sin_h @ imaginary, cos_h @ imaginary - sin_h @ real


def image_of(real: Tensor, imaginary: Tensor, width: int) -> Tensor:
    """Return `torch.fft.irfft2(real + 1j * imaginary, norm="ortho")` of the given width, `(..., H, W)`.

    Args:
        real: `(..., H, W // 2 + 1)`, the real part of the spectrum.
        imaginary: the imaginary part, of the same shape.
        width: W; two widths have spectra of the same shape.
    """
    height, count = real.shape[-2:]
    cos_h, sin_h = _waves(height, height, real)
    cos_w, sin_w = _waves(count, width, real)
    rows_real, rows_imaginary = cos_h @ real - sin_h @ imaginary, cos_h @ imaginary + sin_h @ real
    # Every frequency stands for its negative too, except 0 and, of an even width, the highest.
    number = torch.arange(count, device=real.device)
    single = (number == 0) | (2 * number == width)
    twice = torch.where(single, 1.0, 2.0).to(real.dtype)
    return (rows_real * twice) @ cos_w - (rows_imaginary * twice) @ sin_w


def _waves(frequencies: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2 pi k n / size over sqrt(size), `(frequencies, size)`."""
    # Whole turns are taken off before the multiplication with pi: float32 keeps all digits of the angle.
    positions = torch.arange(size, device=like.device, dtype=like.dtype)
    length = positions[-1] + 1  # a tensor, because ONNX's exporter cannot divide by an open size
    turns = torch.arange(frequencies, device=like.device, dtype=like.dtype)[:, None] * positions / length
    angle = 2.0 * math.pi * (turns - turns.floor())
    return angle.cos() * length.rsqrt(), angle.sin() * length.rsqrt()
