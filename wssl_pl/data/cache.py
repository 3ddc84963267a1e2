"""The prepared cache: decoded images in one memory-mapped array, with an index and a manifest.

A folder with

- `manifest.json`: version, size, counts, and the names and SHA-256 of the other files. Files that it does not name do
  not count, and it is replaced last, so that a cache is complete or absent;
- `images-<digest>.npy`: uint8 `(rows, size, size, 3)`, RGB;
- `index-<digest>.parquet`: one `Entry` per row, also for files that could not be decoded. Their rows stay zero.

Rows are in the order of the splits, and within a split in that of the source names.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wssl_pl.data.splits import SPLITS
from wssl_pl.errors import DataError

FORMAT = "wssl image cache"
VERSION = 2
MANIFEST = "manifest.json"
WORK = ".prepare"
"""Folder inside a cache for the lock and for the files of an unfinished preparation."""


@dataclass(frozen=True)
class Entry:
    """One row of the index.

    Attributes:
        row: Row in the array.
        source: Path of the file below the images' folder, or `<file>.parquet#<row>`.
        split: `train`, `val` or `test`.
        bytes: Size of the file.
        mtime_ns: Time of the file.
        width: Width of the stored image in pixels.
        height: Height of the stored image in pixels.
        sha256: Digest of the encoded image.
        pixels_sha256: Digest of the row.
        reason: Why it could not be decoded; the four fields before are then None.
    """

    row: int
    source: str
    split: str
    bytes: int
    mtime_ns: int
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    pixels_sha256: str | None = None
    reason: str | None = None


def write_index(entries: Sequence[Entry]) -> bytes:
    """Return entries as a Parquet file; names of files are bytes, because not all of them are text."""
    # Imported where it is used, because the processes of a preparation need none of it.
    import pyarrow as pa
    from pyarrow import parquet

    text, number = pa.string(), pa.int64()
    types = [number, pa.binary(), text, number, number, number, number, text, text, text]
    columns: list[Any] = list(zip(*map(astuple, entries), strict=True))
    columns[1] = [name.encode("utf-8", "surrogateescape") for name in columns[1]]
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns, pa.schema(list(zip(Entry.__annotations__, types, strict=True)))), sink)
    return bytes(sink.getvalue())


def read_index(content: bytes) -> list[Entry]:
    """Return the entries that `write_index` wrote.

    Raises:
        ValueError: It is no such file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        columns = parquet.read_table(pa.BufferReader(content), use_threads=False).to_pydict()
        columns["source"] = [name.decode("utf-8", "surrogateescape") for name in columns["source"]]
        return [Entry(*row) for row in zip(*(columns[name] for name in Entry.__annotations__), strict=True)]
    except (OSError, pa.ArrowException, KeyError, AttributeError) as error:
        raise ValueError(f"is no index: {error}") from error


