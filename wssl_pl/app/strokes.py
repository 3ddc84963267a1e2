"""Strokes of a brush, as the editor hands them over, to the hole of a photo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wssl_pl.errors import WSSLError

PREVIEW_SIDE = 1024  # of the picture that is painted on, which browsers send back three times
LARGEST = (4 * PREVIEW_SIDE) ** 2  # pixels of a layer: a screen may have up to four in a row for one


def preview_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the picture that is painted on: the photo's, brought to at most 1024 px."""
    scale = min(1.0, PREVIEW_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def read_strokes(layers: Sequence[str | Path], height: int, width: int) -> NDArray[np.bool_]:
    """The hole `(height, width)` of a photo: True where anything was painted on any layer.

    Args:
        layers: picture files with transparency, transparent where nothing was painted; they may be smaller than the
            photo, but must have its shape.
        height: the photo's height.
        width: the photo's width.

    Raises:
        WSSLError: a layer is no such picture or has another shape, nothing is painted, or all is.
    """
    hole = np.zeros((height, width), bool)
    for layer in layers:
        painted: NDArray[Any] = _read_layer(Path(layer)).view(np.uint8) * np.uint8(255)
        if painted.shape != (height, width):
            _check_shape(painted.shape, (height, width))
            # Of a layer that is larger than the photo a stroke thinner than a pixel counts too.
            way = cv2.INTER_AREA if painted.shape[0] > height else cv2.INTER_LINEAR
            painted = cv2.resize(painted, (width, height), interpolation=way)
            hole |= painted >= (1 if way == cv2.INTER_AREA else 128)
        else:
            hole |= painted > 0
    if not hole.any():
        raise WSSLError(None, None, "nothing is painted yet: paint with the brush over what is to be filled")
    if hole.all():
        raise WSSLError(
            None, None, "the whole picture is painted: leave some of it, nothing else is known to start from"
        )
    return hole


def _read_layer(path: Path) -> NDArray[np.bool_]:
    try:
        with Image.open(path, formats=("PNG", "WEBP")) as image:
            if image.width * image.height > LARGEST:
                raise WSSLError(None, None, f"the strokes come as {image.width} x {image.height} pixels: too many")
            if not image.has_transparency_data:
                raise WSSLError(None, None, "the strokes come without transparency: reload the page")
            return np.asarray(image.convert("RGBA").getchannel("A")) > 0
    except WSSLError:
        raise
    except Exception:
        # Pillow's decoders raise whatever their format's parser does; each means that this file is bad.
        raise WSSLError(None, None, "the strokes cannot be read: paint again") from None


def _check_shape(layer: tuple[int, ...], photo: tuple[int, int]) -> None:
    """Raises `WSSLError` unless two pictures have one shape, apart from their scale and rounding."""
    scale = max(layer) / max(photo)
    if any(abs(ours - theirs * scale) > max(1.0, scale) for ours, theirs in zip(layer, photo, strict=True)):
        raise WSSLError(None, None, "the strokes belong to another photo: wait for the photo to appear, then paint")
