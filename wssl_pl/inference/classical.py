"""Classical methods in place of a model."""

import numpy as np

from wssl_pl.evaluation.classical import fill_classically, find_method
from wssl_pl.inference.tiles import CELL, Box, tight_box
from wssl_pl.models.info import Array, ModelInfo

MARGIN = 2 * CELL  # pixels around the holes that a method is shown; Telea looks at 3, FSR at less than 64


class ClassicalPredictor:
    """A method without learning, as a `Predictor`; known pixels stay.

    Args:
        name: `telea`, `navier_stokes`, `biharmonic`, `fsr_fast`, `fsr_best` or `mean`.

    Raises:
        WSSLError: no such method, or its package is not installed.
    """

    device = "cpu"

    def __init__(self, name: str) -> None:
        self._fill = find_method(name)
        self.info = ModelInfo(name)

    def __call__(self, images: Array, masks: Array) -> Array:
        """See `Predictor`."""
        filled = images.copy()
        for image, mask in zip(filled, masks[:, 0] > 0.5, strict=True):
            box = tight_box(mask, Box(0, 0, *mask.shape))
            if box is not None:
                part = box.grown(MARGIN, mask.shape).slices
                pixels = np.ascontiguousarray(image[:, *part].transpose(1, 2, 0))
                image[:, *part] = fill_classically(self._fill, pixels, mask[part]).transpose(2, 0, 1)
        return filled
