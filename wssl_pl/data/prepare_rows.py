"""What the worker processes of a preparation do: fill rows of the array file."""

import errno
import hashlib
import io
import os
import signal
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path

from PIL import Image

from wssl_pl.data.cache import HEADER_BYTES, Entry
from wssl_pl.data.decode import decode_image
from wssl_pl.data.files import damage_in, reason
from wssl_pl.errors import DataError

Record = tuple[int, str, int, int, str] | tuple[int, str]
"""(row, sha256, width, height, sha256 of the pixels), or (row, why it could not be decoded)."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(OSError):
    """The disk took no more."""


@dataclass(frozen=True)
class Source:
    """One image to be: a file, or a row of a Parquet file (``name#row``)."""

    name: str
    split: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Job:
    """Rows for one process to fill.

    Attributes:
        root: Folder that the sources' names start from.
        array: The array file to write to.
        size: Side in pixels.
        resize_filter: How images are resized.
        rows: Row and source.
        known: What an older cache has of them, by row.
        old_array: The older cache's array file.
    """

    root: Path
    array: Path
    size: int
    resize_filter: str
    rows: Sequence[tuple[int, Source]]
    known: dict[int, Entry]
    old_array: Path | None


def start_worker() -> None:
    """Leave Ctrl-C to the main process, and end when it is gone, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def fill(job: Job) -> list[Record]:
    """Decode the rows of a job, or copy them from the older cache, and write them.

    Raises:
        DiskFull: The disk took no more.
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    records: list[Record] = []
    file = os.open(job.array, os.O_WRONLY)
    old = os.open(job.old_array, os.O_RDONLY) if job.old_array is not None and job.known else None
    try:
        for row, source in job.rows:
            known = job.known.get(row) if old is not None else None
            try:
                pixels, record = _row(job, row, source, known, old)
            except DataError as error:
                records.append((row, str(error)))
                continue
            _write(file, pixels, HEADER_BYTES + row * len(pixels))
            records.append(record)
    finally:
        os.close(file)
        if old is not None:
            os.close(old)
    return records


def _row(job: Job, row: int, source: Source, known: Entry | None, old: int | None) -> tuple[bytes, Record]:
    content = None
    if known is not None and (known.bytes, known.mtime_ns) != (source.bytes, source.mtime_ns):
        content = _read(job.root, source.name)
        known = known if hashlib.sha256(content).hexdigest() == known.sha256 else None
    if known is not None and old is not None:
        length = job.size * job.size * 3
        pixels = os.pread(old, length, HEADER_BYTES + known.row * length)
        # A row that was damaged in the meantime is decoded again.
        if hashlib.sha256(pixels).hexdigest() == known.pixels_sha256:
            return pixels, (row, known.sha256, known.width, known.height, known.pixels_sha256)
    return decode_source(job.root, row, source, job.size, job.resize_filter, content)


def decode_source(
    root: Path, row: int, source: Source, size: int, resize_filter: str, content: bytes | None = None
) -> tuple[bytes, Record]:
    """The pixels of a source, and what the journal notes of it.

    Raises:
        DataError: It cannot be decoded; the message is the reason alone.
    """
    content = content if content is not None else _read(root, source.name)
    if why := damage_in(content):
        raise DataError(why)
    try:
        image, (width, height) = decode_image(io.BytesIO(content), size, "", resize_filter)
    except DataError as error:
        raise DataError(str(error).strip()) from None
    pixels = image.tobytes()
    sums = hashlib.sha256(content).hexdigest(), hashlib.sha256(pixels).hexdigest()
    return pixels, (row, sums[0], width, height, sums[1])


def _read(root: Path, name: str) -> bytes:
    path, mark, number = name.rpartition("#")
    try:
        if mark and path.endswith(".parquet"):
            from wssl_pl.data.parquet import read_row

            return read_row(root / path, int(number))
        return (root / name).read_bytes()
    except OSError as error:
        raise DataError(reason(error)) from None


def _write(file: int, pixels: bytes, offset: int) -> None:
    view = memoryview(pixels)
    try:
        while view:
            written = os.pwrite(file, view, offset)
            view, offset = view[written:], offset + written
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(error.errno, os.strerror(error.errno or 0)) from None
        raise
