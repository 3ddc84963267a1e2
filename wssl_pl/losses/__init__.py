"""The losses of the downstream stage: each a function and, where it has settings, a Module over it."""

from wssl_pl.losses.adversarial import HINGE, LOG, SQUARES, AdversarialLosses
from wssl_pl.losses.log_cosh import log_cosh
from wssl_pl.losses.perceptual import perceptual_loss, style_loss
from wssl_pl.losses.ssim import ssim_loss
from wssl_pl.losses.wssl import LOSSES, WSSLLoss

__all__ = [
    "HINGE",
    "LOG",
    "LOSSES",
    "SQUARES",
    "AdversarialLosses",
    "WSSLLoss",
    "log_cosh",
    "perceptual_loss",
    "ssim_loss",
    "style_loss",
]
