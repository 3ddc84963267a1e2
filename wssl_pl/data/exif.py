"""EXIF blocks of image files: the orientation, by EXIF alone as viewers read it, and the thumbnail.

Pillow re-orders blocks when it writes them, and takes the orientation from XMP too: both are done here, on the bytes.
"""

import struct
from collections.abc import Collection
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
THUMBNAIL = (
    (0x0201, 0x0202),
    (0x0111, 0x0117),
)  # tags of where it is and how long: as JPEG, and uncompressed in strips
MOST_NUMBERS = 4096  # of an entry
XMP = ("xmp", "XML:com.adobe.xmp")  # where Pillow keeps it
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Sliceable = bytes | bytearray | mmap


def upright(stored: NDArray[Any], turn: int) -> NDArray[Any]:
    """Return stored `(H, W, ...)` pixels turned as a viewer shows them, by an EXIF orientation from 1 to 8."""
    result: NDArray[Any] = TURNS[turn](stored)
    return result


def as_stored(shown: NDArray[Any], turn: int) -> NDArray[Any]:
    """Return the inverse of `upright`."""
    return upright(shown, {6: 8, 8: 6}.get(turn, turn))


def ignore_xmp(image: Image.Image) -> None:
    """Drop the XMP of an image that is not decoded yet: Pillow's decoder of TIFF would turn it by its orientation."""
    for key in XMP:
        image.info.pop(key, None)


def upright_image(image: Image.Image) -> Image.Image:
    """Decode an opened image and return it as a viewer shows it, by EXIF alone.

    An image that has to be turned is closed, as a large one twice would not fit.
    """
    ignore_xmp(image)
    image.load()  # by which a TIFF is turned, and what follows the pixels of a PNG is read
    method = TRANSPOSITIONS.get(orientation(image.info.get("exif")))
    if method is None:
        return image
    turned = image.transpose(method)
    image.close()
    return turned


def orientation(block: bytes | None) -> int:
    """Return the orientation, 1 to 8, of an EXIF block; 1, upright, where it says none or is damaged."""
    body = (block or b"").removeprefix(PREFIX)
    at, order = _orientation_at(body)
    value = 1 if at is None else int(struct.unpack_from(order + "H", body, at)[0])
    return value if 1 <= value <= 8 else 1


def as_upright(block: bytes) -> bytes:
    """Return an EXIF block whose orientation, if it says one, is 1: that of pixels that are stored upright."""
    body = bytearray(block.removeprefix(PREFIX))
    at, order = _orientation_at(body)
    if at is not None:
        struct.pack_into(order + "H", body, at, 1)
    return PREFIX + bytes(body)


def _orientation_at(body: Sliceable) -> tuple[int | None, str]:
    """Return where the value of the orientation is, or None, and the byte order."""
    order = ""
    try:
        order, entries, _ = _directory(body)
        for at in entries:
            if struct.unpack_from(order + "HHI", body, at) == (ORIENTATION, 3, 1):
                struct.unpack_from(order + "H", body, at + 8)  # is in the block
                return at + 8, order
    except (struct.error, ValueError):
        pass  # a damaged block says nothing
    return None, order


def without_thumbnail(block: bytes) -> bytes:
    """Return an EXIF block without the bytes of its thumbnail, which still shows what was removed from the image."""
    body = bytearray(block.removeprefix(PREFIX))
    try:
        order, _, link = _directory(body)
        (second,) = struct.unpack_from(order + "I", body, link)
        if second:
            values = whole_numbers(body, [tag for pair in THUMBNAIL for tag in pair], second)
            for starts, lengths in THUMBNAIL:
                # A damaged block may have more of one: what has no other end is not erased.
                for start, length in zip(values.get(starts, ()), values.get(lengths, ()), strict=False):
                    stop = min(len(body), start + length) if start else 0
                    body[start:stop] = bytes(max(0, stop - start))
            struct.pack_into(order + "I", body, link, 0)
    except (struct.error, ValueError):
        pass  # a block that cannot be read shows no thumbnail either
    return PREFIX + bytes(body)


def _numbers(body: Sliceable, order: str, at: int) -> tuple[int, ...]:
    """Return the whole numbers of an entry: in it, or where it says if they take more than four bytes."""
    _, kind, count, place = struct.unpack_from(order + "HHII", body, at)
    letter, size = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("", 0))
    place = at + 8 if count * size <= 4 else place
    if not size or count > MOST_NUMBERS or place + count * size > len(body):
        return ()  # damaged, or made up to take much memory
    return struct.unpack_from(f"{order}{count}{letter}", body, place)


def whole_numbers(body: Sliceable, tags: Collection[int], at: int | None = None) -> dict[int, tuple[int, ...]]:
    """Return the whole numbers of tags in a directory of a TIFF file, whose form EXIF blocks have too.

    Args:
        body: the file.
        tags: which ones.
        at: where the directory is; default: that of the first one.

    Raises:
        ValueError: it is none, or it is damaged.
    """
    try:
        order, entries, _ = _directory(body, at)
        places = ((struct.unpack_from(order + "H", body, place)[0], place) for place in entries)
        return {tag: _numbers(body, order, place) for tag, place in places if tag in tags}
    except struct.error as error:
        raise ValueError("its directory is cut short") from error


def _directory(body: Sliceable, at: int | None = None) -> tuple[str, range, int]:
    """Return byte order, positions of the entries and of the link to the next directory; by default of the first."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(body[:2]))
    if order is None:
        raise ValueError("no TIFF header")
    start = struct.unpack_from(order + "I", body, 4)[0] if at is None else at
    (count,) = struct.unpack_from(order + "H", body, start)
    return order, range(start + 2, start + 2 + 12 * count, 12), start + 2 + 12 * count
