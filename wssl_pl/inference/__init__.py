"""A trained model on images of any size. PyTorch is imported only for a model that it runs."""

from wssl_pl.inference.inpainter import Inpainter

__all__ = ["Inpainter"]
