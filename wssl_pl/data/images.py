"""Where images come from: files that are decoded, or an array that holds them decoded.

A source has a length and ``read(indices)``, which makes a whole batch at once; a prepared cache is another such source.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wssl_pl.data.decode import read_image
from wssl_pl.errors import DataError

Failure = tuple[int, str]


class ImageSource(Protocol):
    """A numbered set of images of one size."""

    in_memory: bool
    """Whether a read costs no more than a copy, so that worker processes would only slow it down."""

    def __len__(self) -> int: ...

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[Failure]]:
        """Images as ``(B, size, size, 3)`` uint8 RGB, and what failed as (position in ``indices``, message).

        A failed image has no row: ``B`` is ``len(indices)`` less the number of failures.
        """


class ArrayImages:
    """Images that are decoded already, in memory or memory-mapped.

    Args:
        array: ``(N, size, size, 3)`` uint8 RGB.
    """

    in_memory = True

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[Failure]]:
        """One gather; see :class:`ImageSource`."""
        return self.array[indices], []


class FileImages:
    """Images decoded from files at every read.

    Args:
        paths: The files, in the order of their indices.
        size: Height and width in pixels to which they are resized.
    """

    in_memory = False

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        # One array of strings instead of a list of objects: workers do not copy its pages by counting references.
        self.paths = np.array([str(path) for path in paths])
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[Failure]]:
        """Decode each file; see :class:`ImageSource`."""
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        failures: list[Failure] = []
        good = 0
        for position, path in enumerate(self.paths[indices]):
            try:
                images[good] = read_image(Path(path), self.size)
                good += 1
            except DataError as error:
                failures.append((position, str(error)))
        return images[:good], failures
