"""The chunks of a PNG file that pixels alone do not carry: how its colours and its orientation are meant."""

import struct
import zlib
from collections.abc import Iterable, Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour space, resolution and EXIF; text, times and the like are left behind.
KEPT = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI", b"pHYs", b"eXIf")

Chunk = tuple[bytes, bytes]


def chunks(content: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG file as (name, data), each checked.

    Raises:
        ValueError: the file is cut short or damaged.
    """
    if not content.startswith(SIGNATURE):
        raise ValueError("not a PNG file")
    position = len(SIGNATURE)
    while True:
        if position + 12 > len(content):
            raise ValueError("it ends before its end marker")
        length, name = struct.unpack_from(">I4s", content, position)
        data = content[position + 8 : position + 8 + length]
        position += 12 + length
        if position > len(content):
            raise ValueError("it ends within a chunk")
        if struct.unpack_from(">I", content, position - 4)[0] != zlib.crc32(name + data):
            raise ValueError(f"its chunk {name!r} is damaged")
        yield name, data
        if name == b"IEND":
            return


def kept_chunks(content: bytes) -> tuple[int, list[Chunk]]:
    """Bits per channel of a PNG file, and those of its chunks that an edited copy keeps.

    Raises:
        ValueError: the file is cut short or damaged.
    """
    found = list(chunks(content))
    if not found or found[0][0] != b"IHDR" or len(found[0][1]) != 13:
        raise ValueError("it has no header")
    return found[0][1][8], [(name, data) for name, data in found if name in KEPT]


def with_chunks(content: bytes, extra: Iterable[Chunk]) -> bytes:
    """A PNG file with more chunks behind its header, where all of `KEPT` may stand."""
    start = len(SIGNATURE) + 25
    parts = [content[:start]]
    for name, data in extra:
        parts += [struct.pack(">I4s", len(data), name), data, struct.pack(">I", zlib.crc32(name + data))]
    return b"".join([*parts, content[start:]])


def profile_chunk(profile: bytes) -> Chunk:
    """An ICC profile as a chunk."""
    return b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)
