"""The mask of a photo: from a mask file, from transparency, or from a colour painted into the photo."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.data.decode import as_grey, binarised, dilate, resize_mask
from wssl_pl.data.exif import upright_image
from wssl_pl.data.files import MEGAPIXELS
from wssl_pl.errors import WSSLError
from wssl_pl.inference.photo import Photo, open_image

MOST = 0.5  # fraction of a photo above which a mask is suspected to be made the other way round


@dataclass(frozen=True)
class MaskOptions:
    """How holes are found.

    Attributes:
        hole: which brightness of a mask file is the hole, `white` or `black`.
        hole_color: without a mask file, the colour, as `#rrggbb`, that marks the hole; else transparency does.
        dilate: pixels by which holes are widened on every side.
        resize_mask: resize a mask of another size to the photo's.
        max_megapixels: the largest image that is read, in millions of pixels.
        feather: pixels around the holes that are filled too and blended, see `Inpainter`.
        restores: whether all of the photo is restored, so that it needs no hole.
        alone: whether a mask file is judged alone, with a note where it marks most of a photo.

    Raises:
        WSSLError: a value that it cannot have.
    """

    hole: str = "white"
    hole_color: str | None = None
    dilate: int = 0
    resize_mask: bool = False
    max_megapixels: float = MEGAPIXELS
    feather: int = 0
    restores: bool = False
    alone: bool = True

    def __post_init__(self) -> None:
        if self.hole not in ("white", "black"):
            raise WSSLError("hole", self.hole, "must be white or black")
        if self.hole_color is not None and not re.fullmatch(r"#?[0-9a-fA-F]{6}", self.hole_color):
            raise WSSLError("hole_color", self.hole_color, "must be like #ff00ff")
        for pixels in ("dilate", "feather"):
            if getattr(self, pixels) < 0:
                raise WSSLError(pixels, getattr(self, pixels), "must not be negative")
        if not 0 < self.max_megapixels < float("inf"):
            raise WSSLError("max_megapixels", self.max_megapixels, "must be a positive number")

    @property
    def other_hole(self) -> str:
        """What to do if masks were made the other way round."""
        other = "black" if self.hole == "white" else "white"
        return f"if {other} is the hole, give hole={other}"

    def suspicion(self, mask: Path, fraction: float) -> str | None:
        """Return a note about a mask, or about a folder of masks, that marks this fraction of the photo; None if fine.

        A mask that marks all of it is an error elsewhere.
        """
        return _suspicion(f"mask={mask}", fraction, self.other_hole)


def _suspicion(what: str, fraction: float, remedy: str) -> str | None:
    return f"{what} marks {fraction:.0%} of the photo as hole: {remedy}" if MOST < fraction < 1 else None


def hole_fraction(mask: Path, options: MaskOptions) -> float:
    """Return the fraction of a mask file that is hole.

    Raises:
        WSSLError: it cannot be read.
    """
    with open_image(mask, "mask", options.max_megapixels) as (image, _, _):
        return float(np.asarray(binarised(image, bright=options.hole == "white")[0]).mean()) / 255


def find_mask(photo: Photo, mask: Path | None, options: MaskOptions) -> tuple[NDArray[np.bool_], list[str]]:
    """Return the mask of a photo as it is shown, `(H, W)`, True in the hole, and notes for the user.

    Raises:
        WSSLError: the mask cannot be read or has another size, there is no hole, or nothing else.
    """
    notes: list[str | None] = []
    name: str
    value: object
    remedy: str | None
    option: str | None = None
    if mask is not None:
        hole, greys = _read_mask(mask, photo.pixels.shape[:2], options)
        if greys is not None:
            notes.append(f"mask={mask} is not black and white alone: the nearer of both counts")
        name, value = "mask", mask
        remedy, option = (None, options.other_hole) if greys is None else (_for_greys(*greys), None)
        notes.append(options.suspicion(mask, float(hole.mean())) if options.alone else None)
    elif options.hole_color is not None:
        hole = _of_colour(photo.pixels, options.hole_color)
        name, value, remedy = "hole_color", options.hole_color, "JPEG files change colours: paint, and save as PNG"
        what = f"hole_color={value} in {photo.path}"
        notes.append(_suspicion(what, float(hole.mean()), "if that is its background, paint in another colour"))
    elif options.restores:
        return np.zeros(photo.pixels.shape[:2], bool), []
    elif photo.alpha is not None:
        hole = photo.alpha < np.iinfo(photo.alpha.dtype).max
        name, value, remedy = "photo", photo.path, "without a mask, its transparency marks the hole"
        what = f"the transparency of {photo.path}"
        notes.append(_suspicion(what, float(hole.mean()), "if that is its background, give a mask"))
        if partly := int(np.count_nonzero(hole & (photo.alpha > 0))):
            notes.append(f"{photo.path}: {partly:,} pixels of the hole are partly opaque, and are filled too")
    else:
        raise WSSLError(
            "photo", photo.path, "has no transparency that marks a hole", "give a mask, or hole_color=#rrggbb"
        )
    said = [note for note in notes if note]
    if options.restores and not hole.any():
        return hole, said
    if not hole.any():
        raise WSSLError(name, value, "marks no hole, so that there is nothing to fill", remedy, option)
    if options.dilate:
        hole = dilate(hole, options.dilate)
    if hole.all():
        raise WSSLError(name, value, "marks the whole photo as hole, so that no pixel is known", remedy, option)
    return hole, said


def _read_mask(
    path: Path, shape: tuple[int, ...], options: MaskOptions
) -> tuple[NDArray[np.bool_], tuple[int, int] | None]:
    """Return the mask of a file, and its darkest and brightest values if it is not black and white alone."""
    with open_image(path, "mask", options.max_megapixels) as (image, _, size):
        if size != shape and not options.resize_mask:
            sizes = f"is {size[1]} x {size[0]} pixels, the photo {shape[1]} x {shape[0]}"
            raise WSSLError("mask", path, sizes, "give one of the same size", "resize_mask=true")
        bright = options.hole == "white"
        grey = as_grey(upright_image(image), bright=bright)
        holes, binary = binarised(grey, bright=bright)
        pixels, values = np.asarray(holes), np.asarray(grey)
        hole = pixels >= 128 if size == shape else resize_mask(pixels, shape)
        return hole, None if binary else (int(values.min()), int(values.max()))


def _for_greys(low: int, high: int) -> str:
    """Return what to do about a mask of greys that all count as black, or all as white, whatever is the hole."""
    if high < 128:
        return f"its brightest value is {high} of 255: paint in white on black"
    return f"its darkest value is {low} of 255: paint in white on black"


def _of_colour(pixels: NDArray[Any], colour: str) -> NDArray[np.bool_]:
    wanted = np.array([*bytes.fromhex(colour.removeprefix("#"))]) * (np.iinfo(pixels.dtype).max // 255)
    hole: NDArray[np.bool_] = np.logical_and.reduce(
        [pixels[..., min(c, pixels.shape[-1] - 1)] == wanted[c] for c in range(3)]
    )
    return hole
