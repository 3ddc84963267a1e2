"""The synthetic dataset: faces and masks drawn by code, from which the pretext tasks and inpainting can be learned."""

import numpy as np
from numpy.typing import NDArray

from wssl_pl.errors import WSSLError
from wssl_pl.synthetic.faces import draw_face
from wssl_pl.synthetic.strokes import draw_mask, random_stroke

__all__ = [
    "FACE_COUNTS",
    "MASK_COUNTS",
    "draw_face",
    "draw_mask",
    "random_stroke",
    "synthetic_faces",
    "synthetic_masks",
]

FACE_COUNTS = {"train": 256, "val": 32, "test": 32}
MASK_COUNTS = {"train": 128, "val": 32, "test": 32}


def synthetic_faces(split: str, size: int = 256, count: int | None = None) -> NDArray[np.uint8]:
    """Return the faces `(N, size, size, 3)` of a split, RGB; no face is in two splits."""
    return np.stack([draw_face(seed, size) for seed in _seeds(split, FACE_COUNTS, count)])


def synthetic_masks(
    split: str, size: int = 224, ratio: tuple[float, float] = (0.3, 0.5), count: int | None = None
) -> NDArray[np.uint8]:
    """Return the masks `(N, size, size)` of a split, 1 = hole, each with a hole ratio within `ratio`."""
    return np.stack([draw_mask(seed, size, ratio) for seed in _seeds(split, MASK_COUNTS, count)])


def _seeds(split: str, counts: dict[str, int], count: int | None) -> range:
    """Return every third seed, so that a larger count continues a split and never enters another one."""
    if split not in counts:
        raise WSSLError("split", split, f"must be one of {', '.join(counts)}")
    number = counts[split] if count is None else count
    if number < 1:
        raise WSSLError("count", count, "must be at least 1")
    return range(list(counts).index(split), 3 * number, 3)
