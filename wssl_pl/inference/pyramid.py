"""Half the size and back, a strip of rows at a time, so that memory does not grow with the picture."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

STRIP = 256  # rows of the larger picture


def halve(pixels: NDArray[Any], hole: NDArray[np.bool_], scale: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A picture of half the size from its known pixels alone.

    Args:
        pixels: `(H, W, C)`.
        hole: `(H, W)`.
        scale: the value that counts as 1.

    Returns:
        the mean of the known ones among each 2 x 2 pixels, `(ceil(H / 2), ceil(W / 2), C)` in [0, 1], 0 in the hole,
        and the hole: where none of the four is known.
    """
    height, width, channels = pixels.shape
    rows, columns = -(-height // 2), -(-width // 2)
    small = np.zeros((rows, columns, channels), np.float32)
    holes = np.zeros((rows, columns), bool)
    for top in range(0, height, STRIP):
        part = slice(top, min(top + STRIP, height))
        known = (~hole[part]).astype(np.float32)[..., None]
        values = pixels[part].astype(np.float32) * known
        counts, sums = _sum_of_four(known), _sum_of_four(values)
        out = slice(top // 2, top // 2 + len(counts))
        np.divide(sums, counts * np.float32(scale), out=small[out], where=counts > 0)
        holes[out] = counts[..., 0] == 0
    return small, holes


def _sum_of_four(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if values.shape[0] % 2 or values.shape[1] % 2:
        values = np.pad(values, ((0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)))
    return (values[0::2, 0::2] + values[0::2, 1::2]) + (values[1::2, 0::2] + values[1::2, 1::2])


def lay(small: NDArray[np.float32], pixels: NDArray[Any], hole: NDArray[np.bool_], scale: float) -> None:
    """Fills the hole of `pixels`, in place, from a picture of half its size, bilinearly.

    Args:
        small: `(ceil(H / 2), ceil(W / 2), C)` in [0, 1].
        pixels: `(H, W, C)`.
        hole: `(H, W)`.
        scale: the value of `pixels` that counts as 1.
    """
    for top in range(0, len(pixels), STRIP):
        inside = hole[top : top + STRIP]
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
        target = pixels[top : top + STRIP, left:right]
        np.copyto(target, to_dtype(large, pixels.dtype, scale), where=inside[:, left:right, None])


def to_dtype(values: NDArray[np.float32], dtype: np.dtype, scale: float) -> NDArray[Any]:
    """Values in [0, 1] as `dtype`, rounded where it counts in whole steps up to `scale`."""
    if np.issubdtype(dtype, np.integer):
        result: NDArray[Any] = np.rint(values * np.float32(scale)).clip(0, scale).astype(dtype)
        return result
    return values.astype(dtype)
