"""The built-in sample: portraits and hole masks drawn by code, to train on before any data set is at hand.

The portraits have an evident up, a steady colourfulness and detail at pixel scale: what the pretext tasks (rotation,
saturation, sharpness) look for. A seed gives the same picture at every size, apart from its grain.
"""

import numpy as np
from numpy.random import PCG64, Generator
from PIL import Image

from wssl_pl.data.sample.background import draw_background
from wssl_pl.data.sample.masks import SMALLEST, draw_mask
from wssl_pl.data.sample.portrait import draw_portrait
from wssl_pl.errors import UsageError

__all__ = ["MASK_COUNTS", "SAMPLE_COUNTS", "draw_face", "draw_mask", "sample_faces", "sample_masks"]

SAMPLE_COUNTS = {"train": 256, "val": 32, "test": 32}
MASK_COUNTS = {"train": 128, "val": 32, "test": 32}
SPLITS = tuple(SAMPLE_COUNTS)

SATURATION = 0.46  # mean over a picture: the four factors of the saturation task leave clearly different means
BOOST = 1.3  # more would make skin orange
GRAIN = 0.03


def draw_face(seed: int, size: int = 256) -> np.ndarray:
    """A portrait (size, size, 3) of uint8 RGB; the same seed is the same person at every size.

    Raises:
        UsageError: if the size is below 32.
    """
    if size < SMALLEST:
        raise UsageError(f"size={size}: expected at least {SMALLEST} pixels")
    rng = Generator(PCG64([seed, 1]))
    # Drawn larger and averaged down, which smooths the edges; a small picture keeps a canvas with room for detail.
    side = max(256, 3 * size // 2)
    image = Image.new("RGB", (side, side))
    draw_background(image, rng)
    draw_portrait(image, rng)
    return finish(image.resize((size, size), Image.Resampling.HAMMING), rng)


def finish(image: Image.Image, rng: Generator) -> np.ndarray:
    """Light from above, an even saturation and grain; returns (size, size, 3) of uint8."""
    size = image.width
    channels = [np.asarray(channel, np.float32) for channel in image.split()]
    value = np.maximum(np.maximum(channels[0], channels[1]), channels[2])
    few = np.asarray(image)[::4, ::4].astype(np.float32)
    boost = min((SATURATION + rng.normal(0, 0.015)) / (1 - few.min(2) / np.maximum(few.max(2), 1)).mean(), BOOST)
    # Light and grain are factors, which leaves hue and saturation as they are.
    light = 1 + GRAIN * rng.standard_normal((size, size), np.float32)
    light *= np.linspace(1.06, 0.9, size, dtype=np.float32)[:, None]
    value *= light * np.float32(1 - boost)
    light *= np.float32(boost)
    pixels = np.empty((size, size, 3), np.float32)
    for k, channel in enumerate(channels):
        pixels[..., k] = channel * light + value
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def sample_faces(split: str, size: int = 256, count: int | None = None) -> np.ndarray:
    """The portraits (N, size, size, 3) of a split, uint8 RGB; no two splits share one."""
    return np.stack([draw_face(seed, size) for seed in seeds(split, SAMPLE_COUNTS, count)])


def sample_masks(
    split: str, size: int = 224, ratio: tuple[float, float] = (0.3, 0.5), count: int | None = None
) -> np.ndarray:
    """The masks (N, size, size) of a split, uint8, 1 = hole; each has a share of holes within ``ratio``."""
    return np.stack([draw_mask(seed, size, ratio) for seed in seeds(split, MASK_COUNTS, count)])


def seeds(split: str, counts: dict[str, int], count: int | None) -> range:
    """Seeds of one split: the splits take turns, so that they stay apart whatever their counts."""
    if split not in SPLITS:
        raise UsageError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
    number = counts[split] if count is None else count
    if number < 1:
        raise UsageError(f"count={count}: expected a whole number of at least 1")
    return range(SPLITS.index(split), len(SPLITS) * number, len(SPLITS))
