"""Hole masks of the sample: thick brush strokes over each other."""

import math

import numpy as np
from numpy.random import PCG64, Generator
from PIL import Image, ImageDraw

from wssl_pl.errors import UsageError

SMALLEST = 32  # pixels; in a smaller picture neither a face nor a stroke can be told
STROKES = 60  # enough for a ratio of 0.9; what then is missing for one near 1 is filled up
SHRINK = 0.8


def draw_mask(seed: int, size: int = 224, ratio: tuple[float, float] = (0.3, 0.5)) -> np.ndarray:
    """A mask (size, size) of uint8, 1 = hole, whose share of ones lies within ``ratio``, bounds included.

    Raises:
        UsageError: if the size is below 32, if not 0 <= low <= high <= 1, or if no whole number of pixels lies within.
    """
    least, most = pixel_bounds(ratio, size)
    rng = Generator(PCG64([seed, 2]))
    goal, brush = int(rng.integers(least, most, endpoint=True)), 1.0
    mask = np.zeros((size, size), np.uint8)
    for _ in range(STROKES):
        if mask.sum() >= goal:
            break
        wider = mask | brush_stroke(rng, size, brush)
        if wider.sum() <= most:
            mask = wider
        elif mask.any() and mask.sum() >= least:
            break
        else:
            brush *= SHRINK
    return mask if mask.sum() >= least else fill_up(mask, goal, rng)


def pixel_bounds(ratio: tuple[float, float], size: int) -> tuple[int, int]:
    """The least and the greatest number of hole pixels within the bounds."""
    if size < SMALLEST:
        raise UsageError(f"size={size}: expected at least {SMALLEST} pixels")
    low, high = ratio
    if not 0 <= low <= high <= 1:
        raise UsageError(f"ratio={ratio}: expected two numbers with 0 <= low <= high <= 1")
    # The tolerance forgives that 0.1 * 100 pixels is not a whole number in floating point.
    least, most = math.ceil(low * size**2 - 1e-6), math.floor(high * size**2 + 1e-6)
    if least > most:
        raise UsageError(f"ratio={ratio}: no whole number of {size} x {size} pixels lies within; set the bounds apart")
    return least, most


def brush_stroke(rng: Generator, size: int, brush: float) -> np.ndarray:
    """One stroke (size, size) of 0 and 1: a smoothly bending line with round joints, thinner at one end."""
    count = int(rng.integers(12, 40))
    bend = rng.normal(0, 0.05) + np.cumsum(rng.normal(0, 0.05, count))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(bend)
    step = size * brush * rng.uniform(0.02, 0.03)
    points = rng.uniform(0, size, 2) + np.cumsum(step * np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    radii = size * brush * rng.uniform(0.03, 0.085) * np.linspace(rng.uniform(0.6, 1), rng.uniform(0.6, 1), count)
    image = Image.new("L", (size, size))
    draw = ImageDraw.Draw(image)
    draw.line(points.ravel().tolist(), fill=1, width=max(1, round(2 * radii.min())))
    for box in np.concatenate([points - radii[:, None], points + radii[:, None]], axis=1).tolist():
        draw.ellipse(box, fill=1)
    return np.asarray(image)


def fill_up(mask: np.ndarray, goal: int, rng: Generator) -> np.ndarray:
    """Add the pixels that lie nearest to a random point until ``goal`` of them are holes."""
    size = len(mask)
    y, x = rng.uniform(0, size, 2)
    rows, columns = np.mgrid[:size, :size]
    distance = np.where(mask, np.inf, np.hypot(rows - y, columns - x)).ravel()
    filled = mask.copy()
    filled.flat[np.argsort(distance, kind="stable")[: goal - int(mask.sum())]] = 1
    return filled
