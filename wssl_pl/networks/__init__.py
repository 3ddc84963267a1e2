"""The networks: plain `nn.Module`s without losses, optimisers or logging."""

from wssl_pl.networks.blocks import InstanceNorm, he_initialise, initialise
from wssl_pl.networks.context import make_contexts
from wssl_pl.networks.discriminator import PatchDiscriminator
from wssl_pl.networks.encoder import Encoder
from wssl_pl.networks.heads import LightDecoder, TaskHead
from wssl_pl.networks.inputs import Fill, crop_to, fill_holes, mean_colour, pad_to_multiple
from wssl_pl.networks.precision import without_autocast
from wssl_pl.networks.unet import WIDTH, UNetDecoder, UNetEncoder

__all__ = [
    "WIDTH",
    "Encoder",
    "Fill",
    "InstanceNorm",
    "LightDecoder",
    "PatchDiscriminator",
    "TaskHead",
    "UNetDecoder",
    "UNetEncoder",
    "crop_to",
    "fill_holes",
    "he_initialise",
    "initialise",
    "make_contexts",
    "mean_colour",
    "pad_to_multiple",
    "without_autocast",
]