def looks_like_cache(folder: Path) -> bool:
    """Return whether a folder is a cache, or an unfinished one."""
    if (folder / WORK).is_dir() or any(folder.glob("images-*.npy")):
        return True
    try:
        return bool(json.loads((folder / MANIFEST).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Cache:
    """A finished cache, opened after checks that take milliseconds.

    The manifest and the index are checked byte by byte, the array by its length and header. Only `check_cache` reads
    the pixels.

    Args:
        folder: The folder.
        parameter: The parameter that named it, for messages.

    Raises:
        DataError: It is unfinished, of another version, cut short or damaged.
    """

    def __init__(self, folder: Path, parameter: str = "out") -> None:
        self.folder = folder
        self.parameter = parameter
        try:
            self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
            version = self.manifest["version"]
        except FileNotFoundError:
            raise self.error("is not finished", "run the same `wssl prepare` again: it resumes") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise self.error(f"is damaged ({MANIFEST} cannot be read)") from None
        if version != VERSION:
            raise self.error(
                f"has version {version} of the format, this program reads {VERSION}",
                "run `wssl prepare` again with a new folder",
            )
        try:
            if self.manifest["sha256"] != digest(self.manifest):
                raise ValueError(f"{MANIFEST} has changed")
            index = folder / self.manifest["index"]["file"]
            content = index.read_bytes()
            if hashlib.sha256(content).hexdigest() != self.manifest["index"]["sha256"]:
                raise ValueError(f"{index.name} has changed")
            rows = read_index(content)
            self.size: int = self.manifest["size"]
            self.array_path = folder / self.manifest["images"]["file"]
            array = np.lib.format.open_memmap(self.array_path, mode="r")
            if array.dtype != np.uint8 or array.shape != (len(rows), self.size, self.size, 3):
                raise ValueError(f"the header of {self.array_path.name} has changed")
            if self.array_path.stat().st_size != array.offset + array.nbytes:
                raise ValueError(f"the length of {self.array_path.name} has changed")
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise self.error(f"is damaged ({' '.join(str(error).split())})") from None
        self.offset: int = array.offset
        """Bytes before the first row in the array file."""
        self.row_bytes = self.size * self.size * 3
        self.index = rows
        self.entries = [entry for entry in rows if entry.reason is None]
        self.skipped = [entry for entry in rows if entry.reason is not None]

    def error(self, reason: str, remedy: str = "delete the folder and run `wssl prepare` again") -> DataError:
        """Return an error about this cache."""
        return DataError(self.parameter, self.folder, reason, remedy)

    @property
    def layout(self) -> str:
        """What the folder of images was recognised as."""
        return str(self.manifest["layout"])

    @property
    def split_rule(self) -> str:
        """How the images were divided."""
        return str(self.manifest["split_rule"])

    @property
    def resize_filter(self) -> str:
        """How the images were resized."""
        return str(self.manifest["resize_filter"])

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split."""
        return dict(self.manifest["splits"])

    def split_rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of a split's images, in their order."""
        return np.array([entry.row for entry in self.entries if entry.split == split], np.int64)


def duplicates(entries: Sequence[Entry]) -> dict[str, int]:
    """Count the images whose pixels are in two splits, by the names of both, `"train and val"`."""
    splits: dict[str | None, set[str]] = {}
    for entry in entries:
        splits.setdefault(entry.pixels_sha256, set()).add(entry.split)
    pairs = (pair for found in splits.values() for pair in combinations(sorted(found, key=SPLITS.index), 2))
    return dict(Counter(f"{first} and {second}" for first, second in pairs))


def describe_duplicates(counts: dict[str, int]) -> str:
    """Return what `duplicates` found as part of a line."""
    return "the same images are in two splits (" + ", ".join(f"{pair}: {count}" for pair, count in counts.items()) + ")"


def digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own entry."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_cache(folder: Path, progress: bool = False) -> Cache:
    """Open a cache and compare the digest of every row.

    Args:
        folder: The folder.
        progress: Show a progress bar if there is a terminal.

    Raises:
        DataError: Something in it has changed; the message names the first images.
    """
    cache = Cache(folder)
    blank = hashlib.sha256(bytes(cache.row_bytes)).hexdigest()
    file = os.open(cache.array_path, os.O_RDONLY)

    def row_digest(row: int) -> str:
        # Reading and hashing release the interpreter lock, so that threads use all cores.
        try:
            content = os.pread(file, cache.row_bytes, cache.offset + row * cache.row_bytes)
        except OSError as error:  # a bad sector
            return str(error)
        return hashlib.sha256(content).hexdigest()

    try:
        with ThreadPoolExecutor() as pool:
            digests = pool.map(row_digest, range(len(cache.index)))
            shown = tqdm(digests, total=len(cache.index), unit=" images", disable=None if progress else True)
            pairs = zip(cache.index, shown, strict=True)
            damaged = [entry.source for entry, found in pairs if found != (entry.pixels_sha256 or blank)]
    finally:
        os.close(file)
    if damaged:
        names = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
        raise cache.error(f"is damaged ({len(damaged)} of {len(cache.index)} rows have changed: {names})")
    return cache


class CachedImages:
    """The images of a split of a cache; an `ImageSource`.

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

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[Any]]:
        """Gather rows from the map; nothing can fail."""
        if self._array is None:
            self._array = np.asarray(np.load(self.path, mmap_mode="r"))
        return self._array[self.rows[indices]], []
