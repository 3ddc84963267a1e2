"""What was measured of mask files, kept beside them, so that it is measured once."""

import hashlib
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

VERSION = 2  # 1 resized by whole pixels instead of by area


@dataclass(frozen=True)
class Measured:
    """A mask at the model's size.

    Attributes:
        length: Size of its file in bytes.
        mtime_ns: Time of its file.
        ratio: Share of the mask that is hole.
        binary: Whether the file held two brightnesses alone.
        packed: Its bits by ``numpy.packbits``, compressed: a tenth of their size, so that the index stays small.
    """

    length: int
    mtime_ns: int
    ratio: float
    binary: bool
    packed: bytes

    def bits(self) -> NDArray[np.uint8]:
        """The mask as ``(ceil(size * size / 8),)`` uint8."""
        return np.frombuffer(zlib.decompress(self.packed), np.uint8)


class MaskIndex:
    """Measurements of the masks of a folder with one (size, hole, dilate).

    An entry holds as long as its file keeps size and time. The index is a hidden file in the folder, or, if that cannot
    be written to, in ``$XDG_CACHE_HOME/wssl_pl`` (``~/.cache/wssl_pl``).

    Args:
        root: The masks' folder.
        size: Height and width in pixels.
        hole: ``black`` or ``white``.
        dilate: Pixels by which holes are widened.
    """

    def __init__(self, root: Path, size: int, hole: str, dilate: int) -> None:
        self.root = root
        self.name = f".wssl-masks-{size}-{hole}-{dilate}.npz"
        self.changed = False
        self.entries: dict[str, Measured] = {}
        self.path = next((path for path in self._places() if path.is_file()), None)
        if self.path is not None:
            try:
                self.entries = _load(self.path)
            except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
                log.warning("%s is damaged (%s): the masks are measured again", self.path, error)

    def get(self, path: Path) -> Measured | None:
        """What was measured of a file, unless it has changed since."""
        entry = self.entries.get(path.relative_to(self.root).as_posix())
        if entry is None:
            return None
        try:
            stat = path.stat()
        except OSError:
            return None
        return entry if (stat.st_size, stat.st_mtime_ns) == (entry.length, entry.mtime_ns) else None

    def add(self, path: Path, entry: Measured) -> None:
        """Keep a measurement."""
        self.entries[path.relative_to(self.root).as_posix()] = entry
        self.changed = True

    def save(self, files: Iterable[Path]) -> None:
        """Write what has changed, without files that are gone from ``files``; without a place for it, say so."""
        if not self.changed:
            return
        names = {path.relative_to(self.root).as_posix() for path in files}
        kept = {name: entry for name, entry in sorted(self.entries.items()) if name in names}
        for path in self._places():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _save(path, kept)
            except OSError:
                continue
            self.path, self.changed = path, False
            return
        log.warning("%s: no place to keep the masks' hole ratios, they are measured at every start", self.root)

    def _places(self) -> list[Path]:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "wssl_pl"
        key = hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:16]
        elsewhere = cache / f"masks-{key}" / self.name.removeprefix(".")
        # A folder that nobody may write to is meant to stay as it is, even where the administrator could.
        writable = self.root.stat().st_mode & 0o222 and os.access(self.root, os.W_OK)
        return [self.root / self.name, elsewhere] if writable else [elsewhere]


def _load(path: Path) -> dict[str, Measured]:
    with np.load(path, allow_pickle=False) as stored:
        if int(stored["version"]) != VERSION:
            return {}
        names = stored["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
        blob, ends = stored["blob"].tobytes(), stored["ends"].tolist()
        starts = [0, *ends[:-1]]
        columns = (stored[key].tolist() for key in ("length", "mtime_ns", "ratio", "binary"))
        return {
            name: Measured(length, mtime_ns, ratio, binary, blob[start:end])
            for name, start, end, length, mtime_ns, ratio, binary in zip(names, starts, ends, *columns, strict=True)
        }


def _save(path: Path, entries: dict[str, Measured]) -> None:
    values = list(entries.values())
    joined = "\0".join(entries).encode("utf-8", "surrogateescape")
    columns = {
        "version": np.array(VERSION),
        "names": np.frombuffer(joined, np.uint8),
        "length": np.array([entry.length for entry in values], np.int64),
        "mtime_ns": np.array([entry.mtime_ns for entry in values], np.int64),
        "ratio": np.array([entry.ratio for entry in values], np.float64),
        "binary": np.array([entry.binary for entry in values], np.bool_),
        "ends": np.cumsum([len(entry.packed) for entry in values], dtype=np.int64),
        "blob": np.frombuffer(b"".join(entry.packed for entry in values), np.uint8),
    }
    # A name of its own, as the processes of one run may all write at once.
    handle, temporary = tempfile.mkstemp(prefix=".wssl-masks-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **columns)  # type: ignore[arg-type]
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
