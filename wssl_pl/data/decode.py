"""Decode an image or a mask file to a square array of a fixed size."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from wssl_pl.data.exif import upright_image
from wssl_pl.data.files import FORMATS, reason, too_large
from wssl_pl.errors import DataError

RESIZE_FILTERS = ("lanczos", "bicubic", "bilinear", "area")
"""How images are resized: by one of Pillow's filters, which smooth when they make an image smaller, or to the mean over
each pixel's area."""
BAND = 2**20
"""Pixels that are converted at once."""


def read_image(path: Path, size: int, resize_filter: str = "lanczos") -> NDArray[np.uint8]:
    """Return an image as `(size, size, 3)` uint8 RGB; see `decode_image`.

    Raises:
        DataError: The file cannot be decoded.
    """
    return decode_image(path, size, resize_filter)[0]


def decode_image(
    file: Path | BinaryIO, size: int, resize_filter: str = "lanczos"
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return an image as `(size, size, 3)` uint8 RGB, and the (width, height) that is stored.

    The short side is resized to `size` by one of `RESIZE_FILTERS` and the centre square kept. EXIF rotation is
    applied, grey, palette, CMYK and 16-bit files are converted, and transparency is laid on white. A large JPEG is
    decoded at the smallest of its own scales (1/2, 1/4, 1/8) that is not below `size`.

    Raises:
        DataError: The file cannot be decoded, or is above `MEGAPIXELS`.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            original = image.size
            if why := too_large(original):
                raise DataError("images", file if isinstance(file, Path) else None, why)
            image.draft(None, (size, size))
            shown = upright_image(image)
            pixels = _to_rgb(shown)
            if pixels is not shown:
                shown.close()  # a large image twice would not fit
            return square(pixels, size, resize_filter), original
    except DataError:
        raise
    except Exception as error:
        # Pillow's decoders raise whatever their format's parser does; each means that this file is bad.
        raise DataError("images", file if isinstance(file, Path) else None, reason(error)) from error


def square(image: Image.Image, size: int, resize_filter: str = "lanczos") -> NDArray[np.uint8]:
    """Return the centre square of an RGB image as `(size, size, 3)` uint8, resized by one of `RESIZE_FILTERS`."""
    if resize_filter == "area":
        channels = [resize_area(np.asarray(image.getchannel(name)), size) for name in "RGB"]
        return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if image.size == (size, size):
        return np.asarray(image)
    resample = Image.Resampling[resize_filter.upper()]
    return np.asarray(image.resize((size, size), resample, box=(left, top, left + side, top + side)))


def read_mask(path: Path, size: int, *, bright: bool) -> tuple[NDArray[np.bool_], bool]:
    """Return a mask as `(size, size)` bool, True where at least half of a pixel's area is bright (or dark).

    Binarised at half, then resized by area; of a file that is not square the centre square is taken.

    Returns:
        The mask, and whether the file is binary: black and white alone, or 0 and 1 alone, where 1 counts as white.

    Raises:
        DataError: The file cannot be decoded, or is above `MEGAPIXELS`.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if why := too_large(opened.size):
                raise DataError("masks", path, why)
            selected, binary = binarised(opened, bright=bright)
            if selected is not opened:
                opened.close()  # its pixels, which a large mask has no room for
            return resize_mask(np.asarray(selected), size), binary
    except DataError:
        raise
    except Exception as error:
        raise DataError("masks", path, reason(error)) from error


def binarised(image: Image.Image, *, bright: bool) -> tuple[Image.Image, bool]:
    """Return a mask as 8-bit grey, 255 where it is bright (or dark) and 0 elsewhere, and whether it was binary.

    What is transparent is not selected: an editor's layer of strokes. Of 16 bits without values above 255, those count.
    """
    binary, half = True, 128
    one_bit = image.mode == "1" and not image.has_transparency_data
    image = as_grey(image, bright=bright)
    if not one_bit:
        histogram = image.histogram()
        if not any(histogram[2:]) and histogram[1]:
            half = 1
        else:
            binary = not any(histogram[1:255])
    if binary and half == 128:
        # Black and white already: a table would take a fifth of the time of all of this.
        return image if bright else ImageChops.invert(image), binary
    return image.point([255 if (value >= half) == bright else 0 for value in range(256)]), binary


def as_grey(image: Image.Image, *, bright: bool) -> Image.Image:
    """Return a mask as 8-bit grey: what is transparent is black, or white where dark is selected."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black" if bright else "white"), image)
    elif image.mode.startswith("I") and (values := np.asarray(image)).max() <= 255:
        image = Image.fromarray(values.clip(0).astype(np.uint8))
    image = _to_8_bit(image)
    return image if image.mode == "L" else image.convert("L")


