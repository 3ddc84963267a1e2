"""Chunks of PNG files as bytes: what a file says about its image beside the pixels.

Pillow drops newer colour chunks, so they are kept as the bytes that they are.
"""

import os
import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

from wssl_pl.data.exif import PREFIX

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour space, resolution and EXIF; texts, times and the like are dropped.
KEPT_CHUNKS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI", b"pHYs", b"eXIf")

Chunk = tuple[bytes, bytes]


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
    """Return a chunk as it is in a PNG file."""
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
