"""The networks: plain `nn.Module`s without losses, optimisers or logging."""

from wssl_pl.networks.blocks import he_initialise, initialise
from wssl_pl.networks.heads import TaskHead
from wssl_pl.networks.holes import Fill, fill_holes, mean_colour
from wssl_pl.networks.light_decoder import LightDecoder
from wssl_pl.networks.padding import crop_to, pad_to_multiple
from wssl_pl.networks.unet import UNetDecoder, UNetEncoder, stage_widths

__all__ = [
    "Fill",
    "LightDecoder",
    "TaskHead",
    "UNetDecoder",
    "UNetEncoder",
    "crop_to",
    "fill_holes",
    "he_initialise",
    "initialise",
    "mean_colour",
    "pad_to_multiple",
    "stage_widths",
]
