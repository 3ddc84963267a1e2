"""Find image files and tell, without decoding them, which are damaged."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from wssl_pl.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Cameras and editors append padding or a few bytes of their own after the end marker.
_TAIL = 4096


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``2.png`` comes before ``10.png``."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def find_images(root: Path, parameter: str) -> Iterator[Path]:
    """Yield the JPEG, PNG and WebP files below ``root``, in no order that can be relied on.

    Links to folders are followed, each real folder once, so that a loop ends. Hidden files and folders are left out.

    Args:
        root: A folder.
        parameter: The parameter that named it, for messages.

    Raises:
        DataError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{parameter}={root}: cannot read {error.filename}: {error.strerror}")

    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # Sorted, so that of two links to one folder the same is taken on every machine.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder, name)


def list_images(root: Path, parameter: str) -> list[Path]:
    """What :func:`find_images` finds, naturally sorted by the path relative to ``root``."""
    paths = find_images(root, parameter)
    return sorted(paths, key=lambda path: natural_key(path.relative_to(root).as_posix()))


def damage(path: Path) -> str | None:
    """Why a file cannot be whole, or None if its size, magic bytes, header and end marker are in order.

    A few hundred bytes are read; damage inside the compressed data shows only when it is decoded.
    """
    try:
        with path.open("rb") as file:
            return _damage(file, path.stat().st_size)
    except OSError as error:
        return reason(error)


def damage_in(content: bytes) -> str | None:
    """The same of a file's content that is in memory already."""
    return _damage(BytesIO(content), len(content))


def _damage(file: BinaryIO, size: int) -> str | None:
    if size == 0:
        return "is empty (0 bytes)"
    try:
        head = file.read(32)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        if head.startswith(b"\xff\xd8\xff"):
            whole = b"\xff\xd9" in tail
        elif head.startswith(b"\x89PNG\r\n\x1a\n"):
            whole = b"IEND\xaeB`\x82" in tail
        elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            whole = int.from_bytes(head[4:8], "little") + 8 <= size
        else:
            return "is not a JPEG, PNG or WebP file"
        if not whole:
            return f"is truncated (ends after {size} bytes without its end marker)"
        file.seek(0)
        with Image.open(file):  # parses the header alone; raises on a decompression bomb
            return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return reason(error)


def reason(error: Exception) -> str:
    """An exception as the end of a line that begins with the file's name."""
    # Pillow names what it was given, which for bytes in memory is an address.
    text = re.sub(r" ?<_io\.\w+[^>]*>", "", " ".join(str(error).split())) or type(error).__name__
    return f"cannot be read: {text}"


def find_damaged(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """The damaged files among ``paths`` as (file, reason), in order."""
    with ThreadPoolExecutor() as pool:
        reasons: Iterable[str | None] = pool.map(damage, paths)
        return [(str(path), why) for path, why in zip(paths, reasons, strict=True) if why]
