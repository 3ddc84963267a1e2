"""The prepared cache: decoded images in one memory-mapped array, with an index and a manifest.

A folder with

- `manifest.json`: version, size, counts, and the names and SHA-256 of the other files. Files that it does not name do
  not count, and it is replaced last, so that a cache is complete or absent;
- `images-<digest>.npy`: uint8 `(rows, size, size, 3)`, RGB;
- `index-<digest>.parquet`: one `Entry` per row, also for files that could not be decoded. Their rows stay zero.

Rows are in the order of the splits, and within a split in that of the source names.
"""

import errno
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

from wssl_pl.data.files import reason as cannot_read
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
    import pyarrow as pa
    from pyarrow import parquet

    schema, arrays, sink = _schema(), [], pa.BufferOutputStream()
    for field, values in zip(schema, zip(*map(astuple, entries), strict=True), strict=True):
        # From buffers, because `pa.array` imports pandas where it is installed, in 0.3 s.
        buffers: list[Any] = [np.packbits([value is not None for value in values], bitorder="little")]
        if field.type == pa.int64():
            buffers += [np.array([value or 0 for value in values], np.int64)]
        else:
            texts = [(value or "").encode("utf-8", "surrogateescape") for value in values]
            buffers += [np.cumsum([0, *map(len, texts)], dtype=np.int32), b"".join(texts)]
        arrays.append(pa.Array.from_buffers(field.type, len(values), [pa.py_buffer(buffer) for buffer in buffers]))
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), sink)
    return bytes(sink.getvalue())


def _schema() -> Any:
    # pyarrow is imported where it is used, because the processes of a preparation need none of it.
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    types = [number, pa.binary(), text, number, number, number, number, text, text, text]
    return pa.schema(list(zip(Entry.__annotations__, types, strict=True)))


def read_index(content: bytes) -> list[Entry]:
    """Return the entries that `write_index` wrote.

    Raises:
        ValueError: It is no such file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # Not `read_table`, which imports another 0.2 s of pyarrow.
        table = parquet.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        if not table.schema.equals(_schema()):
            raise ValueError("other columns")
        columns = table.to_pydict()
        columns["source"] = [name.decode("utf-8", "surrogateescape") for name in columns["source"]]
        return [Entry(*row) for row in zip(*columns.values(), strict=True)]
    except Exception as error:
        # A flipped bit can make a reader raise anything.
        raise ValueError(f"is no index: {error}") from error


def looks_like_cache(folder: Path) -> bool:
    """Return whether a folder is a cache, or an unfinished one."""
    try:
        if (folder / WORK).is_dir() or any(folder.glob("images-*.npy")):
            return True
        return bool(json.loads(file_in(folder, MANIFEST).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


class Cache:
    """A finished cache, opened after checks that take milliseconds.

    The manifest and the index are checked byte by byte, the array by its length and header. Only `check_cache` reads
    the pixels.

    Args:
        folder: The folder.
        parameter: The parameter that named it, for messages.

    Attributes:
        index: All rows.
        entries: Those of images.
        skipped: Those of files that could not be decoded.
        size: Side of an image in pixels.
        layout: What the folder of images was recognised as.
        split_rule: How the images were divided.
        resize_filter: How the images were resized.

    Raises:
        DataError: It is unfinished, of another version, cut short, damaged, or may not be read.
    """

    def __init__(self, folder: Path, parameter: str = "out") -> None:
        self.folder = folder
        self.parameter = parameter
        try:
            manifest: dict[str, Any] = json.loads(file_in(folder, MANIFEST).read_bytes())
            if (version := manifest["version"]) != VERSION:
                reason = f"has version {version} of the format, this program reads {VERSION}"
                raise self.error(reason, "run `wssl prepare` again with a new folder")
            if manifest["sha256"] != digest(manifest):
                raise ValueError(f"{MANIFEST} has changed")
            index = file_in(folder, manifest["index"]["file"])
            content = index.read_bytes()
            if hashlib.sha256(content).hexdigest() != manifest["index"]["sha256"]:
                raise ValueError(f"{index.name} has changed")
            self.index = read_index(content)
            if any(entry.row != row or entry.split not in SPLITS for row, entry in enumerate(self.index)):
                raise ValueError(f"{index.name} does not count its rows")
            self.array_path = file_in(folder, manifest["images"]["file"])
            array = np.lib.format.open_memmap(self.array_path, mode="r")
            self.size = int(manifest["size"])
            if array.dtype != np.uint8 or array.shape != (len(self.index), self.size, self.size, 3):
                raise ValueError(f"the header of {self.array_path.name} has changed")
            if self.array_path.stat().st_size != array.offset + array.nbytes:
                raise ValueError(f"the length of {self.array_path.name} has changed")
            self.layout, self.split_rule = str(manifest["layout"]), str(manifest["split_rule"])
            self.resize_filter = str(manifest["resize_filter"])
        except DataError:
            raise
        except FileNotFoundError as error:
            if error.filename == str(folder / MANIFEST):
                raise self.error("is not finished", "run the same `wssl prepare` again: it resumes") from None
            raise self.error(f"is damaged ({Path(error.filename).name} is missing)") from None
        except OSError as error:
            raise self.error(cannot_read(error), "make it readable") from None
        except Exception as error:
            # Parsers of damaged files raise anything.
            raise self.error(f"is damaged ({' '.join(str(error).split())})") from None
        self.offset: int = array.offset
        """Bytes before the first row in the array file."""
        self.row_bytes = self.size * self.size * 3
        self.entries = [entry for entry in self.index if entry.reason is None]
        self.skipped = [entry for entry in self.index if entry.reason is not None]

    def error(self, reason: str, remedy: str = "delete the folder and run `wssl prepare` again") -> DataError:
        """Return an error about this cache."""
        return DataError(self.parameter, self.folder, reason, remedy)

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split, without empty splits."""
        counts = Counter(entry.split for entry in self.entries)
        return {split: counts[split] for split in SPLITS if counts[split]}

    def split_rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of a split's images, in their order."""
        return np.array([entry.row for entry in self.entries if entry.split == split], np.int64)


def file_in(folder: Path, name: str) -> Path:
    """Return a file of a cache, which is a regular one in its folder.

    Raises:
        ValueError: `name` is a path, or names something else.
        FileNotFoundError: There is none.
    """
    path = folder / name
    if path.parent != folder or (path.exists() and not path.is_file()):
        raise ValueError(f"{name} is no file in it")
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return path


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


def first_names(names: Sequence[str]) -> str:
    """Return the first three names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


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
        reason = f"{len(damaged)} of {len(cache.index)} rows have changed: {first_names(damaged)}"
        raise cache.error(f"is damaged ({reason})")
    return cache
