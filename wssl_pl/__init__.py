"""WSSL: weighted self-supervised learning for image inpainting, in PyTorch Lightning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wssl_pl.data import WSSLDataModule as WSSLDataModule
    from wssl_pl.inference import Inpainter as Inpainter
    from wssl_pl.modules import InpaintModule as InpaintModule
    from wssl_pl.modules import PretextModule as PretextModule

# The only place of the version: setup.cfg reads it, and a test compares CITATION.cff and CHANGELOG.md with it.
__version__ = "0.3.0.dev0"

# Loaded at first use, because PyTorch and Lightning take seconds to import.
_HOMES = {
    "InpaintModule": "wssl_pl.modules",
    "Inpainter": "wssl_pl.inference",
    "PretextModule": "wssl_pl.modules",
    "WSSLDataModule": "wssl_pl.data",
}

__all__ = ["InpaintModule", "Inpainter", "PretextModule", "WSSLDataModule", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
