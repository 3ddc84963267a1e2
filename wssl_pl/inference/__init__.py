"""A trained model on any picture. Nothing here imports PyTorch unless a PyTorch model is loaded."""

from wssl_pl.inference.inpainter import Inpainter

__all__ = ["Inpainter"]
