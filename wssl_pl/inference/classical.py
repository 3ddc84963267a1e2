"""Classical methods in place of a model."""

import numpy as np

from wssl_pl.evaluation.classical import fill_classically, find_method
from wssl_pl.models.info import Array, ModelInfo


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
        pairs = zip(images.transpose(0, 2, 3, 1), masks[:, 0] > 0.5, strict=True)
        filled = [fill_classically(self._fill, np.ascontiguousarray(image), mask) for image, mask in pairs]
        return np.stack(filled).transpose(0, 3, 1, 2)
