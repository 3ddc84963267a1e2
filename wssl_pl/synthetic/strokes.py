"""Brush strokes, and masks of the synthetic dataset, drawn with them."""

import math
from itertools import pairwise

import cv2
import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from wssl_pl.errors import WSSLError

MIN_SIZE = 32  # pixels; a smaller image has no room for a face or a stroke
WIDTH = (0.05, 0.12)  # of a stroke, in fractions of the mask's side
GROWTH = 1.05  # of the width from stroke to stroke, so that a few dozen strokes cover a mask


def random_stroke(rng: Generator) -> NDArray[np.float64]:
    """Return the points `(N, 2)` (x, y) in [0, 1] of a smooth line, which is reflected at the margins."""
    count = int(rng.integers(50, 170))
    bend = rng.normal(0, 0.04) + np.cumsum(rng.normal(0, 0.03, count))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(bend)
    steps = rng.uniform(0.015, 0.035) * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    points = rng.uniform(0.1, 0.9, 2) + np.cumsum(steps, axis=0)
    return np.asarray(1 - np.abs(1 - np.mod(points, 2)))


def draw_mask(seed: int, size: int = 224, ratio: tuple[float, float] = (0.3, 0.5)) -> NDArray[np.uint8]:
    """Return a mask `(size, size)`, 1 = hole, whose fraction of ones is within `ratio`, bounds included.

    Strokes are drawn one over the other, and the last one stops where a random ratio within the bounds is reached.

    Raises:
        WSSLError: The size is below 32, not 0 <= low <= high <= 1, or no whole number of pixels is within the bounds.
    """
    if size < MIN_SIZE:
        raise WSSLError("size", size, f"must be at least {MIN_SIZE} pixels")
    low, high = ratio
    if not 0 <= low <= high <= 1:
        raise WSSLError("ratio", ratio, "must be two numbers with 0 <= low <= high <= 1")
    # The tolerance forgives that 0.1 * 100 pixels is not a whole number in floating point.
    least, most = math.ceil(low * size**2 - 1e-6), math.floor(high * size**2 + 1e-6)
    if least > most:
        raise WSSLError("ratio", ratio, f"no whole number of {size} x {size} pixels is within", "set the bounds apart")
    rng = Generator(PCG64([seed, 2]))
    goal, brush = int(rng.integers(least, most, endpoint=True)), 1.0
    mask = np.zeros((size, size), np.uint8)
    while True:
        width = max(1, round(size * brush * rng.uniform(*WIDTH)))
        for start, end in pairwise(np.round(random_stroke(rng) * (size - 1)).astype(int).tolist()):
            before = mask.copy()
            cv2.line(mask, start, end, 1, width)
            excess = cv2.countNonZero(mask) - goal
            if excess >= 0:
                mask.flat[np.flatnonzero(mask > before)[:excess]] = 0
                return mask
        brush *= GROWTH
