"""The prepared cache: decoded images in one memory-mapped array, with an index and a manifest.

A folder with

- ``manifest.json``: version, size, counts, and the names and SHA-256 of the other files; what it does not name does not
  count, and it is replaced last, so that a cache is whole or is none;
- ``images-<digest>.npy``: uint8 ``(rows, size, size, 3)`` RGB;
- ``index-<digest>.csv``: for each image its row, split, source and the source's size, time, dimensions and SHA-256,
  and the SHA-256 of its pixels;
- ``skipped.csv``: files that could not be decoded, with the reason. Their rows stay zero, nothing replaces them.

Rows are in the order of the splits, and within one in that of the source's names, whoever prepared them and when.
"""

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.data.splits import SPLITS
from wssl_pl.errors import DataError

FORMAT = "wssl image cache"
VERSION = 1
MANIFEST = "manifest.json"
SKIPPED = "skipped.csv"
WORK = ".prepare"
"""Folder inside a cache where an unfinished preparation keeps its state."""
HEADER_BYTES = 128
"""Length of the array file's header."""


@dataclass(frozen=True)
class Entry:
    """One image of the index."""

    row: int
    split: str
    source: str
    bytes: int
    mtime_ns: int
    width: int
    height: int
    sha256: str
    pixels_sha256: str


@dataclass(frozen=True)
class Skipped:
    """A source that could not be decoded."""

    source: str
    split: str
    bytes: int
    mtime_ns: int
    reason: str


def write_csv(entries: Sequence[Entry] | Sequence[Skipped], kind: type) -> bytes:
    """A table of entries, with any name that a file system allows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    writer.writerows(astuple(entry) for entry in entries)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_csv(content: bytes, kind: type) -> list[Any]:
    """The entries that :func:`write_csv` wrote.

    Raises:
        ValueError: It is no such table.
    """
    rows = csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline=""))
    if next(rows, None) != [field.name for field in fields(kind)]:
        raise ValueError("another header")
    casts: list[Any] = [field.type for field in fields(kind)]
    return [kind(*(cast(value) for cast, value in zip(casts, row, strict=True))) for row in rows]


def header(rows: int, size: int) -> bytes:
    """The header of an ``.npy`` file of ``(rows, size, size, 3)`` uint8."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {size}, {size}, 3), }}"
    start = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return start + text.encode().ljust(HEADER_BYTES - len(start) - 1) + b"\n"


def sync_write(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, to the disk, and give it its own."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def looks_like_cache(folder: Path) -> bool:
    """Whether a folder is a cache, or was to become one."""
    return (folder / WORK).is_dir() or any(folder.glob("images-*.npy")) or _is_manifest(folder / MANIFEST)


def _is_manifest(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        same: bool = json.loads(path.read_bytes()).get("format") == FORMAT
        return same
    except (ValueError, AttributeError):
        return False


class Cache:
    """A finished cache, opened after checks that take milliseconds.

    Its manifest and index are checked byte by byte and the array by its length and header; only :meth:`damaged_rows`
    re-reads the pixels.

    Args:
        folder: The folder.
        parameter: The parameter that named it, for messages.

    Raises:
        DataError: It is unfinished, of another version, cut short or damaged; the message says what to do.
    """

    def __init__(self, folder: Path, parameter: str = "out") -> None:
        self.folder = folder
        self.parameter = parameter
        path = folder / MANIFEST
        if not path.is_file():
            raise self.error("is not finished", "run the same `wssl prepare` again, it goes on where it stopped")
        try:
            self.manifest = json.loads(path.read_bytes())
            version = self.manifest["version"]
        except (ValueError, KeyError, TypeError):
            raise self.error(f"is damaged ({MANIFEST} cannot be read)") from None
        if version != VERSION:
            raise self.error(f"has version {version} of the format, this program reads {VERSION}")
        try:
            self.size, self.rows = int(self.manifest["size"]), int(self.manifest["rows"])
            self.array_path = folder / self.manifest["images"]["file"]
            index = (folder / self.manifest["index"]["file"]).read_bytes()
            if hashlib.sha256(index).hexdigest() != self.manifest["index"]["sha256"]:
                raise self.error(f"is damaged ({self.manifest['index']['file']} is not what it was)")
            self.entries: list[Entry] = read_csv(index, Entry)
            if self.manifest["sha256"] != digest(self.manifest):
                raise self.error(f"is damaged ({MANIFEST} is not what it was)")
            with self.array_path.open("rb") as file:
                whole = file.read(HEADER_BYTES) == header(self.rows, self.size)
        except (ValueError, KeyError, TypeError, OSError) as error:
            if isinstance(error, DataError):
                raise
            raise self.error(f"is damaged ({' '.join(str(error).split())})") from None
        expected = HEADER_BYTES + self.rows * self.row_bytes
        length = self.array_path.stat().st_size
        if length != expected:
            raise self.error(f"is cut short ({self.array_path.name} has {length} of {expected} bytes)")
        if not whole:
            raise self.error(f"is damaged (the header of {self.array_path.name} is not what it was)")

    def error(self, what: str, remedy: str = "delete the folder and run `wssl prepare` again") -> DataError:
        """A one-line error about this cache."""
        return DataError(f"{self.parameter}={self.folder} {what}: {remedy}")

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return self.size * self.size * 3

    @property
    def resize_filter(self) -> str:
        """How its images were resized; Lanczos before that was a choice."""
        name: str = self.manifest.get("resize_filter", "lanczos")
        return name

    def sizes(self) -> dict[str, int]:
        """Images per split."""
        return dict(self.manifest["splits"])

    def split_rows(self, split: str) -> NDArray[np.int64]:
        """The rows of a split's images, in their order."""
        return np.array([entry.row for entry in self.entries if entry.split == split], np.int64)

    def skipped(self) -> list[Skipped]:
        """The files that could not be decoded when the cache was made."""
        content = (self.folder / SKIPPED).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest["skipped"]["sha256"]:
            raise self.error(f"is damaged ({SKIPPED} is not what it was)")
        return read_csv(content, Skipped)


def duplicates(entries: Sequence[Entry]) -> dict[str, int]:
    """Count the images whose pixels are in two splits, by the names of both, ``"train and val"``."""
    splits: dict[str, set[str]] = {}
    for entry in entries:
        splits.setdefault(entry.pixels_sha256, set()).add(entry.split)
    pairs = (pair for found in splits.values() for pair in combinations(sorted(found, key=SPLITS.index), 2))
    return dict(Counter(f"{first} and {second}" for first, second in pairs))


def describe_duplicates(counts: dict[str, int]) -> str:
    """Return what :func:`duplicates` found as part of a line."""
    return "the same images are in two splits (" + ", ".join(f"{pair}: {count}" for pair, count in counts.items()) + ")"


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own entry."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class CachedImages:
    """The images of a split of a cache; see :class:`~wssl_pl.data.images.ImageSource`.

    Args:
        path: The array file.
        rows: Rows of the images, in the order of their indices.
    """

    in_memory = True

    def __init__(self, path: Path, rows: NDArray[np.int64]) -> None:
        self.path = path
        self.rows = rows
        self._array: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        # A process that gets a copy maps the file itself; pickling the map would send every pixel.
        return {"path": self.path, "rows": self.rows, "_array": None}

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[tuple[int, str]]]:
        """One gather from the map; nothing can fail."""
        if self._array is None:
            self._array = np.asarray(np.load(self.path, mmap_mode="r"))
        return self._array[self.rows[indices]], []
