"""Padding of arrays to the sizes that five poolings can halve, as `wssl_pl.networks.padding` does it for tensors."""

import numpy as np
from numpy.typing import NDArray

MULTIPLE = 32


def pad_to_multiple(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(B, C, H, W)` padded on all sides until `H` and `W` divide by 32: reflected, or repeated where a side is short.

    Images that fit already come back as they are. Undo with :func:`crop_to`.
    """
    height, width = images.shape[-2:]
    for axis, side in ((-1, width), (-2, height)):
        before, after = _split(-side % MULTIPLE)
        if before or after:
            padding = [(0, 0)] * images.ndim
            padding[axis] = (before, after)
            images = np.pad(images, padding, mode="reflect" if after < side else "edge")
    return images


def crop_to(images: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The central `(B, C, height, width)` part of what :func:`pad_to_multiple` made of an image of that size."""
    top, _ = _split(images.shape[-2] - height)
    left, _ = _split(images.shape[-1] - width)
    return images[..., top : top + height, left : left + width]


def _split(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2
