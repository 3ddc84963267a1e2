"""Images, masks and their pairing in batches."""

from wssl_pl.data.datamodule import WSSLDataModule

__all__ = ["WSSLDataModule"]
