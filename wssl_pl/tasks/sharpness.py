"""How sharp."""

import torch.nn.functional as F
from kornia.enhance import sharpness
from torch import Tensor

from wssl_pl.tasks.classification import Classification


class Sharpness(Classification):
    """Blends the image with its 3x3 smoothed copy: 0 is the smoothed copy, 1 the image, as PIL's `Sharpness`.

    PIL, TensorFlow Addons and Kornia leave a border of one pixel unfiltered, a seam by which a network could tell
    the class without looking at the picture. The image is therefore reflected by one pixel, and that border cut off.
    """

    name = "sharpness"
    default_levels = (0.0, 0.25, 0.75, 1.0)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images `(B, 3, H, W)`, each as sharp as its level says."""
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        return sharpness(padded, self.factor(labels))[..., 1:-1, 1:-1]
