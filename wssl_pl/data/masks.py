"""Hole masks: read, filtered by their hole ratio and kept in memory as bits.

Polarity is settled here, where files are read; everywhere else 1 is a hole.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wssl_pl.data.decode import read_coverage
from wssl_pl.data.files import find_damaged
from wssl_pl.data.splits import hashed_fraction
from wssl_pl.errors import DataError

TEST_FRACTION = 0.1


class Masks:
    """Masks of one size, one bit per pixel.

    Args:
        bits: ``(N, ceil(size * size / 8))`` uint8, each row a mask by ``numpy.packbits``.
        size: Height and width in pixels.
    """

    def __init__(self, bits: NDArray[np.uint8], size: int) -> None:
        self.bits = bits
        self.size = size

    @classmethod
    def from_arrays(cls, masks: NDArray[np.uint8]) -> "Masks":
        """Pack ``(N, size, size)`` uint8 masks, 1 = hole."""
        return cls(np.packbits(masks.reshape(len(masks), -1), axis=1), masks.shape[-1])

    def __len__(self) -> int:
        return len(self.bits)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Masks as ``(B, 1, size, size)`` uint8, 1 = hole."""
        flat = np.unpackbits(self.bits[indices], axis=1, count=self.size * self.size)
        return flat.reshape(-1, 1, self.size, self.size)

    def draw(self, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The masks chosen by ``(B,)`` uniform numbers in [0, 1), as :meth:`read` returns them."""
        return self.read((numbers * len(self)).astype(np.int64))


@dataclass
class MaskScan:
    """What was found in a list of mask files.

    Attributes:
        masks: The masks whose hole ratio is within the bounds.
        ratios: Hole ratios of all that could be read, ``(total,)``.
        kept: How many masks are within the bounds.
        kept_otherwise: How many would be if the other brightness were the hole.
        damaged: Files that could not be read as (file, reason).
    """

    masks: Masks
    ratios: NDArray[np.float64]
    kept: int
    kept_otherwise: int
    damaged: list[tuple[str, str]]

    def histogram(self) -> str:
        """Counts of masks by hole ratio in steps of 10 %, in one line."""
        counts, _ = np.histogram(self.ratios, bins=np.arange(11) / 10)
        return ", ".join(f"{10 * i}-{10 * i + 10} %: {count}" for i, count in enumerate(counts) if count)


def scan_masks(paths: Sequence[Path], size: int, hole: str, bounds: Sequence[float]) -> MaskScan:
    """Read mask files, measure their hole ratios at the model's size and keep those within the bounds (inclusive).

    Args:
        paths: Mask files.
        size: Height and width in pixels to which they are resized by area; a pixel is a hole where at least half is.
        hole: ``black`` or ``white``: which brightness is the hole.
        bounds: Smallest and largest hole ratio, in [0, 1].
    """
    damaged = find_damaged(paths)
    bad = {file for file, _ in damaged}

    def measure(path: Path) -> tuple[float, NDArray[np.uint8]] | str:
        try:
            holes = read_holes(path, size, hole)
        except DataError as error:
            return str(error).removeprefix(f"{path} ")
        return float(holes.mean()), np.packbits(holes)

    whole = [path for path in paths if str(path) not in bad]
    ratios: list[float] = []
    kept: list[NDArray[np.uint8]] = []
    low, high = bounds
    with ThreadPoolExecutor() as pool:
        for path, result in zip(whole, pool.map(measure, whole), strict=True):
            if isinstance(result, str):
                damaged.append((str(path), result))
                continue
            ratio, bits = result
            ratios.append(ratio)
            if low <= ratio <= high:
                kept.append(bits)
    measured = np.array(ratios)
    otherwise = int(((low <= 1 - measured) & (1 - measured <= high)).sum())
    bits = np.stack(kept) if kept else np.empty((0, -(-size * size // 8)), np.uint8)
    return MaskScan(Masks(bits, size), measured, len(kept), otherwise, damaged)


def read_holes(path: Path, size: int, hole: str) -> NDArray[np.bool_]:
    """A mask file as ``(size, size)`` bool, True = hole.

    Args:
        path: The file.
        size: Height and width in pixels.
        hole: ``black`` or ``white``: which brightness is the hole.
    """
    return read_coverage(path, size, bright=hole == "white")


def split_masks(root: Path, paths: Sequence[Path]) -> tuple[dict[str, list[Path]], str]:
    """Masks for training and for evaluation, and the name of the layout found.

    ``train/`` and ``test/`` folders (QD-IMD) if both are there; else a fixed part by a hash of the file names, 90 % for
    training and 10 % for evaluation. Validation and test share the evaluation masks, each with a pairing of its own.
    """
    groups: dict[str, list[Path]] = {"train": [], "test": []}
    for path in paths:
        top = path.relative_to(root).parts[0].lower()
        if top in groups:
            groups[top].append(path)
    if groups["train"] and groups["test"]:
        return groups, "folders"
    parts: dict[str, list[Path]] = {"train": [], "test": []}
    for path in paths:
        parts["test" if hashed_fraction(path.name) >= 1 - TEST_FRACTION else "train"].append(path)
    return parts, "hash"
