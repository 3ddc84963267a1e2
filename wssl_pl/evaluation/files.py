"""Image files that belong to pairs by their names."""

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wssl_pl.data.exif import upright_image
from wssl_pl.data.files import FORMATS, SUFFIXES, find_images, natural_key, reason
from wssl_pl.errors import DataError, WSSLError


def match_files(source: str | Path, parameter: str) -> dict[str, Path]:
    """Return image files by name, in natural order: those of a folder, or those that match a pattern.

    Args:
        source: a folder, where a name is a file's without its suffix; or a pattern such as `DIR/*_mask.png`, where it
            is what the `*` stands for.
        parameter: the parameter that named it, for messages.

    Raises:
        DataError: There is no such folder, no file, or a name twice.
    """
    source = Path(source)
    folder, pattern = (source.parent, source.name) if "*" in source.name else (source, "*")
    if pattern.count("*") > 1:
        raise DataError(parameter, source, "has more than one *", "one * stands for the name of a pair")
    with reading(parameter, source):
        if not folder.is_dir():
            raise DataError(parameter, source, "is not a folder" if folder == source else f"{folder} is not a folder")
    before, after = pattern.split("*")
    found: dict[str, Path] = {}
    twice = []
    for path in sorted(find_images(folder, parameter, deep=False), key=lambda path: natural_key(path.name)):
        # A pattern without a suffix means any.
        whole = path.name if after.lower().endswith(tuple(SUFFIXES)) else path.stem
        if not whole.startswith(before) or not whole.endswith(after) or len(whole) <= len(before + after):
            continue
        name = one_form(whole[len(before) : len(whole) - len(after)])
        if name in found:
            twice.append(name)
        found[name] = path
    if twice:
        raise DataError(parameter, source, f"has these names twice: {join(twice)}")
    if not found:
        raise DataError(parameter, source, f"holds no file ({', '.join(sorted(SUFFIXES))})")
    return found


def one_form(name: str) -> str:
    """Return a name in one of the forms in which Unicode has it: archives made on macOS have another one.

    Raises:
        DataError: it is not UTF-8, so that it cannot be written into a table.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(None, None, f"the file name {name!r} is not UTF-8", "rename the file") from None
    return unicodedata.normalize("NFC", name)


def check_output(out: Path, *sources: Path) -> None:
    """Raise `WSSLError` if a folder to write to is one that is measured."""
    for source in sources:
        if out.resolve() == source.resolve():
            raise WSSLError("out", out, "is the folder of the pairs or of the predictions", "name another one")


@contextmanager
def reading(parameter: str, path: Path) -> Iterator[None]:
    """Make a `DataError` that names the file of whatever the system or a file's decoder raises in the block."""
    try:
        yield
    except WSSLError:
        raise
    except Exception as error:
        raise DataError(parameter, path, reason(error)) from error


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return an 8-bit image as RGB `(H, W, 3)`, turned as its EXIF orientation says.

    Raises:
        DataError: It cannot be read, or has more than 8 bits per channel.
    """
    with reading("images", path), Image.open(path, formats=FORMATS) as image:
        deep = is_deep(image, path)
        pixels = np.asarray(upright_image(image).convert("RGB"))
    if deep:
        raise DataError("images", path, "has more than 8 bits per channel", "save it as 8-bit RGB")
    return pixels


def is_deep(image: Image.Image, path: Path) -> bool:
    """Return whether a file has more than 8 bits per channel; Pillow reads 16-bit RGB as 8 bit, without a warning."""
    if image.format != "PNG":
        return image.mode.startswith(("I", "F"))
    with path.open("rb") as file:
        return file.read(25)[24] > 8  # the depth in the PNG header


def join(names: Sequence[str], most: int = 6) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
