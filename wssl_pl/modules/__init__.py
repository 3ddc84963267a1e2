"""The LightningModules that put networks, tasks, losses and metrics together."""

import importlib
from typing import TYPE_CHECKING, Any

from wssl_pl.modules.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from wssl_pl.modules.inpaint import InpaintModule
    from wssl_pl.modules.pretext import PretextModule
    from wssl_pl.modules.registry import FILLING_MODULES, MODULES

__all__ = ["FILLING_MODULES", "MODULES", "InpaintModule", "PretextModule", "read_checkpoint"]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import, and a finished model needs none of it.
    if name in __all__:
        return getattr(importlib.import_module("wssl_pl.modules.registry"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
