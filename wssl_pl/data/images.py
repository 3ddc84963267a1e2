"""Image sources: files that are decoded, or an array of decoded images."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from wssl_pl.data.decode import read_image
from wssl_pl.errors import DataError

Failure = tuple[int, DataError]


class ImageSource(Protocol):
    """A numbered set of images of one size."""

    in_memory: bool
    """Whether a read costs no more than a copy, so that worker processes are of no use."""

    def __len__(self) -> int: ...

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[Failure]]:
        """Return images as `(B, size, size, 3)` uint8 RGB, and failures as (position in `indices`, error).

        A failed image has no row: `B` is `len(indices)` less the number of failures.
        """

    def take(self, rows: NDArray[np.int64]) -> "ImageSource":
        """Return some of the images, in the order of `rows` `(N,)`."""


class ArrayImages:
    """Decoded images in memory, or in the array file of a cache.

    Args:
        array: `(N, size, size, 3)` uint8 RGB, or the path of such a `.npy` file, which is mapped into memory.
        rows: Rows of the images, in the order of their indices; default: all.
    """

    in_memory = True

    def __init__(self, array: NDArray[np.uint8] | Path, rows: NDArray[np.int64] | None = None) -> None:
        self.array = array
        self.rows = np.arange(len(self._pixels)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[Failure]]:
        """Gather rows; see `ImageSource`."""
        return self._pixels[self.rows[indices]], []

    def take(self, rows: NDArray[np.int64]) -> "ArrayImages":
        """Return some of the images; see `ImageSource`."""
        return ArrayImages(self.array, self.rows[rows])

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        return self.array if isinstance(self.array, np.ndarray) else np.asarray(np.load(self.array, mmap_mode="r"))

    def __getstate__(self) -> dict[str, Any]:
        # A process that gets a copy maps the file itself; pickling the map would send every pixel.
        return {"array": self.array, "rows": self.rows}


class FileImages:
    """Images decoded from files at every read.

    Args:
        paths: The files, in the order of their indices.
        size: Height and width in pixels to which they are resized.
        resize_filter: One of `RESIZE_FILTERS`.
    """

    in_memory = False

    def __init__(self, paths: Sequence[Path], size: int, resize_filter: str = "lanczos") -> None:
        # One array of strings instead of a list of objects: workers do not copy its pages by counting references.
        self.paths = np.array([str(path) for path in paths])
        self.size = size
        self.resize_filter = resize_filter

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[np.int64]) -> "FileImages":
        """Return some of the images; see `ImageSource`."""
        return FileImages([Path(path) for path in self.paths[rows]], self.size, self.resize_filter)

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[Failure]]:
        """Decode each file, by as many threads as PyTorch computes with; see `ImageSource`."""
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)

        def decode(position: int) -> None:
            images[position] = read_image(Path(self.paths[indices[position]]), self.size, self.resize_filter)

        failures = decode_all(decode, len(indices))
        failed = [position for position, _ in failures]
        return np.delete(images, failed, axis=0) if failed else images, failures


def decode_all(decode: Callable[[int], None], count: int, threads: int | None = None) -> list[Failure]:
    """Call `decode` with 0 to `count - 1`, by as many threads as PyTorch computes with, and return the failures."""
    # Pillow decodes and resizes without the interpreter's lock. A worker process of the loader has one core.
    if threads is None:
        threads = 1 if get_worker_info() is not None else torch.get_num_threads()
    failures: dict[int, DataError] = {}

    def decode_part(positions: NDArray[np.int64]) -> None:
        for position in positions.tolist():
            try:
                decode(position)
            except DataError as error:
                failures[position] = error

    parts = np.array_split(np.arange(count), min(threads, count) or 1)
    if len(parts) == 1:
        decode_part(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(decode_part, parts))
    return sorted(failures.items())
