"""Saturation prediction."""

from kornia.enhance import adjust_saturation
from torch import Tensor

from wssl_pl.tasks.classification import Classification


class Saturation(Classification):
    """Multiplies the saturation of HSV by 0, 0.25, 0.75 or 1, as `tf.image.adjust_saturation` does.

    0 gives grey of the brightest channel, max(R, G, B), not the luma.
    """

    name = "saturation"
    default_levels = (0.0, 0.25, 0.75, 1.0)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, each with its saturation scaled by its level."""
        return adjust_saturation(images, self.factor(labels))
