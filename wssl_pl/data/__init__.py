"""Images, masks and their pairing in batches."""

from typing import TYPE_CHECKING, Any

from wssl_pl.data.draws import mix

if TYPE_CHECKING:
    from wssl_pl.data.datamodule import WSSLDataModule

__all__ = ["WSSLDataModule", "mix"]


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import, and preparing a cache starts processes that need none of it.
    if name == "WSSLDataModule":
        from wssl_pl.data.datamodule import WSSLDataModule

        return WSSLDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
