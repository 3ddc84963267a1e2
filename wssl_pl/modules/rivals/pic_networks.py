"""The networks of PIC, Pluralistic Image Completion (Zheng et al., CVPR 2019), written from the paper's description.

Activations are LeakyReLU of slope 0.1, and every convolution has spectral normalisation. Sizes below are those of an
image of 256 x 256 pixels and the default width of 32.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.networks import InstanceNorm, without_autocast

SLOPE = 0.1
GAIN = 0.2
"""Of the orthogonal initialisation; the paper has 0.02. The normalisation divides by it. Adam's first step changes
every number by the whole rate, which at width 32 adds a singular value of 0.04. With 0.02 the power iteration, which
starts where all values are equal, misses it, and the second step's loss is a thousand to a million times the
first's."""
FACTORS = (1, 2, 4, 4, 4)
"""Feature maps after each of the five halvings, over those of the first."""
OUTPUTS = 4
"""Scales at which the generator gives an image: 1/8, 1/4, 1/2 and 1 of its side."""


def activation(features: Tensor) -> Tensor:
    """Return LeakyReLU of slope 0.1."""
    return F.leaky_relu(features, SLOPE)


class SpectralConv(nn.Module):
    """A convolution whose weight is divided by its largest singular value, in float32 under autocast too.

    Spectral normalisation (Miyato et al. 2018): the value is estimated by a step of power iteration in each forward
    pass of the training. PyTorch's `spectral_norm` does the same, but begins with 15 steps, which take seconds where a
    model's sizes are checked without memory; an orthogonal weight needs none.

    Args:
        in_channels: feature maps of the input.
        out_channels: feature maps of the output.
        size: side of the kernel in pixels, odd; the border is padded with zeros, so that the size stays.
        doubles: whether it is a transposed convolution of stride 2, which doubles height and width.
    """

    not_averaged = ("u", "v")  # by `EMAWeights`: the mean of unit vectors is shorter
    u: Tensor
    v: Tensor

    def __init__(self, in_channels: int, out_channels: int, size: int = 3, doubles: bool = False) -> None:
        super().__init__()
        self.doubles, self.padding = doubles, size // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, size, size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.orthogonal_(self.weight, gain=GAIN)
        self.register_buffer("u", torch.zeros(out_channels))
        self.register_buffer("v", torch.randn(in_channels * size * size))
        self._iterate(self.weight.detach().flatten(1))

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))
        self.v.copy_(F.normalize(self.u @ matrix, dim=0))

    def normalised(self) -> Tensor:
        """Return the weight `(out, in, size, size)` over its largest singular value; in training, update that."""
        with without_autocast(self.weight.device):
            matrix = self.weight.flatten(1)
            if self.training:
                self._iterate(matrix)
            # Copies, because the next pass changes them before this one's gradients are taken.
            return self.weight / torch.dot(self.u.clone(), matrix @ self.v.clone())

    def forward(self, features: Tensor, reflect: bool = False) -> Tensor:
        """Return features `(B, out, H, W)`, or `(B, out, 2 H, 2 W)`.

        Args:
            features: `(B, in, H, W)`.
            reflect: pad with the reflected border in place of zeros.
        """
        weight = self.normalised()
        if self.doubles:
            return F.conv_transpose2d(features, weight.transpose(0, 1), self.bias, 2, self.padding, output_padding=1)
        if reflect:
            features = F.pad(features, (self.padding,) * 4, mode="reflect")
        return F.conv2d(features, weight, self.bias, padding=0 if reflect else self.padding)


