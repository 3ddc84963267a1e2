"""What the button does: a photo's file and the strokes on it, to the filled photo's file."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wssl_pl.app.strokes import preview_size
from wssl_pl.errors import UsageError
from wssl_pl.inference import Inpainter
from wssl_pl.inference.engine import Progress, fill_all
from wssl_pl.inference.holes import HoleOptions, find_hole
from wssl_pl.inference.photo import Photo, check_size, read_photo, write_photo

FindHole = Callable[[Photo], NDArray[np.bool_]]


@dataclass(frozen=True)
class Filled:
    """A filled photo.

    Attributes:
        path: PNG of the photo's full size; all pixels outside the hole are those of the photo's file.
        before: a picture of at most 1024 px of the photo, for the screen.
        after: the same of the filled one.
        words: a line about it.
    """

    path: Path
    before: Path
    after: Path
    words: str


def fill_photo(
    path: Path,
    find_hole: FindHole,
    inpainter: Inpainter,
    folder: Path,
    megapixels: float,
    progress: Progress | None = None,
) -> Filled:
    """Fills the hole of a photo file.

    Args:
        path: the photo, as it was uploaded.
        find_hole: the hole `(H, W)` of a photo.
        inpainter: the model.
        folder: where a new folder is made for what comes out.
        megapixels: the largest photo, in millions of pixels.
        progress: told how far it is.

    Raises:
        UsageError: the photo or the hole cannot be used.
    """
    photo = open_photo(path, megapixels)
    hole = find_hole(photo)
    started = time.perf_counter()
    (pixels,) = fill_all([photo.pixels], [hole], inpainter.backend, inpainter.scheme, progress)
    seconds = time.perf_counter() - started
    filled = replace(photo, pixels=pixels)
    # No name that anybody could guess: the server gives out each file to who knows its name.
    target = folder / secrets.token_hex(16)
    target.mkdir(parents=True)
    out = target / f"{path.stem[:80]}-filled.png"
    write_photo(filled, out)
    before, after = target / "before.png", target / "after.png"
    save_preview(photo, before)
    save_preview(filled, after)
    height, width = hole.shape
    share = f"{100 * hole.mean():.1f} %"
    words = (
        f"{width} × {height} pixels, {share} of them filled in {seconds:.2f} s on {inpainter.device}; all others are "
        "those of your file"
    )
    return Filled(out, before, after, words)


def open_photo(path: Path, megapixels: float) -> Photo:
    """Reads an uploaded photo; messages do not name the server's folders.

    Raises:
        UsageError: it is not a JPEG, PNG or WebP picture, is damaged, or is too large.
    """
    if not path.is_file():
        raise UsageError(f"the photo {path.name} is gone, as all are an hour after they were loaded: load it again")
    try:
        return read_photo(path, megapixels)
    except UsageError as error:
        raise UsageError(shown(error, photo=path)) from None


def read_white(photo: Photo, mask: Path, megapixels: float) -> NDArray[np.bool_]:
    """The hole `(H, W)` of a photo that an uploaded mask marks in white; messages do not name the server's folders.

    Raises:
        UsageError: the mask cannot be read, is too large or not of the photo's size, or has no hole, or nothing else.
    """
    height, width = photo.pixels.shape[:2]
    try:
        if check_size(mask, "mask", megapixels) != (height, width):
            raise UsageError(f"the mask {mask.name} is not of the photo's size, {width} x {height} pixels")
        return find_hole(photo, mask, HoleOptions(max_megapixels=megapixels))[0]
    except UsageError as error:
        # Without the remedy in brackets, which is an option of the command line.
        raise UsageError(shown(error, mask=mask).partition(" (is ")[0]) from None


def shown(error: UsageError, **paths: Path) -> str:
    """The message of an error with file names in place of paths, in one line."""
    message = " ".join(str(error).split())
    for name, path in paths.items():
        message = message.replace(f"{name}={path}", f"the {name} {path.name}").replace(str(path), path.name)
    return message[:1].upper() + message[1:]


def save_preview(photo: Photo, path: Path) -> None:
    """Writes a PNG of a photo for the screen: at most 1024 px long, 8 bit, on white where it is transparent."""
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
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
