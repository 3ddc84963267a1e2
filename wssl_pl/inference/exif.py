"""EXIF blocks as bytes: the orientation, and how pixels are turned by it; the thumbnail, which has to go."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX = b"Exif\0\0"
ORIENTATION, THUMBNAIL_AT, THUMBNAIL_LENGTH = 0x0112, 0x0201, 0x0202


def orientation(block: bytes | None) -> int:
    """The orientation, 1 to 8, that an EXIF block tells; 1, upright, where it tells none."""
    try:
        order, entries, _ = _directory(_body(block), None)
        for at in entries:
            tag, kind, count = struct.unpack_from(order + "HHI", _body(block), at)
            if tag == ORIENTATION and kind == 3 and count == 1:
                value = struct.unpack_from(order + "H", _body(block), at + 8)[0]
                return value if 1 <= value <= 8 else 1
    except (struct.error, ValueError):
        pass  # a damaged block tells nothing
    return 1


def upright(stored: NDArray[Any], turn: int) -> NDArray[Any]:
    """`(H, W, ...)` pixels as they are stored, turned as a viewer shows them."""
    result: NDArray[Any] = _TURNS[turn](stored)
    return result


def as_stored(shown: NDArray[Any], turn: int) -> NDArray[Any]:
    """The opposite of :func:`upright`."""
    result: NDArray[Any] = _TURNS[{6: 8, 8: 6}.get(turn, turn)](shown)
    return result


_TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def without_thumbnail(block: bytes) -> bytes:
    """An EXIF block in which the small copy of the picture, which still shows what was removed, is blotted out."""
    body = bytearray(_body(block))
    try:
        order, _, link = _directory(body, None)
        (second,) = struct.unpack_from(order + "I", body, link)
        if second:
            values = {}
            for at in _directory(body, second)[1]:
                tag, _, _, value = struct.unpack_from(order + "HHII", body, at)
                values[tag] = value
            start, length = values.get(THUMBNAIL_AT, 0), values.get(THUMBNAIL_LENGTH, 0)
            if start:
                stop = min(len(body), start + length)
                body[start:stop] = bytes(max(0, stop - start))
            struct.pack_into(order + "I", body, link, 0)
    except (struct.error, ValueError):
        pass  # a block that cannot be read shows no thumbnail either
    return PREFIX + bytes(body)


def _body(block: bytes | None) -> bytes:
    return (block or b"").removeprefix(PREFIX)


def _directory(body: bytes | bytearray, at: int | None) -> tuple[str, range, int]:
    """Byte order, positions of the entries and of the link to the next directory; the first one if `at` is None."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(body[:2]))
    if order is None:
        raise ValueError("no TIFF header")
    if at is None:
        (at,) = struct.unpack_from(order + "I", body, 4)
    (count,) = struct.unpack_from(order + "H", body, at)
    first = at + 2
    return order, range(first, first + 12 * count, 12), first + 12 * count
