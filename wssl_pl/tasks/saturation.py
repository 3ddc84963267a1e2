"""Saturation prediction."""

from kornia.enhance import adjust_saturation
from torch import Tensor

from wssl_pl.tasks.classification import Damage


class Saturation(Damage):
    """Multiplies the saturation of HSV by 0, 0.25, 0.75 or 1, as `tf.image.adjust_saturation` does.

    0 gives grey of the brightest channel, max(R, G, B), not the luma.
    """

    name = "saturation"
    default_levels = (0.0, 0.25, 0.75, 1.0)

    def damage(self, images: Tensor, strength: Tensor, key: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, each with its saturation scaled by its strength; `key` has no effect."""
        return adjust_saturation(images, strength)