class ResidualBlock(nn.Module):
    """Activation, 3x3, activation, 3x3, beside a shortcut: `(B, in, H, W)` to `(B, out, H, W)`.

    Args:
        in_channels: feature maps of the input.
        out_channels: feature maps of the output; where they are others, the shortcut is a 1x1 convolution.
        halves: whether both ways end with a 2x2 mean, in the shortcut before its convolution.
        raw: whether the input is an image, which the first activation would cut.
    """

    def __init__(self, in_channels: int, out_channels: int, halves: bool = False, raw: bool = False) -> None:
        super().__init__()
        self.first = SpectralConv(in_channels, out_channels)
        self.second = SpectralConv(out_channels, out_channels)
        self.shortcut = SpectralConv(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.halves, self.raw = halves, raw

    def forward(self, features: Tensor) -> Tensor:
        """Return features `(B, out, H, W)`, or of half the height and width."""
        output = self.second(activation(self.first(features if self.raw else activation(features))))
        if self.halves:
            output, features = F.avg_pool2d(output, 2), F.avg_pool2d(features, 2)
        result: Tensor = output + self.shortcut(features)
        return result


class UpBlock(nn.Module):
    """InstanceNorm, activation, 3x3, InstanceNorm, activation, transposed 3x3; the shortcut is a transposed 3x3.

    `(B, in, H, W)` to `(B, out, 2 H, 2 W)`.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([InstanceNorm(in_channels), InstanceNorm(out_channels)])
        self.first = SpectralConv(in_channels, out_channels)
        self.second = SpectralConv(out_channels, out_channels, doubles=True)
        self.shortcut = SpectralConv(in_channels, out_channels, doubles=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return features `(B, out, 2 H, 2 W)`."""
        hidden = self.first(activation(self.norms[0](features)))
        output: Tensor = self.second(activation(self.norms[1](hidden))) + self.shortcut(features)
        return output


class Attention(nn.Module):
    """The mean of all positions' values, weighted by the softmax of the products of their queries.

    A query is a 1x1 convolution to C / 4 maps, and the key is the query (Zheng et al. 2019). `gamma`, 0 at first, is
    for what a subclass adds.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = SpectralConv(channels, max(1, channels // 4), 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def attend(self, features: Tensor, values: Tensor) -> Tensor:
        """Return `values` `(B, V, H, W)` attended by the features `(B, C, H, W)`, of the same shape."""
        queries, stacked = (each.flatten(2).mT[:, None] for each in (self.query(features), values))  # of one head
        attended = F.scaled_dot_product_attention(queries, queries, stacked, scale=1.0)
        return attended[:, 0].mT.reshape(values.shape)


class SelfAttention(Attention):
    """`gamma * attended + x`: `(B, C, H, W)` to the same."""

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        return self.gamma * self.attend(features, features) + features


class ShortLongAttention(Attention):
    """Short and long term attention: over the decoder's own features, and over the encoder's of what is known.

    Both are attended by the weights of the decoder's features. The encoder's are taken as they are where the image is
    known, and `alpha * attended` in the hole, alpha being 0 at first. A residual block of the two joins them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.join = ResidualBlock(2 * channels, channels)

    def forward(self, features: Tensor, encoded: Tensor, known: Tensor) -> Tensor:
        """Return features `(B, C, H, W)`.

        Args:
            features: the decoder's, `(B, C, H, W)`.
            encoded: the encoder's, of the same shape.
            known: `(B, 1, H, W)`, the fraction of each position that is known.
        """
        own, context = self.attend(features, torch.cat([features, encoded], dim=1)).chunk(2, dim=1)
        own = self.gamma * own + features
        context = self.alpha * (1.0 - known) * context + known * encoded
        output: Tensor = self.join(torch.cat([own, context], dim=1))
        return output


class Encoder(nn.Module):
    """Five residual blocks without normalisation: 3 -> 32 -> 64 -> 128 -> 128 -> 128, sides 128, 64, 32, 16, 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * factor for factor in FACTORS]
        first = ResidualBlock(3, width, halves=True, raw=True)
        later = (ResidualBlock(*pair, halves=True) for pair in itertools.pairwise(widths))
        self.blocks = nn.ModuleList([first, *later])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last features `(B, 4 width, H / 32, W / 32)`, and those at 1/8 of the side.

        Args:
            images: `(B, 3, H, W)` in [-1, 1], 0 where nothing is given; H and W divide by 32.
        """
        features, levels = images, []
        for block in self.blocks:
            features = block(features)
            levels.append(features)
        return levels[-1], levels[2]


class Distribution(nn.Module):
    """A residual block from the last features to a normal distribution of the latent: mean and softplus scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = ResidualBlock(channels, 2 * channels)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale, each of the shape of the features `(B, C, H, W)`, float32."""
        mean, scale = self.block(features).float().chunk(2, dim=1)
        return mean, F.softplus(scale)


class Generator(nn.Module):
    """A latent and what the encoder has seen to images of four scales.

    A residual block of the latent, whose output is added to the encoder's last features, and five up blocks: 128 maps
    at 16 and 32 pixels, then 64, 32, 32. Behind the second is the attention. Each of the last four gives an image
    (activation, reflection, 3x3, tanh), which is joined to the next block's input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = width * FACTORS[-1]
        widths = [channels, channels, channels, 2 * width, width, width]
        self.latent = ResidualBlock(channels, channels)
        self.ups = nn.ModuleList(
            UpBlock(widths[number] + (3 if number > 5 - OUTPUTS else 0), widths[number + 1]) for number in range(5)
        )
        self.attention = ShortLongAttention(channels)
        self.outputs = nn.ModuleList(SpectralConv(below, 3) for below in widths[-OUTPUTS:])

    def forward(self, latent: Tensor, features: Tensor, encoded: Tensor, known: Tensor) -> list[Tensor]:
        """Return images `(B, 3, ., .)` in [-1, 1], float32, of 1/8, 1/4, 1/2 and 1 of the side.

        Args:
            latent: `(B, 4 width, H / 32, W / 32)`.
            features: the encoder's last ones, of the same shape.
            encoded: the encoder's at 1/8 of the side.
            known: `(B, 1, H / 8, W / 8)`, the fraction of each position that is known.
        """
        hidden = self.latent(latent) + features
        images: list[Tensor] = []
        for number, up in enumerate(self.ups):
            hidden = up(torch.cat([hidden, images[-1].to(hidden.dtype)], dim=1) if images else hidden)
            if number == 5 - OUTPUTS:
                hidden = self.attention(hidden, encoded, known.to(hidden.dtype))
            if number >= 5 - OUTPUTS:
                output = self.outputs[number - 5 + OUTPUTS](activation(hidden), reflect=True)
                images.append(torch.tanh(output.float()))
        return images


class Discriminator(nn.Module):
    """Scores of patches: five halving residual blocks, then activation and 3x3 to one map.

    Self-attention is before the third of the blocks that follow the first, at 1/8 of the side.

    Args:
        width: feature maps of the first block.

    Example:
        >>> Discriminator(width=2)(torch.rand(2, 3, 64, 96)).shape
        torch.Size([2, 1, 2, 3])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = Encoder(width).blocks
        self.attention = SelfAttention(width * FACTORS[2])
        self.score = SpectralConv(width * FACTORS[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores `(B, 1, H / 32, W / 32)` of images `(B, 3, H, W)` in [-1, 1]."""
        features = images
        for number, block in enumerate(self.body):
            features = block(self.attention(features) if number == 3 else features)
        scores: Tensor = self.score(activation(features))
        return scores