def resize_area(pixels: NDArray[np.uint8], size: int | tuple[int, ...]) -> NDArray[np.float32]:
    """Resize so that each pixel becomes the mean over exactly the area that it covers.

    Pillow's BOX and PyTorch's adaptive pooling take whole pixels, whose centre or any part lies in that area.

    Args:
        pixels: `(H, W)` or `(H, W, C)`.
        size: Side to which the centre square is resized, or (height, width) for all of the image.

    Returns:
        `(height, width)` or `(height, width, C)`.

    Example:
        >>> resize_area(np.array([[0, 200, 100]] * 3, np.uint8), 2)[0].round().tolist()
        [67.0, 133.0]
    """
    import cv2

    sides = (min(pixels.shape[:2]),) * 2 if isinstance(size, int) else pixels.shape[:2]
    targets = (size, size) if isinstance(size, int) else size
    spares = [length - side for length, side in zip(pixels.shape[:2], sides, strict=True)]
    # What is cut off anyway goes first: a long image would be repeated at its whole length.
    y, x = (slice(spare // 2, spare // 2 + side + spare % 2) for spare, side in zip(spares, sides, strict=True))
    pixels = pixels[y, x]
    for axis, (side, spare, target) in enumerate(zip(sides, spares, targets, strict=True)):
        # OpenCV takes the exact area when it makes an image smaller, and only whole pixels can be cut off: each pixel
        # is repeated until both hold, which changes no mean over an area.
        step = 1 + spare % 2
        repeats = step * -(-target // (step * side))
        start = spare % 2 * repeats // 2
        cut = slice(start, start + side * repeats)
        pixels = pixels.repeat(repeats, axis) if repeats > 1 else pixels
        pixels = pixels[:, cut] if axis else pixels[cut]
    return np.asarray(cv2.resize(pixels.astype(np.float32), targets[::-1], interpolation=cv2.INTER_AREA), np.float32)


def resize_mask(selected: NDArray[np.uint8], size: int | tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask of 0 and 255 resized as by `resize_area`, True where a pixel is covered by half or more."""
    # Also where the sum of its parts is rounded.
    return resize_area(selected, size) >= 127.5 - 1e-3


def dilate(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Return `(H, W)` bool with its True region widened by `pixels` on every side, corners included."""
    import cv2

    # Rows, then columns: a square of 2001 x 2001 would take minutes, and more than the longest side widens no further.
    side = 2 * min(pixels, max(mask.shape)) + 1
    values: NDArray[Any] = mask.view(np.uint8)
    for shape in ((side, 1), (1, side)):
        values = cv2.dilate(values, np.ones(shape, np.uint8))
    return values.view(bool)


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion of 16-bit grey clips at 255 instead of scaling.
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return the image without transparency as RGB, itself if it is; converted by bands, to need little memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    rgb = Image.new("RGB", image.size)
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        band = _to_8_bit(image.crop((0, top, image.width, min(top + rows, image.height))))
        if band.has_transparency_data:
            band = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
        rgb.paste(band.convert("RGB"), (0, top))
    return rgb
