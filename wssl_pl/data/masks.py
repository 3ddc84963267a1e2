"""Hole masks: read, filtered by their hole ratio and kept in memory as bits.

Polarity is settled here, where files are read; everywhere else 1 is a hole.
"""

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wssl_pl.data.decode import dilate as widen
from wssl_pl.data.decode import read_mask
from wssl_pl.data.files import find_damaged, reason
from wssl_pl.data.mask_index import MaskIndex, Measured
from wssl_pl.data.splits import FOLDERS, hashed_fraction
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
        non_binary: How many files held more than two brightnesses, and were binarised at half.
    """

    masks: Masks
    ratios: NDArray[np.float64]
    kept: int
    kept_otherwise: int
    damaged: list[tuple[str, str]]
    non_binary: int = 0

    def histogram(self) -> str:
        """Counts of masks by hole ratio in steps of 10 %, in one line."""
        counts, _ = np.histogram(self.ratios, bins=np.arange(11) / 10)
        return ", ".join(f"{10 * i}-{10 * i + 10} %: {count}" for i, count in enumerate(counts) if count)


def scan_masks(
    paths: Sequence[Path],
    size: int,
    hole: str,
    bounds: Sequence[float],
    dilate: int = 0,
    index: MaskIndex | None = None,
) -> MaskScan:
    """Read mask files, measure their hole ratios at the model's size and keep those within the bounds (inclusive).

    Args:
        paths: Mask files.
        size: Height and width in pixels to which they are resized by area; a pixel is a hole where at least half is.
        hole: ``black`` or ``white``: which brightness is the hole.
        bounds: Smallest and largest hole ratio, in [0, 1].
        dilate: Pixels by which holes are widened before they are measured.
        index: What was measured before, with the same size, hole and dilate; new measurements are added to it.
    """
    known = {path: index.get(path) if index else None for path in paths}
    damaged = find_damaged([path for path, entry in known.items() if entry is None])
    bad = {file for file, _ in damaged}

    def measure(path: Path) -> Measured | str:
        try:
            stat = path.stat()
            holes, binary = read_mask(path, size, bright=hole == "white")
        except OSError as error:
            return reason(error)
        except DataError as error:
            return str(error).removeprefix(f"{path} ")
        holes = widen(holes, dilate)
        packed = zlib.compress(np.packbits(holes).tobytes(), level=1)
        return Measured(stat.st_size, stat.st_mtime_ns, float(holes.mean()), binary, packed)

    whole = [path for path in paths if str(path) not in bad]
    ratios: list[float] = []
    kept: list[NDArray[np.uint8]] = []
    non_binary = 0
    low, high = bounds
    with ThreadPoolExecutor() as pool:
        measured = pool.map(lambda path: known[path] or measure(path), whole)
        for path, result in zip(whole, measured, strict=True):
            if isinstance(result, str):
                damaged.append((str(path), result))
                continue
            if index is not None and result is not known[path]:
                index.add(path, result)
            ratios.append(result.ratio)
            non_binary += not result.binary
            if low <= result.ratio <= high:
                kept.append(result.bits())
    otherwise = sum(low <= 1 - ratio <= high for ratio in ratios)
    bits = np.stack(kept) if kept else np.empty((0, -(-size * size // 8)), np.uint8)
    return MaskScan(Masks(bits, size), np.array(ratios), len(kept), otherwise, damaged, non_binary)


def split_masks(root: Path, paths: Sequence[Path]) -> tuple[dict[str, list[Path]], str]:
    """Return the masks for training and for evaluation, and the name of the layout found.

    ``train/`` and ``test/`` folders (QD-IMD) if both are there; ``val/`` stands in for ``test/``. If all masks lie in
    ``test/`` or ``val/``, they are for evaluation alone. Else a fixed part by a hash of the file names, 90 % for
    training and 10 % for evaluation. Validation and test share the evaluation masks, each with a pairing of its own.
    """
    groups: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    for path in paths:
        top = FOLDERS.get(path.relative_to(root).parts[0].lower())
        if top is not None:
            groups[top].append(path)
    name = "test" if groups["test"] else "val"
    train, evaluation = groups["train"], groups[name]
    if train and evaluation:
        return {"train": train, "test": evaluation}, "folders"
    if evaluation and len(evaluation) == len(paths):
        return {"train": [], "test": evaluation}, f"{name} folder alone"
    parts: dict[str, list[Path]] = {"train": [], "test": []}
    for path in paths:
        parts["test" if hashed_fraction(path) >= 1 - TEST_FRACTION else "train"].append(path)
    return parts, "hash"
