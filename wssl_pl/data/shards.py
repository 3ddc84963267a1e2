"""Shards: images in chunks of some hundred, in a folder or a bucket, which training reads chunk by chunk.

A folder with

- `manifest.json`: version, settings, sizes, and the SHA-256 of the other files. It is replaced last, so that shards are
  complete or absent;
- `train/`, `val/`, `test/`: one data set each in the format of `litdata`, `index.json` and `chunk-*.bin`, whose names
  hold a digest of their content. An item is the bytes of one image;
- `index-<digest>.parquet`: one `Entry` per file that was given, for `wssl prepare` alone.

The training images are stored in a random order, so that a few chunks are a fair sample; the others are in that of
their names. Nothing here is deserialised by `litdata`, which would unpickle where an `index.json` says so.
"""

import hashlib
import io
import json
import os
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wssl_pl.data.cache import MANIFEST, Entry, digest, file_in, first_names, read_index
from wssl_pl.data.decode import RESIZE_FILTERS, decode_image
from wssl_pl.data.files import reason as cannot_read
from wssl_pl.data.images import Failure, decode_all
from wssl_pl.data.splits import SPLITS
from wssl_pl.errors import DataError
from wssl_pl.files import sha256

FORMAT = "wssl shards"
VERSION = 1
WORK = ".prepare-shards"
"""Folder inside of shards for the lock and for the files of an unfinished preparation."""
ENCODINGS = ("raw", "png", "jpeg", "file")
"""How an image is stored: pixels of one size, the same as PNG or JPEG, or the file as it was."""
INDEX = "index.json"
CHUNK_NAME = re.compile(r"chunk-[0-9]{6,9}-[0-9a-f]{16}\.bin")
MANIFEST_BYTES, INDEX_BYTES = 2**20, 2**28
"""The largest manifest and `index.json` that are read."""
OPEN_CHUNKS = 64
"""Chunk files that a process holds open."""


class ChunkError(DataError):
    """A chunk that is missing or damaged: with `on_error=skip` its images are omitted."""


class Chunk(NamedTuple):
    """A chunk of a split.

    Attributes:
        name: Path below the shards' root, `train/chunk-000000-<digest>.bin`.
        images: Number of images.
        bytes: Size of the file.
    """

    name: str
    images: int
    bytes: int

    @property
    def digest(self) -> str:
        """The start of the SHA-256 of the file."""
        return self.name[-20:-4]


