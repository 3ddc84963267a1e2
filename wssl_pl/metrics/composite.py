"""The image that a user sees: known pixels from the input, the hole from the network."""

import torch
from torch import Tensor


def composite(prediction: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Return `prediction` inside the hole and `image` outside it.

    Args:
        prediction: the network's output `(B, 3, H, W)` in [0, 1].
        image: the true image `(B, 3, H, W)`; only its known pixels are used.
        mask: `(B, 1, H, W)`, 1 = hole.

    Returns:
        `(B, 3, H, W)`; pixels outside the hole are bit-identical to `image`.
    """
    return torch.where(mask > 0.5, prediction, image)
