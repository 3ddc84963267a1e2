"""WSSL: weighted self-supervised learning for image inpainting, in PyTorch Lightning."""

__version__ = "0.1.0"
