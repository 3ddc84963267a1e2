"""What the page does with files: a photo and its mask, to another version of the photo."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wssl_pl.app.models import check_hole
from wssl_pl.app.session import Version
from wssl_pl.errors import WSSLError
from wssl_pl.inference import Inpainter
from wssl_pl.inference.arrays import on_white
from wssl_pl.inference.engine import Progress
from wssl_pl.inference.feather import Ring
from wssl_pl.inference.masks import MaskOptions, find_mask
from wssl_pl.inference.photo import Photo, open_image, read_photo, write_photo

DECODING = threading.Lock()  # one photo at a time, since decoders take twice the memory of its pixels
PREVIEW_SIDE = 1600  # pixels of the longer side of what is seen on the screen
Mask = NDArray[np.bool_]
FindMask = Callable[[Photo], Mask]
FULL, REDUCED = (79, 70, 229), (234, 88, 12)  # colours of what a model looked at


def original(path: Path, folder: Path, megapixels: float) -> Version:
    """Open an uploaded photo.

    Args:
        path: the photo.
        folder: where the preview is made.
        megapixels: the largest photo, in millions of pixels.

    Raises:
        WSSLError: it cannot be used.
    """
    with DECODING:
        photo = open_photo(path, megapixels)
        notes = ". ".join(f"The photo {note}" for note in photo.notes)
        return _seen(photo, Version("Original", path, folder / "preview.png", notes))


def fill_photo(
    path: Path,
    find_mask_of: FindMask,
    inpainter: Inpainter,
    folder: Path,
    megapixels: float,
    progress: Progress | None = None,
    feather: int = 0,
) -> Version:
    """Fill the hole of a photo file.

    Args:
        path: the photo, as it was uploaded, or a version of it.
        find_mask_of: returns the mask `(H, W)` of a photo, True in the hole.
        inpainter: the model.
        folder: where the files are made that come out.
        megapixels: the largest photo, in millions of pixels.
        progress: called with (pixels done, of how many).
        feather: pixels around the hole that are filled too and blended.

    Raises:
        WSSLError: the photo or the mask cannot be used.
    """
    with DECODING:
        photo = open_photo(path, megapixels)
        mask = find_mask_of(photo)
    filled_too = Ring.around(photo.pixels, mask, feather).filled if feather else mask
    boxes = inpainter.windows(filled_too, photo.invisible)
    check_hole(inpainter, inpainter.holes(filled_too, photo.invisible), boxes[0])
    started = time.perf_counter()
    filled = inpainter.fill(photo, mask, progress, in_place=True, feather=feather)
    seconds = time.perf_counter() - started
    height, width = mask.shape
    others = f"those within {feather} pixels are blended, all others" if feather else "all others"
    summary = (
        f"{width} × {height} pixels, {mask.mean():.1%} of them filled in {seconds:.2f} s on {inpainter.device}; "
        f"{others} are as before"
    )
    made = Version("", edited(path, "filled", folder), folder / "preview.png", summary, seconds=seconds)
    return _written(filled, replace(made, windows=(tuple(boxes[0]), tuple(boxes[1]))))


def restore_photo(
    path: Path, inpainter: Inpainter, folder: Path, megapixels: float, progress: Progress | None = None
) -> Version:
    """Undo the damages of a photo file that a model was trained to undo; arguments and errors as of `fill_photo`."""
    with DECODING:
        photo = open_photo(path, megapixels)
    started = time.perf_counter()
    restored = inpainter.restore_photo(photo, np.zeros(photo.pixels.shape[:2], bool), progress)
    seconds = time.perf_counter() - started
    summary = f"Restored in {seconds:.2f} s: all colours may have changed"
    made = Version("", edited(path, "restored", folder), folder / "preview.png", summary, seconds=seconds)
    return _written(restored, made)


def turn_photo(path: Path, degrees: int, folder: Path, megapixels: float) -> Version:
    """Turn a photo file counter-clockwise by 90, 180 or 270 degrees; arguments and errors as of `fill_photo`."""
    with DECODING:
        photo = open_photo(path, megapixels)
    turns = degrees // 90
    alpha = None if photo.alpha is None else np.rot90(photo.alpha, turns)
    turned = replace(photo, pixels=np.rot90(photo.pixels, turns), alpha=alpha)
    way = {90: "to the left", 180: "upside down", 270: "to the right"}[degrees]
    summary = f"Turned {way}; no pixel has changed"
    return _written(turned, Version("", edited(path, "turned", folder), folder / "preview.png", summary))


def edited(path: Path, what: str, folder: Path) -> Path:
    """Return the name of a version of a photo: the name of the photo, and what was done last."""
    stem = re.sub(r"(-(filled|restored|turned))+$", "", path.stem)
    return folder / f"{stem[:80]}-{what}.png"


def open_photo(path: Path, megapixels: float) -> Photo:
    """Read an uploaded photo.

    Raises:
        WSSLError: it is not a JPEG, PNG, WebP, TIFF or HEIC image, is damaged, or is too large.
    """
    check_there(path)
    return read_photo(path, megapixels)


def check_there(photo: Path) -> None:
    """Raise `WSSLError` if an uploaded photo, or a version of one, was deleted."""
    if not photo.is_file():
        raise WSSLError("photo", photo, "is gone, as all are an hour after they were used: load it again")


def read_mask(photo: Photo, mask: Path, megapixels: float, scaled: bool = False) -> Mask:
    """Return the hole `(H, W)` of a photo that an uploaded mask marks in white.

    Args:
        photo: the photo.
        mask: the mask.
        megapixels: the largest mask, in millions of pixels.
        scaled: whether the mask may be smaller than the photo, but of its shape: the editor limits its masks.

    Raises:
        WSSLError: the mask cannot be read, is too large or not of the photo's size, or has no hole, or nothing else.
    """
    if not mask.is_file():
        raise WSSLError("mask", mask, "is gone: paint again")
    if scaled:
        with open_image(mask, "mask", megapixels) as (_, _, size):
            scale = max(size) / max(photo.pixels.shape[:2])
            if any(abs(ours - theirs * scale) > 1 for ours, theirs in zip(size, photo.pixels.shape[:2], strict=True)):
                reason = "belongs to another photo: wait for the photo to appear, then paint"
                raise WSSLError("mask", mask, reason)
    return find_mask(photo, mask, MaskOptions(max_megapixels=megapixels, resize_mask=scaled))[0]


def describe(error: WSSLError) -> str:
    """Return what went wrong in one line for a visitor: no folders of the server, no options of the command line."""
    remedy = error.remedy
    if isinstance(error.value, Path):
        kind = "model" if error.parameter == "ckpt" else error.parameter
        reason = f"the {kind} {error.value.name} {error.reason}"
        if kind == "model":
            remedy = None  # for who runs the page; a visitor can only choose another one
    else:
        reason = f"this model {error.reason}" if error.parameter == "ckpt" else error.reason
    text = ": ".join(filter(None, [reason, remedy]))
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def draw_windows(version: Version, path: Path) -> None:
    """Write a PNG of a version's preview with frames around what the model looked at to make it."""
    with Image.open(version.preview) as image:
        shown = image.convert("RGB")
    scale = max(shown.size) / max(version.size)
    draw = ImageDraw.Draw(shown)
    wide = max(2, round(max(shown.size) / 400))
    for colour, boxes in ((REDUCED, version.windows[1]), (FULL, version.windows[0])):
        for box in boxes:
            left, top, right, bottom = (round(edge * scale) for edge in (box.left, box.top, box.right, box.bottom))
            draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=wide)
    shown.save(path, compress_level=1)


def _written(photo: Photo, version: Version) -> Version:
    write_photo(photo, version.path)
    return _seen(photo, version)


def _seen(photo: Photo, version: Version) -> Version:
    """Write the preview of a version, whose size is that of the photo."""
    save_preview(photo, version.preview)
    return replace(version, size=photo.pixels.shape[:2])


def save_preview(photo: Photo, path: Path) -> None:
    """Write a PNG of a photo for the screen: at most 1600 px long, 8 bit, on white where it is transparent."""
    longest = max(photo.pixels.shape[:2])
    scale = min(1.0, PREVIEW_SIDE / longest)
    height, width = (max(1, round(side * scale)) for side in photo.pixels.shape[:2])
    pixels = _shrunk(photo.pixels, height, width)
    colours: NDArray[Any] = np.broadcast_to(pixels, (height, width, 3))
    if photo.alpha is not None:
        colours = on_white(colours, _shrunk(photo.alpha[..., None], height, width)[..., 0])
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
