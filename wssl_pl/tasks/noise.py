"""Noise prediction."""

import math

import torch
from torch import Tensor

from wssl_pl.tasks.classification import Damage
from wssl_pl.tasks.masked import expand

KEYS = 2.0**24
"""How many different random numbers in [0, 1) a sample can have."""


class Noise(Damage):
    """Adds white Gaussian noise of a standard deviation of 0.2, 0.1, 0.05 or 0, and cuts off what leaves [0, 1].

    The noise is made from the sample's own random number, so that it is the same with any batch, worker or device.
    """

    name = "noise"
    numbers = 2
    default_levels = (0.2, 0.1, 0.05, 0.0)

    def draw(self, uniform: Tensor) -> Tensor:
        """Return labels and keys `(B, 2)` int64, from uniform numbers `(B, 2)` in [0, 1)."""
        return torch.stack([self.labels(uniform[:, 0]), (uniform[:, 1] * KEYS).long()], dim=1)

    def target(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the labels."""
        return drawn[:, 0]

    def forward(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, each with noise of its level, from what `draw` returned or from labels."""
        drawn = drawn if drawn.dim() == 2 else torch.stack([drawn, torch.zeros_like(drawn)], dim=1)
        return self.damage(images, self.factor(drawn[:, 0]), drawn[:, 1].float() / KEYS)

    def damage(self, images: Tensor, strength: Tensor, key: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, each with noise of its standard deviation, made from its key."""
        return (images + strength.view(-1, 1, 1, 1) * normal(key, images.shape[1:])).clamp(0.0, 1.0)


def normal(key: Tensor, shape: torch.Size) -> Tensor:
    """Return standard normal numbers `(B, *shape)`, float32, from one uniform number per sample `(B,)`."""
    return box_muller(expand(key.view(-1, 1), math.prod(shape))).view(-1, *shape)


def box_muller(bits: Tensor) -> Tensor:
    """Return standard normal numbers, float32, from random integers in [0, 2**32) of any shape.

    Box and Muller (1958), from two uniform numbers of 16 bits: none is larger than 4.9.
    """
    radius = torch.sqrt(-2.0 * torch.log(((bits >> 16).float() + 0.5) / 2**16))
    angle = 2.0 * math.pi * (bits & 0xFFFF).float() / 2**16
    return radius * torch.cos(angle)
