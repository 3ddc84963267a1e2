"""A soft transition around a hole, from what was filled in to what was there."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wssl_pl.errors import WSSLError
from wssl_pl.inference.pyramid import to_dtype, value_range
from wssl_pl.inference.tiles import ease


@dataclass(frozen=True)
class Ring:
    """The known pixels around the holes of an image that are filled too, and blended with what they were.

    Attributes:
        filled: `(H, W)`, True in holes and ring.
        inside: `(H, W)`, True in the ring.
        weight: `(N, 1)` of the fill in each pixel of the ring: it falls from 1 at the hole to 0 beyond the ring.
        before: `(N, C)`, the pixels of the ring.
    """

    filled: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    weight: NDArray[np.float32]
    before: NDArray[Any]

    @classmethod
    def around(cls, image: NDArray[Any], mask: NDArray[np.bool_], pixels: int) -> "Ring":
        """Return the ring of an image `(H, W, C)` and its mask: what is at most `pixels` pixels from a hole.

        Raises:
            WSSLError: `pixels` is negative, or no known pixel is left.
        """
        if pixels < 0:
            raise WSSLError("feather", pixels, "must not be negative")
        distance = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        filled = distance <= pixels
        if filled.all():
            raise WSSLError("feather", pixels, "reaches all known pixels", "give fewer")
        inside = filled & ~mask
        weight = ease(1 - distance[inside] / np.float32(pixels + 1))
        return cls(filled, inside, weight[:, None], image[inside])

    def blend(self, image: NDArray[Any]) -> None:
        """Blend the ring of the filled image, in place."""
        scale = np.float32(value_range(image.dtype))
        before, after = (pixels.astype(np.float32) / scale for pixels in (self.before, image[self.inside]))
        image[self.inside] = to_dtype(before + self.weight * (after - before), image.dtype)
