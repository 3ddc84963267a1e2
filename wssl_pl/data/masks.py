"""Hole masks: read, filtered by their hole ratio and kept in memory as bits.

Polarity is settled here, where files are read; everywhere else 1 is a hole.
"""

import hashlib
import logging
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.data.decode import dilate as widen
from wssl_pl.data.decode import read_mask
from wssl_pl.data.files import find_damaged, reason
from wssl_pl.data.splits import FOLDERS, hashed_fractions
from wssl_pl.errors import DataError
from wssl_pl.files import cache_folder, replacing

log = logging.getLogger(__name__)

VERSION = 3
"""Version of the index; it is part of its name."""
TEST_FRACTION = 0.1


class Masks:
    """Masks of one size, one bit per pixel.

    Args:
        bits: `(N, ceil(size * size / 8))` uint8, each row a mask by `numpy.packbits`.
        size: Height and width in pixels.
    """

    def __init__(self, bits: NDArray[np.uint8], size: int) -> None:
        self.bits = bits
        self.size = size

    @classmethod
    def from_arrays(cls, masks: NDArray[np.uint8]) -> "Masks":
        """Pack `(N, size, size)` uint8 masks, 1 = hole."""
        return cls(np.packbits(masks.reshape(len(masks), -1), axis=1), masks.shape[-1])

    def __len__(self) -> int:
        return len(self.bits)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return masks as `(B, 1, size, size)` uint8, 1 = hole."""
        flat = np.unpackbits(self.bits[indices], axis=1, count=self.size * self.size)
        return flat.reshape(-1, 1, self.size, self.size)

    def draw(self, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the masks chosen by `(B,)` uniform numbers in [0, 1), in the form of `read`."""
        return self.read((numbers * len(self)).astype(np.int64))


@dataclass(frozen=True)
class Measured:
    """A mask at the model's size.

    Attributes:
        length: Size of its file in bytes.
        mtime_ns: Time of its file.
        ratio: Fraction of the mask that is hole.
        binary: Whether the file held two brightnesses alone.
        packed: Its bits by `numpy.packbits`, compressed to a tenth of their size.
    """

    length: int
    mtime_ns: int
    ratio: float
    binary: bool
    packed: bytes


class MaskIndex:
    """Measurements of the masks of a folder with one (size, hole, dilate), so that masks are measured once.

    An entry is valid while its file keeps size and time. The index is a hidden Parquet file in the folder, or, if the
    folder cannot be written, in `$XDG_CACHE_HOME/wssl_pl` (`~/.cache/wssl_pl`).

    Args:
        root: The masks' folder.
        size: Height and width in pixels.
        hole: `black` or `white`.
        dilate: Pixels by which holes are widened.
    """

    def __init__(self, root: Path, size: int, hole: str, dilate: int) -> None:
        from pyarrow import parquet

        self.root = root
        name = f".wssl-masks-{size}-{hole}-{dilate}.v{VERSION}.parquet"
        key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        # A folder that nobody may write to is meant to stay as it is, even where the administrator could.
        writable = root.stat().st_mode & 0o222 and os.access(root, os.W_OK)
        self.places = [root / name] * bool(writable) + [cache_folder() / f"masks-{key}" / name.removeprefix(".")]
        self.changed = False
        self.entries: dict[str, Measured] = {}
        for path in self.places:
            if not path.is_file():
                continue
            try:
                table = parquet.ParquetFile(path, page_checksum_verification=True).read()
                if not table.schema.equals(_schema()):
                    raise ValueError("other columns")
                rows = table.to_pylist()
                self.entries = {row.pop("name").decode("utf-8", "surrogateescape"): Measured(**row) for row in rows}
                return
            except Exception as error:
                # A flipped bit can make a reader raise anything.
                why = reason(error) if isinstance(error, OSError) and error.strerror else f"is damaged ({error})"
                log.warning("%s %s: the masks are measured again", path, " ".join(why.split()))

    def get(self, path: Path) -> Measured | None:
        """Return what was measured of a file, unless it has changed since."""
        entry = self.entries.get(path.relative_to(self.root).as_posix())
        try:
            stat = path.stat()
        except OSError:
            return None
        return entry if entry and (stat.st_size, stat.st_mtime_ns) == (entry.length, entry.mtime_ns) else None

    def add(self, path: Path, entry: Measured) -> None:
        """Keep a measurement."""
        self.entries[path.relative_to(self.root).as_posix()] = entry
        self.changed = True

    def save(self, files: Iterable[Path]) -> None:
        """Write what has changed, without entries of files that are not in `files`."""
        import pyarrow as pa
        from pyarrow import parquet

        if not self.changed:
            return
        names = {path.relative_to(self.root).as_posix() for path in files}
        kept = [(name, entry) for name, entry in sorted(self.entries.items()) if name in names]
        rows = [{"name": name.encode("utf-8", "surrogateescape")} | vars(entry) for name, entry in kept]
        table = pa.Table.from_pylist(rows, _schema())
        for path in self.places:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as file:
                    parquet.write_table(table, file, compression="none", write_page_checksum=True)
            except OSError:
                continue
            self.changed = False
            return
        log.warning("%s: the hole ratios cannot be saved, they are measured at every start", self.root)


