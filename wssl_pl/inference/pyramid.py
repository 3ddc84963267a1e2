"""Half the size and back, a strip of rows at a time, so that memory does not grow with the image."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

STRIP = 256  # rows of the larger image


def value_range(dtype: np.dtype) -> float:
    """Return the value that counts as 1: 255, 65535, or 1 of floats."""
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def to_dtype(values: NDArray[np.float32], dtype: np.dtype) -> NDArray[Any]:
    """Return values in [0, 1] as `dtype`, scaled and rounded if it is an integer type."""
    if np.issubdtype(dtype, np.integer):
        scale = value_range(dtype)
        result: NDArray[Any] = np.rint(values * np.float32(scale)).clip(0, scale).astype(dtype)
        return result
    return values.astype(dtype)


def halve(image: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return an image of half the size, from its known pixels alone.

    Args:
        image: `(H, W, C)`.
        mask: `(H, W)`.

    Returns:
        the mean of the known ones among each 2 x 2 pixels, `(ceil(H / 2), ceil(W / 2), C)` in [0, 1], 0 in the hole,
        and the mask: where none of the four is known.
    """
    height, width, channels = image.shape
    rows, columns = -(-height // 2), -(-width // 2)
    small = np.zeros((rows, columns, channels), np.float32)
    holes = np.zeros((rows, columns), bool)
    scale = np.float32(value_range(image.dtype))
    for top in range(0, height, STRIP):
        part = slice(top, min(top + STRIP, height))
        known = (~mask[part]).astype(np.float32)[..., None]
        counts, sums = _sum_of_four(known), _sum_of_four(image[part].astype(np.float32) * known)
        out = slice(top // 2, top // 2 + len(counts))
        np.divide(sums, counts * scale, out=small[out], where=counts > 0)
        holes[out] = counts[..., 0] == 0
    return small, holes


def _sum_of_four(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if values.shape[0] % 2 or values.shape[1] % 2:
        values = np.pad(values, ((0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)))
    return (values[0::2, 0::2] + values[0::2, 1::2]) + (values[1::2, 0::2] + values[1::2, 1::2])


def paste(small: NDArray[np.float32], image: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """Fill the hole of an image, in place, from one of half its size, bilinearly.

    Args:
        small: `(ceil(H / 2), ceil(W / 2), C)` in [0, 1].
        image: `(H, W, C)`.
        mask: `(H, W)`.
    """
    for top in range(0, len(image), STRIP):
        inside = mask[top : top + STRIP]
        columns = np.flatnonzero(inside.any(axis=0))
        if not len(columns):
            continue
        left, right = int(columns[0]), int(columns[-1]) + 1
        # One pixel more on each side than is needed, for the interpolation.
        first, last = max(0, top // 2 - 1), min(len(small), (top + STRIP) // 2 + 1)
        start, stop = max(0, left // 2 - 1), min(small.shape[1], -(-right // 2) + 1)
        part = small[first:last, start:stop]
        size = 2 * part.shape[1], 2 * part.shape[0]
        # OpenCV drops a single channel's axis.
        large: NDArray[Any] = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR).reshape(size[1], size[0], -1)
        large = large[top - 2 * first :][: len(inside), left - 2 * start :][:, : right - left]
        np.copyto(image[top : top + STRIP, left:right], to_dtype(large, image.dtype), where=inside[:, left:right, None])