class Store(Protocol):
    """Where the files of shards are."""

    root: str
    """The folder or the URL."""
    remote: bool
    """Whether chunks are fetched before they are read."""

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is a pipe, or a folder, or the like.
            DataError: It cannot be read, or has more than `limit` bytes.
        """

    def path(self, chunk: Chunk) -> Path:
        """Return the local file of a chunk, when it is there.

        Raises:
            ChunkError: There is none, or it is damaged.
            DataError: It cannot be fetched.
        """

    def fetch(self, chunks: list[Chunk]) -> None:
        """Start to fetch chunks, in this order, if they are not there."""

    def check_room(self, chunks: list[Chunk]) -> None:
        """Raise `WSSLError` if there is no room for as many of these chunks as are needed at a time."""


class Folder:
    """Shards on a disk."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.root = str(folder)

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file; see `Store`."""
        folder, _, base = f"{self.root}/{name}".rpartition("/")
        path = file_in(Path(folder), base)
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataError("images", path, cannot_read(error)) from None
        if len(content) > limit:
            raise DataError("images", path, f"is damaged (more than {limit} bytes)")
        return content

    def path(self, chunk: Chunk) -> Path:
        """Return the file of a chunk; see `Store`."""
        return Path(self.root, chunk.name)

    def fetch(self, chunks: list[Chunk]) -> None:
        """Do nothing: all chunks are there."""

    def check_room(self, chunks: list[Chunk]) -> None:
        """Do nothing."""


def looks_like_shards(folder: Path) -> bool:
    """Return whether a folder holds shards, or unfinished ones."""
    try:
        return (folder / WORK).is_dir() or json.loads(file_in(folder, MANIFEST).read_bytes())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


class Shards:
    """Finished shards, opened after a check of the manifest; each split is checked when it is opened.

    Args:
        store: Where they are.
        parameter: The parameter that named it, for messages.

    Attributes:
        size: Side of an image in pixels; None if the files are stored as they were.
        resize_filter: How the images were resized, or None.
        encoding: One of `ENCODINGS`.
        chunk_size: Images per chunk, at the most.
        layout: What the folder of images was recognised as.
        split_rule: How the images were divided.
        omitted: Number of files that could not be decoded.
        duplicates: Number of images that are in two splits, by the names of both.

    Raises:
        DataError: They are unfinished, damaged, of another version, or may not be read.
    """

    def __init__(self, store: Store, parameter: str = "images") -> None:
        self.store, self.parameter = store, parameter
        try:
            manifest = json.loads(store.read(MANIFEST, MANIFEST_BYTES))
            if manifest["format"] != FORMAT:
                raise ValueError(f"its format is {str(manifest['format'])[:40]!r}")
            if manifest["version"] != VERSION:
                reason = f"has version {manifest['version']} of the format, this program reads {VERSION}"
                raise self.error(reason, "run `wssl prepare format=shards` again with a new folder")
            if manifest["sha256"] != digest(manifest):
                raise ValueError(f"{MANIFEST} has changed")
            self.encoding, self.chunk_size = str(manifest["encoding"]), int(manifest["chunk_size"])
            self.size: int | None = None
            self.resize_filter: str | None = None
            if self.encoding not in ENCODINGS:
                raise ValueError(f"its encoding is {self.encoding[:40]!r}")
            if self.encoding != "file":
                self.size, self.resize_filter = int(manifest["size"]), str(manifest["resize_filter"])
                if not 0 < self.size <= 10_000 or self.resize_filter not in RESIZE_FILTERS:
                    raise ValueError("its size or its filter is none")
            self.layout, self.split_rule = str(manifest["layout"]), str(manifest["split_rule"])
            self.omitted = int(manifest["skipped"])
            self.duplicates = {str(pair): int(count) for pair, count in manifest["duplicates"].items()}
            self._splits = {
                split: (int(manifest["splits"][split]["images"]), str(manifest["splits"][split]["sha256"]))
                for split in SPLITS
                if split in manifest["splits"]
            }
            if not self._splits or any(count < 1 for count, _ in self._splits.values()):
                raise ValueError("it has no images")
            self._index = {name: str(manifest["index"][name]) for name in ("file", "sha256")}
            if "/" in self._index["file"]:
                raise ValueError("its index is in another folder")
        except DataError:
            raise
        except FileNotFoundError:
            raise self.error("has no manifest.json", "run the same `wssl prepare` again: it resumes") from None
        except Exception as error:
            # What a stranger writes into JSON makes a reader raise anything.
            raise self.error(f"is damaged ({' '.join(str(error).split())})") from None

    def error(self, reason: str, remedy: str = "delete them and run `wssl prepare` again") -> DataError:
        """Return an error about these shards."""
        return DataError(self.parameter, self.store.root, reason, remedy)

    def sizes(self) -> dict[str, int]:
        """Return the number of images per split, without empty splits."""
        return {split: count for split, (count, _) in self._splits.items()}

    def chunks(self, split: str) -> list[Chunk]:
        """Return the chunks of a split, in the order of the images.

        Raises:
            DataError: `index.json` is not that of the manifest, or says what these shards never hold.
        """
        images, expected = self._splits[split]
        try:
            content = self.store.read(f"{split}/{INDEX}", INDEX_BYTES)
            if hashlib.sha256(content).hexdigest() != expected:
                raise ValueError("it is not that of the manifest")
            index = json.loads(content)
            config = index["config"]
            if config["data_format"] != ["bytes"] or config["item_loader"] != "PyTreeLoader":
                raise ValueError(f"its items are {str(config['data_format'])[:60]}, not bytes")
            if config["compression"] or config["encryption"]:
                raise ValueError("it is compressed or encrypted")
            chunks = [Chunk(each["filename"], each["chunk_size"], each["chunk_bytes"]) for each in index["chunks"]]
            for chunk in chunks:
                if not CHUNK_NAME.fullmatch(chunk.name):
                    raise ValueError(f"{chunk.name[:60]!r} is no name of a chunk")
                if type(chunk.images) is not int or type(chunk.bytes) is not int or chunk.images < 1:
                    raise ValueError(f"{chunk.name} has no size")
                if not 8 + 8 * chunk.images <= chunk.bytes < 2**32:
                    raise ValueError(f"{chunk.name} has {chunk.bytes} bytes")
            if sum(chunk.images for chunk in chunks) != images:
                raise ValueError(f"it does not have {images} images")
        except DataError:
            raise
        except FileNotFoundError:
            raise self.error(f"is damaged ({split}/{INDEX} is missing)") from None
        except Exception as error:
            raise self.error(f"is damaged ({split}/{INDEX}: {' '.join(str(error).split())})") from None
        return [chunk._replace(name=f"{split}/{chunk.name}") for chunk in chunks]

    @cached_property
    def index(self) -> list[Entry]:
        """One entry per file that was given, in the order in which images are stored.

        Raises:
            DataError: The file is damaged.
        """
        try:
            content = self.store.read(self._index["file"], INDEX_BYTES)
            if hashlib.sha256(content).hexdigest() != self._index["sha256"]:
                raise ValueError("has changed")
            return read_index(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.error(f"is damaged (its index of files: {error})") from None

    @property
    def entries(self) -> list[Entry]:
        """Those of images."""
        return [entry for entry in self.index if entry.reason is None]

    @property
    def skipped(self) -> list[Entry]:
        """Those of files that could not be decoded."""
        return [entry for entry in self.index if entry.reason is not None]


class ShardImages:
    """The images of a split.

    Args:
        shards: The shards.
        split: `train`, `val` or `test`.
        size: Height and width in pixels.
        resize_filter: How images are resized that are stored as files.
        rows: Places of the images in the split, in the order of their indices `(N,)`; default: all.
    """

    def __init__(
        self, shards: Shards, split: str, size: int, resize_filter: str, rows: NDArray[np.int64] | None = None
    ) -> None:
        self.shards, self.split, self.size, self.resize_filter = shards, split, size, resize_filter
        self.in_memory = shards.encoding == "raw"
        self.table = shards.chunks(split)
        self.ends = np.cumsum([chunk.images for chunk in self.table])
        self.rows = np.arange(self.ends[-1]) if rows is None else rows
        self.chunks = np.searchsorted(self.ends, self.rows, side="right")
        """The chunk of each image `(N,)`."""
        self._files: OrderedDict[int, tuple[int, NDArray[np.int64]]] = OrderedDict()
        self._failed: dict[int, ChunkError] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.int64]) -> "ShardImages":
        """Return some of the images; see `ImageSource`."""
        return ShardImages(self.shards, self.split, self.size, self.resize_filter, self.rows[rows])

    def fetch(self, chunks: NDArray[np.int64]) -> None:
        """Start to fetch chunks that will be read soon, in this order."""
        self.shards.store.fetch([self.table[chunk] for chunk in chunks.tolist()])

    def missing(self) -> list[tuple[str, str]]:
        """Return the chunks of a folder that are not there in their size, as (file, reason)."""
        found: list[tuple[str, str]] = []
        for chunk in [] if self.shards.store.remote else self.table:
            path = self.shards.store.path(chunk)
            try:
                if (size := path.stat().st_size) != chunk.bytes:
                    found.append((str(path), f"has {size} bytes instead of {chunk.bytes}"))
            except OSError as error:
                found.append((str(path), "is missing" if isinstance(error, FileNotFoundError) else cannot_read(error)))
        return found

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[Failure]]:
        """Copy or decode each image; see `ImageSource`.

        Raises:
            DataError: A chunk cannot be fetched, for another reason than that it is missing or damaged.
        """
        wanted = list(dict.fromkeys(self.chunks[indices].tolist()))
        absent = [chunk for chunk in wanted if chunk not in self._files]
        if len(absent) > 1:
            self.fetch(np.array(absent))
        for chunk in wanted:
            self._open(chunk)
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)

        def decode(position: int) -> None:
            chunk, row = int(self.chunks[indices[position]]), int(self.rows[indices[position]])
            if chunk in self._failed:
                raise self._failed[chunk]
            file, offsets = self._files[chunk]
            place = row - int(self.ends[chunk]) + self.table[chunk].images
            # The four bytes before an item are its length once more.
            start, end = int(offsets[place]) + 4, int(offsets[place + 1])
            if self.shards.encoding == "raw":
                complete = os.preadv(file, [memoryview(images[position]).cast("B")], start) == images[position].nbytes
            else:
                content = os.pread(file, end - start, start)
                complete = len(content) == end - start
            try:
                if not complete:
                    raise DataError("images", None, "is cut")
                if self.shards.encoding != "raw":
                    images[position] = decode_image(io.BytesIO(content), self.size, self.resize_filter)[0]
            except DataError as error:
                name = f"{self.shards.store.root}/{self.table[chunk].name}#{place}"
                raise DataError("images", name, error.reason) from None

        found = decode_all(decode, len(indices), threads=1 if self.in_memory else None)
        while len(self._files) > OPEN_CHUNKS:
            os.close(self._files.popitem(last=False)[1][0])
        failed = [position for position, _ in found]
        return np.delete(images, failed, axis=0) if failed else images, found

    def _open(self, number: int) -> None:
        """Open the file of a chunk, or note why it cannot be."""
        if number in self._files:
            self._files.move_to_end(number)
        elif number not in self._failed:
            chunk = self.table[number]
            try:
                path = self.shards.store.path(chunk)
                file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in its place would wait for its writer
                try:
                    offsets = self._offsets(file, chunk)
                    if hasattr(os, "posix_fadvise"):  # all of it will be read, in small parts
                        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
                except BaseException:
                    os.close(file)
                    raise
                self._files[number] = file, offsets
            except ChunkError as error:
                self._failed[number] = error
            except OSError as error:
                name = f"{self.shards.store.root}/{chunk.name}"
                missing = isinstance(error, FileNotFoundError)
                self._failed[number] = ChunkError("images", name, "is missing" if missing else cannot_read(error))

    def _offsets(self, file: int, chunk: Chunk) -> NDArray[np.int64]:
        """Return where items start and end, `(images + 1,)`: after the number of items, both as uint32."""
        head = os.pread(file, 4 * (chunk.images + 2), 0)
        if os.fstat(file).st_size == chunk.bytes and len(head) == 4 * (chunk.images + 2):
            count, *places = np.frombuffer(head, "<u4").astype(np.int64)
            offsets = np.array(places)
            raw = self.size * self.size * 3 + 4
            lengths = np.diff(offsets)
            fits = (lengths == raw).all() if self.shards.encoding == "raw" else (lengths >= 4).all()
            if count == chunk.images and offsets[0] == len(head) and offsets[-1] == chunk.bytes and fits:
                return offsets
        raise ChunkError("images", f"{self.shards.store.root}/{chunk.name}", "is damaged")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict(), "_failed": {}}

    def __del__(self) -> None:
        for file, _ in getattr(self, "_files", {}).values():
            os.close(file)


def check_shards(folder: Path, progress: bool = False) -> Shards:
    """Open shards in a folder and compare the digest of every chunk.

    Args:
        folder: The folder.
        progress: Show a progress bar if there is a terminal.

    Raises:
        DataError: Something in it has changed; the message names the first chunks.
    """
    shards = Shards(Folder(folder), "out")
    chunks = [chunk for split in shards.sizes() for chunk in shards.chunks(split)]

    def intact(chunk: Chunk) -> bool:
        try:
            return sha256(shards.store.path(chunk)).startswith(chunk.digest)
        except OSError:
            return False

    with ThreadPoolExecutor() as pool:
        shown = tqdm(pool.map(intact, chunks), total=len(chunks), unit=" chunks", disable=None if progress else True)
        damaged = [chunk.name for chunk, good in zip(chunks, shown, strict=True) if not good]
    if damaged:
        raise shards.error(f"is damaged ({len(damaged)} of {len(chunks)} chunks have changed: {first_names(damaged)})")
    return shards
