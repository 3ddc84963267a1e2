"""EXIF blocks and PNG chunks as bytes: what a file says about its image beside the pixels.

Pillow drops newer colour chunks of PNG, re-orders EXIF blocks and takes the orientation from XMP too, so both are kept
as the bytes that they are.
"""

import os
import struct
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

PREFIX = b"Exif\0\0"
ORIENTATION, THUMBNAIL_OFFSET, THUMBNAIL_LENGTH = 0x0112, 0x0201, 0x0202
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour space, resolution and EXIF; texts, times and the like are dropped.
KEPT_CHUNKS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI", b"pHYs", b"eXIf")
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

Chunk = tuple[bytes, bytes]


def upright(stored: NDArray[Any], turn: int) -> NDArray[Any]:
    """Return stored `(H, W, ...)` pixels turned as a viewer shows them, by an EXIF orientation from 1 to 8."""
    result: NDArray[Any] = TURNS[turn](stored)
    return result


def as_stored(shown: NDArray[Any], turn: int) -> NDArray[Any]:
    """Return the inverse of `upright`."""
    return upright(shown, {6: 8, 8: 6}.get(turn, turn))


def orientation(block: bytes | None) -> int:
    """Return the orientation, 1 to 8, of an EXIF block; 1, upright, where it says none or is damaged."""
    body = (block or b"").removeprefix(PREFIX)
    try:
        order, entries, _ = _directory(body)
        for at in entries:
            tag, kind, count, value = struct.unpack_from(order + "HHIH", body, at)
            if (tag, kind, count) == (ORIENTATION, 3, 1):
                return int(value) if 1 <= value <= 8 else 1
    except (struct.error, ValueError):
        pass
    return 1


def without_thumbnail(block: bytes) -> bytes:
    """Return an EXIF block without the bytes of its thumbnail, which still shows what was removed from the image."""
    body = bytearray(block.removeprefix(PREFIX))
    try:
        order, _, link = _directory(body)
        (second,) = struct.unpack_from(order + "I", body, link)
        if second:
            entries = (struct.unpack_from(order + "HHII", body, at) for at in _directory(body, second)[1])
            values = {tag: value for tag, _, _, value in entries}
            start = values.get(THUMBNAIL_OFFSET, 0)
            if start:
                stop = min(len(body), start + values.get(THUMBNAIL_LENGTH, 0))
                body[start:stop] = bytes(max(0, stop - start))
            struct.pack_into(order + "I", body, link, 0)
    except (struct.error, ValueError):
        pass  # a block that cannot be read shows no thumbnail either
    return PREFIX + bytes(body)


def _directory(body: bytes | bytearray, at: int | None = None) -> tuple[str, range, int]:
    """Return byte order, positions of the entries and of the link to the next directory; by default of the first."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(body[:2]))
    if order is None:
        raise ValueError("no TIFF header")
    start = struct.unpack_from(order + "I", body, 4)[0] if at is None else at
    (count,) = struct.unpack_from(order + "H", body, start)
    return order, range(start + 2, start + 2 + 12 * count, 12), start + 2 + 12 * count


def read_chunks(content: bytes) -> list[Chunk]:
    """Return the chunks of a PNG file as (name, data), each checked; without the data of the pixels.

    Raises:
        ValueError: the file is cut short or damaged.
    """
    chunks: list[Chunk] = []
    position = len(PNG_SIGNATURE)
    view = memoryview(
        content
    )  # files have thousands of chunks of pixels, whose copies would keep memory in each thread
    while not chunks or chunks[-1][0] != b"IEND":
        if position + 12 > len(content):
            raise ValueError("it ends before its end marker")
        length, name = struct.unpack_from(">I4s", content, position)
        data = view[position + 8 : position + 8 + length]
        position += 12 + length
        if position > len(content):
            raise ValueError("it ends within a chunk")
        if struct.unpack_from(">I", content, position - 4)[0] != zlib.crc32(data, zlib.crc32(name)):
            raise ValueError(f"its chunk {name!r} is damaged")
        chunks.append((name, b"" if name == b"IDAT" else bytes(data)))
    return chunks


def late_exif(file: BinaryIO) -> bytes | None:
    """Return the EXIF block of a PNG file, also one after the pixels, which Pillow reads only with them."""
    before, found = file.tell(), None
    file.seek(len(PNG_SIGNATURE))
    while found is None and len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"eXIf":
            found = PREFIX + file.read(length)
        else:
            file.seek(length + 4, os.SEEK_CUR)
    file.seek(before)
    return found


def colour_chunks(profile: bytes | None, dpi: tuple[float, float] | None) -> list[Chunk]:
    """Return the chunks of a PNG file that hold an ICC profile and a resolution."""
    chunks = [] if profile is None else [(b"iCCP", b"icc\0\0" + zlib.compress(profile))]
    if dpi is not None:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(each / 0.0254) for each in dpi), 1)))  # per metre
    return chunks


def with_chunks(content: bytes, extra: Iterable[Chunk]) -> bytes:
    """Return a PNG file with more chunks after its header, where all of `KEPT_CHUNKS` are allowed."""
    start = len(PNG_SIGNATURE) + 25
    return b"".join([content[:start], *(chunk_bytes(*chunk) for chunk in extra), content[start:]])


def chunk_bytes(name: bytes, data: bytes) -> bytes:
    """Return a chunk as it stands in a PNG file."""
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
