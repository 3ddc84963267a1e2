"""The hinge losses of a generator and its discriminator (Lim and Ye 2017; Miyato et al. 2018), over every score."""

import torch.nn.functional as F
from torch import Tensor


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return `mean(relu(1 - real)) + mean(relu(1 + fake))`: 2 where the scores tell nothing, 0 where they tell all.

    Args:
        real: scores of true images, of any shape.
        fake: scores of generated images, of any shape.
    """
    return F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean()


def generator_hinge(fake: Tensor) -> Tensor:
    """Return `-mean(fake)` for the scores of generated images, of any shape."""
    return -fake.float().mean()
