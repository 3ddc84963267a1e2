"""Where the hole of a photo is: from a mask file, from transparency, or from a colour painted into it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from wssl_pl.data.decode import binarised
from wssl_pl.data.files import reason
from wssl_pl.errors import UsageError
from wssl_pl.inference.photo import MEGAPIXELS, Photo, check_size


@dataclass(frozen=True)
class HoleOptions:
    """How holes are found.

    Attributes:
        hole: which brightness of a mask file is the hole, `white` or `black`.
        hole_color: without a mask file, the colour, as `#rrggbb`, that marks the hole; else transparency does.
        dilate: pixels by which holes are widened on every side.
        resize_mask: bring a mask of another size to the photo's.
        max_megapixels: the largest picture that is read, in millions of pixels.

    Raises:
        UsageError: a value that it cannot have.
    """

    hole: str = "white"
    hole_color: str | None = None
    dilate: int = 0
    resize_mask: bool = False
    max_megapixels: float = MEGAPIXELS

    def __post_init__(self) -> None:
        if self.hole not in ("white", "black"):
            raise UsageError(f"hole={self.hole}: it must be white or black")
        if self.hole_color is not None and not re.fullmatch(r"#?[0-9a-fA-F]{6}", self.hole_color):
            raise UsageError(f"hole_color={self.hole_color}: it must be like #ff00ff")
        if self.dilate < 0:
            raise UsageError(f"dilate={self.dilate}: it must not be negative")
        if not 0 < self.max_megapixels < float("inf"):
            raise UsageError(f"max_megapixels={self.max_megapixels}: it must be a positive number")


def find_hole(photo: Photo, mask: Path | None, options: HoleOptions) -> tuple[NDArray[np.bool_], list[str]]:
    """The hole of a photo as it is shown, `(H, W)`, True in the hole, and what the user should know of it.

    Raises:
        UsageError: the mask cannot be read or has another size, there is no hole, or nothing but hole.
    """
    shape = photo.pixels.shape[:2]
    notes: list[str] = []
    if mask is not None:
        hole, binary = _read_mask(mask, shape, options)
        if not binary:
            notes.append(f"mask={mask} is not black and white alone: taken for hole where it is nearer to that side")
        source = f"mask={mask}"
        remedy = f"is {'black' if options.hole == 'white' else 'white'} the hole? Then hole=" + (
            "black" if options.hole == "white" else "white"
        )
    elif options.hole_color is not None:
        hole = _of_colour(photo.pixels, options.hole_color)
        source, remedy = f"hole_color={options.hole_color}", "a JPEG file changes colours: paint and save as PNG"
    elif photo.alpha is not None:
        hole = photo.alpha < np.iinfo(photo.alpha.dtype).max
        source, remedy = f"photo={photo.path}", "its transparency marks the hole where no mask is given"
    else:
        raise UsageError(
            f"photo={photo.path} has no transparency that marks a hole: give a mask, or hole_color=#rrggbb"
        )
    if not hole.any():
        raise UsageError(f"{source} marks no hole: nothing to fill ({remedy})")
    if options.dilate:
        side = 2 * options.dilate + 1
        hole = cv2.dilate(hole.view(np.uint8), np.ones((side, side), np.uint8)).view(bool)
    if hole.all():
        raise UsageError(f"{source} marks the whole photo as hole: nothing is known to start from ({remedy})")
    return hole, notes


def _read_mask(path: Path, shape: tuple[int, ...], options: HoleOptions) -> tuple[NDArray[np.bool_], bool]:
    size = check_size(path, "mask", options.max_megapixels)
    if size != shape and not options.resize_mask:
        raise UsageError(
            f"mask={path} is {size[1]} x {size[0]} pixels, the photo {shape[1]} x {shape[0]}: "
            "give one of the same size, or resize_mask=true"
        )
    try:
        with Image.open(path) as image:
            holes, binary = binarised(ImageOps.exif_transpose(image), bright=options.hole == "white")
            if size != shape:
                holes = holes.resize((shape[1], shape[0]), Image.Resampling.BOX)
            return np.asarray(holes) >= 128, binary
    except Exception as error:
        # Pillow's decoders raise whatever their format's parser does; each means that this file is bad.
        raise UsageError(f"mask={path} {reason(error)}") from None


def _of_colour(pixels: NDArray[Any], colour: str) -> NDArray[np.bool_]:
    code = colour.removeprefix("#")
    wanted = np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.uint32)
    wanted = wanted * (np.iinfo(pixels.dtype).max // 255)
    hole = np.ones(pixels.shape[:2], bool)
    for channel in range(3):
        hole &= pixels[..., min(channel, pixels.shape[-1] - 1)] == wanted[channel]
    return hole
