"""Contrast prediction: how far an image has faded."""

from kornia.color import rgb_to_grayscale
from torch import Tensor

from wssl_pl.tasks.classification import Damage


class Contrast(Damage):
    """Blends the image with the grey of its mean brightness by 0.25, 0.5, 0.75 or 1, as PIL's `Contrast` does."""

    name = "contrast"
    default_levels = (0.25, 0.5, 0.75, 1.0)

    def damage(self, images: Tensor, strength: Tensor, key: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, each with its contrast scaled by its strength; `key` has no effect."""
        grey = rgb_to_grayscale(images).mean(dim=(1, 2, 3), keepdim=True)
        return grey + strength.view(-1, 1, 1, 1) * (images - grey)
