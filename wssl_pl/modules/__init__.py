"""The LightningModules that put networks, tasks, losses and metrics together."""

from wssl_pl.modules.checkpoint import read_checkpoint
from wssl_pl.modules.inpaint import InpaintModule
from wssl_pl.modules.pretext import PretextModule
from wssl_pl.modules.registry import FILLING_MODULES, MODULES

__all__ = ["FILLING_MODULES", "MODULES", "InpaintModule", "PretextModule", "read_checkpoint"]
