"""Find image files, and find damaged ones without decoding them."""

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from wssl_pl.errors import DataError
from wssl_pl.files import check_readable

log = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""What is decoded, whatever a file's name is: Pillow runs a program for some others, Ghostscript for EPS."""
MEGAPIXELS = 100.0
"""The largest image that is decoded, in millions of pixels: a small file can hold more than the memory does."""
# Cameras and editors append padding or a few bytes of their own after the end marker.
_TAIL = 4096


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key by which `2.png` comes before `10.png`."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def check_folder(parameter: str, folder: Path, remedy: str | None = None) -> None:
    """Raise `WSSLError` if something is no folder, or cannot be looked into."""
    check_readable(folder, parameter, remedy)
    if not folder.is_dir():
        raise DataError(parameter, folder, "is not a folder", remedy)


def closed(parameter: str, root: Path, error: OSError) -> DataError:
    """Return an error about a folder below `root` that cannot be read."""
    return DataError(parameter, root, f"cannot read {error.filename}: {error.strerror}")


def find_images(
    root: Path, parameter: str = "images", *, deep: bool = True, suffixes: Collection[str] = SUFFIXES
) -> Iterator[Path]:
    """Yield the JPEG, PNG and WebP files below `root` in no certain order, without hidden files and folders.

    Links to folders are followed, each real folder once, so that a loop ends. Pipes, sockets and devices are omitted
    with a warning: reading them may never end.

    Args:
        root: A folder.
        parameter: The parameter that named it, for messages.
        deep: Whether the folders below it count.
        suffixes: Of the files.

    Raises:
        DataError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise closed(parameter, root, error)

    seen: set[str] = set()
    special: list[str] = []
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        # Sorted, so that of two links to one folder the same is taken on every machine.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                path = Path(folder, name)
                try:
                    ordinary = path.is_file() or not path.exists()
                except OSError:
                    ordinary = True
                # Reading a dangling link, or what must not be read, ends with the reason.
                if ordinary:
                    yield path
                else:
                    special.append(str(path))
        if not deep:
            break
    if special:
        some = ", ".join(special[:3]) + (", ..." if len(special) > 3 else "")
        log.warning("%s=%s: %d pipes, sockets or devices are omitted: %s", parameter, root, len(special), some)


def list_images(root: Path, parameter: str = "images", suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """Return what `find_images` finds, naturally sorted by the path relative to `root`."""
    return sorted(
        find_images(root, parameter, suffixes=suffixes), key=lambda path: natural_key(path.relative_to(root).as_posix())
    )


def find_tables(root: Path) -> Iterator[Path]:
    """Yield the Parquet files below `root`, without hidden ones and the indices of caches."""
    for path in root.rglob("*.parquet"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        # That of a cache is beside its array, that of shards beside their manifest.
        index = re.fullmatch(r"index-[0-9a-f]{16}\.parquet", path.name) and (path.parent / "manifest.json").is_file()
        if not hidden and not index and path.is_file() and next(path.parent.glob("images-*.npy"), None) is None:
            yield path


def damage(path: Path) -> str | None:
    """Return why a file cannot be complete, or None if its size, magic bytes, header and end marker are correct.

    A few hundred bytes are read; damage inside the compressed data is found only when it is decoded. A JPEG file
    without an end marker near its end is read whole: phones append a film to a photo.
    """
    try:
        with path.open("rb") as file:
            return _damage(file, path.stat().st_size)
    except OSError as error:
        return reason(error)


def damage_in(content: bytes) -> str | None:
    """Return the same for the content of a file."""
    return _damage(BytesIO(content), len(content))


def _damage(file: BinaryIO, size: int) -> str | None:
    if size == 0:
        return "is empty (0 bytes)"
    try:
        head = file.read(32)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        if head.startswith(b"\xff\xd8\xff"):
            whole = b"\xff\xd9" in tail or _has_film(file)
        elif head.startswith(b"\x89PNG\r\n\x1a\n"):
            whole = b"IEND\xaeB`\x82" in tail
        elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            whole = int.from_bytes(head[4:8], "little") + 8 <= size
        else:
            return "is not a JPEG, PNG or WebP file"
        if not whole:
            return f"is truncated (ends after {size} bytes without its end marker)"
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:  # parses the header alone; raises on a decompression bomb
            return too_large(image.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return reason(error)


def _has_film(file: BinaryIO) -> bool:
    """Return whether an MP4 file begins right behind the end marker of a photo."""
    file.seek(0)
    content = file.read()
    begins = (found.start() for found in re.finditer(rb"ftyp", content))
    return any(b"\xff\xd9" in content[max(0, start - _TAIL) : start] for start in begins)


def too_large(size: tuple[int, int], limit: float = MEGAPIXELS) -> str | None:
    """Return why an image of (width, height) pixels is above a limit in millions of pixels, or None."""
    width, height = size
    if width * height <= limit * 1e6:
        return None
    return f"has {width} x {height} pixels, {width * height / 1e6:.0f} million: above the limit of {limit:g}"


def reason(error: Exception) -> str:
    """Return an exception as the reason why a file cannot be used."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    # Pillow names what it was given, which for bytes in memory is an address.
    text = re.sub(r" ?<_io\.\w+[^>]*>", "", " ".join(str(error).split())) or type(error).__name__
    return f"cannot be read: {text}"


def find_damaged(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Return the damaged files among `paths` as (file, reason), in order."""
    with ThreadPoolExecutor() as pool:
        reasons: Iterable[str | None] = pool.map(damage, paths)
        return [(str(path), why) for path, why in zip(paths, reasons, strict=True) if why]