def _schema() -> Any:
    import pyarrow as pa

    types = [pa.binary(), pa.int64(), pa.int64(), pa.float64(), pa.bool_(), pa.binary()]
    return pa.schema(list(zip(("name", *Measured.__annotations__), types, strict=True)))


def histogram(ratios: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count hole ratios in steps of 10 %, from 0 to 100 %."""
    return np.histogram(ratios, bins=np.arange(11) / 10)[0]


@dataclass
class MaskScan:
    """What was found in a list of mask files.

    Attributes:
        masks: The masks whose hole ratio is within the bounds.
        ratios: Hole ratios of all that could be read, `(total,)`.
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
        """Return the histogram of hole ratios in one line."""
        counts = enumerate(histogram(self.ratios).tolist())
        return ", ".join(f"{10 * step}-{10 * step + 10} %: {count}" for step, count in counts if count)


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
        hole: `black` or `white`: which brightness is the hole.
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
            mask, binary = read_mask(path, size, bright=hole == "white")
        except OSError as error:
            return reason(error)
        except DataError as error:
            return error.reason
        mask = widen(mask, dilate)
        packed = zlib.compress(np.packbits(mask).tobytes(), level=1)
        return Measured(stat.st_size, stat.st_mtime_ns, float(mask.mean()), binary, packed)

    def read(path: Path) -> tuple[Measured, NDArray[np.uint8] | None] | str:
        """Return what is measured of a mask, and its bits if they are wanted."""
        entry = known[path] or measure(path)
        if isinstance(entry, str) or not low <= entry.ratio <= high:
            return entry if isinstance(entry, str) else (entry, None)
        bits = _unpack(entry.packed, size)
        if bits is None:  # a forged index
            known[path] = None
            return read(path)
        return entry, bits

    low, high = bounds
    ratios: list[float] = []
    kept: list[NDArray[np.uint8]] = []
    non_binary = 0
    whole = [path for path in paths if str(path) not in bad]
    with ThreadPoolExecutor() as pool:
        for path, result in zip(whole, pool.map(read, whole), strict=True):
            if isinstance(result, str):
                damaged.append((str(path), result))
                continue
            entry, bits = result
            if index is not None and entry is not known[path]:
                index.add(path, entry)
            ratios.append(entry.ratio)
            non_binary += not entry.binary
            if bits is not None:
                kept.append(bits)
    otherwise = sum(low <= 1 - ratio <= high for ratio in ratios)
    bits = np.stack(kept) if kept else np.empty((0, -(-size * size // 8)), np.uint8)
    return MaskScan(Masks(bits, size), np.array(ratios), len(kept), otherwise, damaged, non_binary)


def _unpack(packed: bytes, size: int) -> NDArray[np.uint8] | None:
    """Return the bits of a mask, or None if they are not those of one."""
    length = -(-size * size // 8)
    with suppress(zlib.error):
        bits = zlib.decompressobj().decompress(packed, length + 1)
        if len(bits) == length:
            return np.frombuffer(bits, np.uint8)
    return None


def split_masks(root: Path, paths: Sequence[Path]) -> tuple[dict[str, list[Path]], str]:
    """Return the masks for training and for evaluation, and the name of the layout.

    `train/` and `test/` folders (QD-IMD) if both exist, or `val/` in place of `test/`. If all masks are in `test/` or
    `val/`, they are for evaluation alone. Else a fixed part by a hash of the file names, 90 % for training and 10 % for
    evaluation. Validation and test share the evaluation masks, each with a pairing of its own.
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
    for path, fraction in hashed_fractions(root, paths).items():
        parts["test" if fraction >= 1 - TEST_FRACTION else "train"].append(path)
    return parts, "hash"
