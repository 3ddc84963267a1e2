"""The losses of a generator and its discriminator, over every score."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AdversarialLosses:
    """The two sides of an adversarial training.

    Attributes:
        generator: from the scores of generated images.
        discriminator: from the scores of true and of generated images.
        at_chance: the discriminator's loss where it can tell nothing.
    """

    generator: Callable[[Tensor], Tensor]
    discriminator: Callable[[Tensor, Tensor], Tensor]
    at_chance: float


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return `mean(relu(1 - real)) + mean(relu(1 + fake))`: 2 for scores of 0, 0 for sure ones (Lim and Ye 2017).

    Args:
        real: scores of true images, of any shape.
        fake: scores of generated images, of any shape.
    """
    return F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean()


def generator_hinge(fake: Tensor) -> Tensor:
    """Return `-mean(fake)` for the scores of generated images, of any shape."""
    return -fake.float().mean()


def discriminator_log(real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of `-log D` of true images plus that of `-log (1 - D)` of generated ones, D the sigmoid.

    The original losses (Goodfellow et al. 2014, algorithm 1): `2 log 2` for scores of 0.
    """
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def generator_log(fake: Tensor) -> Tensor:
    """Return the mean of `-log D` of generated images, the form that does not saturate (Goodfellow et al. 2014)."""
    return F.softplus(-fake.float()).mean()


def discriminator_squares(real: Tensor, fake: Tensor) -> Tensor:
    """Return `(mean((real - 1)^2) + mean(fake^2)) / 2` (LSGAN, Mao et al. 2017, equation 9): 1/4 for scores of 1/2."""
    return ((real.float() - 1.0).square().mean() + fake.float().square().mean()) / 2.0


def generator_squares(fake: Tensor) -> Tensor:
    """Return `mean((fake - 1)^2) / 2` (LSGAN, Mao et al. 2017, equation 9)."""
    return (fake.float() - 1.0).square().mean() / 2.0


HINGE = AdversarialLosses(generator_hinge, discriminator_hinge, at_chance=2.0)
LOG = AdversarialLosses(generator_log, discriminator_log, at_chance=2.0 * math.log(2.0))
SQUARES = AdversarialLosses(generator_squares, discriminator_squares, at_chance=0.25)
