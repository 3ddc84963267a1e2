"""Building blocks of the U-Net."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.errors import WSSLError

NORMS = ("none", "batch", "group", "instance")
BLOCKS = ("plain", "residual", "gated")
GROUPS = 8
INITIALISATIONS = ("he", "xavier", "pytorch")


class InstanceNorm(nn.GroupNorm):
    """Affine instance normalisation. A map of a single element, which PyTorch refuses in training, becomes the bias."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        return torch.group_norm(features, self.num_groups, self.weight, self.bias, self.eps)


def normalisation(name: str, channels: int) -> nn.Module:
    """Return a normalisation layer of the given name (one of `NORMS`) over `channels` feature maps.

    `group` has 8 groups, or as many as divide both 8 and the channels.

    Raises:
        WSSLError: the name is unknown.
    """
    if name == "none":
        return nn.Identity()
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    raise WSSLError("norm", name, f"is not one of {', '.join(NORMS)}")


class ConvUnit(nn.Module):
    """3x3 convolution, normalisation (none in the paper), ReLU: `(B, in, H, W)` to `(B, out, H, W)`."""

    def __init__(self, in_channels: int, out_channels: int, norm: str = "none") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm = normalisation(norm, out_channels)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return feature maps `(B, out, H, W)`."""
        output: Tensor = self.activation(self.norm(self.conv(features)))
        return output


class GatedUnit(nn.Module):
    """Gated convolution (Yu et al. 2019): `ELU(a) * sigmoid(b)` of one 3x3 convolution's halves a and b.

    `(B, in, H, W)` to `(B, out, H, W)`. A hole can be told from what is around it without a mask channel, because the
    gate is learned. The product is scaled so that He's initialisation keeps the mean square of the features, which
    ReLU does without help: 20 units in a row would otherwise divide it by 10^9.
    """

    # 1 / sqrt(E[ELU(a)^2] E[sigmoid(b)^2]) for a, b from N(0, 2), what He's initialisation makes of mean square 1.
    SCALE = 1.618

    def __init__(self, in_channels: int, out_channels: int, norm: str = "none") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 2 * out_channels, kernel_size=3, padding=1)
        self.norm = normalisation(norm, 2 * out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return feature maps `(B, out, H, W)`."""
        content, gate = self.norm(self.conv(features)).chunk(2, dim=1)
        output: Tensor = F.elu(content) * gate.sigmoid() * self.SCALE
        return output


class ConvPair(nn.Module):
    """Base of a stage: two units in a row, `(B, in, H, W)` to `(B, out, H, W)`."""

    def add_units(self, in_channels: int, out_channels: int, norm: str, block: str) -> None:
        """Make the units. A subclass calls it where their weights come in the order in which weights are drawn.

        Args:
            in_channels: feature maps of the input.
            out_channels: feature maps of the output.
            norm: one of `NORMS`.
            block: `plain`, the paper's; `residual`, the sum with a 1x1 convolution of the input, over sqrt(2) (He et
                al. 2016); `gated`, of `GatedUnit`s.

        Raises:
            WSSLError: no such norm or block.
        """
        if block not in BLOCKS:
            raise WSSLError("block", block, f"is not one of {', '.join(BLOCKS)}")
        unit = GatedUnit if block == "gated" else ConvUnit
        self.first = unit(in_channels, out_channels, norm)
        self.second = unit(out_channels, out_channels, norm)
        self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1) if block == "residual" else None

    def convolve(self, features: Tensor) -> Tensor:
        """Return feature maps `(B, out, H, W)`."""
        output: Tensor = self.second(self.first(features))
        return output if self.shortcut is None else (output + self.shortcut(features)) * 0.5**0.5


def he_initialise(module: nn.Module) -> None:
    """Set He-normal weights and zero biases in every convolution and linear layer below `module`, in place.

    Ronneberger et al. 2015, section 3, after He et al. 2015. With PyTorch's default initialisation the ten plain
    convolutions of the encoder do not train: every head stays at chance.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return  # there is nothing to draw, and PyTorch would import its compiler to do so
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(layer, nn.ConvTranspose2d):
            # Stride equals the kernel size, so each output pixel sums over the input channels alone.
            nn.init.normal_(layer.weight, std=(2.0 / layer.in_channels) ** 0.5)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def initialise(module: nn.Module, name: str) -> None:
    """Draw the weights of every convolution and linear layer below `module` again, in place.

    Args:
        module: the networks.
        name: `he`; `xavier`, which is uniform with zero biases (Glorot and Bengio 2010), Keras's default; or `pytorch`,
            PyTorch's default.

    Raises:
        WSSLError: the name is unknown.
    """
    if name not in INITIALISATIONS:
        raise WSSLError("init", name, f"is not one of {', '.join(INITIALISATIONS)}")
    if name == "he":
        he_initialise(module)
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.reset_parameters()
            if name == "xavier":
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
