"""What the button does: a photo's file and the strokes on it, to the filled photo's file."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wssl_pl.app.strokes import preview_size
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter
from wssl_pl.inference.engine import Progress
from wssl_pl.inference.masks import MaskOptions, find_mask
from wssl_pl.inference.photo import Photo, read_photo, write_photo

DECODING = threading.Lock()  # one photo at a time, since decoders take twice the memory of its pixels
FindMask = Callable[[Photo], NDArray[np.bool_]]


@dataclass(frozen=True)
class Filled:
    """A filled photo.

    Attributes:
        path: PNG of the photo's full size; all pixels outside the hole are those of the photo's file.
        before: an image of at most 1024 px of the photo, for the screen.
        after: the same of the filled one.
        summary: a line about it.
    """

    path: Path
    before: Path
    after: Path
    summary: str


def fill_photo(
    path: Path,
    find_mask_of: FindMask,
    inpainter: Inpainter,
    folder: Path,
    megapixels: float,
    progress: Progress | None = None,
) -> Filled:
    """Fill the hole of a photo file.

    Args:
        path: the photo, as it was uploaded.
        find_mask_of: returns the mask `(H, W)` of a photo, True in the hole.
        inpainter: the model.
        folder: where the files are made that come out.
        megapixels: the largest photo, in millions of pixels.
        progress: called with (pixels done, of how many).

    Raises:
        WSSLError: the photo or the mask cannot be used.
    """
    before, after = folder / "before.png", folder / "after.png"
    with DECODING:
        photo = open_photo(path, megapixels)
        mask = find_mask_of(photo)
        save_preview(photo, before)
    started = time.perf_counter()
    filled = inpainter.fill(photo, mask, progress, in_place=True)
    seconds = time.perf_counter() - started
    out = folder / f"{path.stem[:80]}-filled.png"
    write_photo(filled, out)
    save_preview(filled, after)
    height, width = mask.shape
    summary = (
        f"{width} × {height} pixels, {mask.mean():.1%} of them filled in {seconds:.2f} s on {inpainter.device}; all "
        "others are those of your file"
    )
    return Filled(out, before, after, summary)


def preview_photo(path: Path, preview: Path, megapixels: float) -> None:
    """Write a PNG of an uploaded photo for the screen, see `open_photo` and `save_preview`."""
    with DECODING:
        save_preview(open_photo(path, megapixels), preview)


def open_photo(path: Path, megapixels: float) -> Photo:
    """Read an uploaded photo.

    Raises:
        WSSLError: it is not a JPEG, PNG, WebP, TIFF or HEIC image, is damaged, or is too large.
    """
    if not path.is_file():
        raise WSSLError("photo", path, "is gone, as all are an hour after they were loaded: load it again")
    return read_photo(path, megapixels)


def read_mask(photo: Photo, mask: Path, megapixels: float) -> NDArray[np.bool_]:
    """Return the hole `(H, W)` of a photo that an uploaded mask marks in white.

    Raises:
        WSSLError: the mask cannot be read, is too large or not of the photo's size, or has no hole, or nothing else.
    """
    return find_mask(photo, mask, MaskOptions(max_megapixels=megapixels))[0]


def describe(error: WSSLError) -> str:
    """Return what went wrong in one line for a visitor: no folders of the server, no options of the command line."""
    if isinstance(error.value, Path):
        kind = "model" if error.parameter == "ckpt" else error.parameter
        text = f"the {kind} {error.value.name} {error.reason}"
    else:
        text = ": ".join(filter(None, [error.reason, error.remedy]))
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def save_preview(photo: Photo, path: Path) -> None:
    """Write a PNG of a photo for the screen: at most 1024 px long, 8 bit, on white where it is transparent."""
    height, width = preview_size(photo.pixels.shape[0], photo.pixels.shape[1])
    pixels = _shrunk(photo.pixels, height, width)
    colours: NDArray[Any] = np.broadcast_to(pixels, (height, width, 3))
    if photo.alpha is not None:
        share = _shrunk(photo.alpha[..., None], height, width).astype(np.float32) / 255
        colours = np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)
    profile = {"icc_profile": photo.profile} if photo.profile and photo.pixels.shape[-1] == 3 else {}
    # Quick to write: it is read once, most often on the same machine.
    Image.fromarray(np.ascontiguousarray(colours)).save(path, "PNG", compress_level=1, **profile)


def _shrunk(pixels: NDArray[Any], height: int, width: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] != (height, width):
        # Plane by plane, since OpenCV copies what is not contiguous.
        planes = [
            cv2.resize(np.ascontiguousarray(plane), (width, height), interpolation=cv2.INTER_AREA)
            for plane in np.moveaxis(pixels, -1, 0)
        ]
        pixels = np.stack(planes, axis=-1)
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
