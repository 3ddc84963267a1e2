"""Make a cache: decode every image once, in parallel, so that an interruption costs a second of work.

The rows of the array are assigned beforehand, so that a finished cache does not depend on who decoded what when.
`part-*.parquet` files hold what is done, each written after its rows have reached the disk. Names change at the end,
the manifest's last.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from wssl_pl.data import cache as files
from wssl_pl.data.cache import MANIFEST, WORK, Cache, Entry, digest, looks_like_cache
from wssl_pl.data.decode import RESIZE_FILTERS, decode_image
from wssl_pl.data.files import check_folder, damage_in, find_tables, list_images, natural_key, reason
from wssl_pl.data.parquet import count_rows, read_row
from wssl_pl.data.pool import Job, results
from wssl_pl.data.shards import Shards
from wssl_pl.data.splits import FOLDERS, SPLITS, Split, find_layout, split_images, warn, with_val
from wssl_pl.devices import usable_cores
from wssl_pl.errors import DataError, Interrupted, WSSLError
from wssl_pl.files import locked, write_atomically, write_json

CHUNK = 16
"""Images that a worker process takes at a time."""
FLUSH_SECONDS = 1.0
"""Seconds of work that a kill may cost."""
NO_DIFFERENCE = "nothing new"


class Report(NamedTuple):
    """What a preparation did.

    Attributes:
        cache: The finished cache, or shards.
        differences: How the images differ from those of the one before, if there was one.
    """

    cache: Cache | Shards
    differences: str | None


class Sources(NamedTuple):
    """The images of a folder.

    Attributes:
        root: The folder that their names start from.
        layout: What the folder was recognised as.
        split_rule: The rule by which they are divided.
        items: The images, split by split, in the order of their names.
    """

    root: Path
    layout: str
    split_rule: str
    items: list[Entry]


def prepare(
    images: Path,
    out: Path,
    size: int = 256,
    workers: int | None = None,
    split_rule: str = "auto",
    progress: bool = False,
    resize_filter: str = "lanczos",
) -> Report:
    """Make the cache `out` of the images in a folder, resume one that was interrupted, or update it.

    Args:
        images: The folder, of images or of Parquet files.
        out: The cache's folder.
        size: Height and width in pixels.
        workers: Processes, by default one per core; 0 decodes in this one.
        split_rule: How to divide the images; see `split_images`.
        progress: Show a progress bar if there is a terminal.
        resize_filter: How images are resized, one of `RESIZE_FILTERS`.

    Raises:
        WSSLError: An argument cannot be used, or another process prepares the same cache.
        DataError: The disk is full, no image can be decoded, or the cache in `out` is damaged.
        Interrupted: By Ctrl-C.
    """
    with preparing(images, out, size, workers, split_rule, resize_filter, looks_like_cache, WORK) as (
        sources,
        processes,
    ):
        return _prepare(sources, out, size, resize_filter, processes, progress)


@contextlib.contextmanager
def preparing(
    images: Path,
    out: Path,
    size: int,
    workers: int | None,
    split_rule: str,
    resize_filter: str,
    looks_like: Callable[[Path], bool],
    work: str,
) -> Iterator[tuple[Sources, int]]:
    """Check the arguments of `prepare`, list the images and hold the lock of `out` while the block runs.

    Args:
        images: As those of `prepare`, and so are those that follow.
        out: The output.
        size: Height and width in pixels.
        workers: Processes.
        split_rule: How to divide the images.
        resize_filter: How images are resized.
        looks_like: Returns whether a folder is such an output already.
        work: Name of the folder in `out` for the lock and for what is unfinished.

    Returns:
        The images, and the number of processes.
    """
    check_folder("images", images)
    if size < 1:
        raise WSSLError("size", size, "must be at least 1")
    if workers is not None and workers < 0:
        raise WSSLError("workers", workers, "must be at least 0")
    if resize_filter not in RESIZE_FILTERS:
        raise WSSLError("resize_filter", resize_filter, f"must be one of {', '.join(RESIZE_FILTERS)}")
    if out.exists() and (not out.is_dir() or out.resolve() == images.resolve()):
        raise WSSLError("out", out, "is no folder to write to", "name a new folder")
    if out.is_dir() and any(out.iterdir()) and not looks_like(out):
        raise WSSLError("out", out, "is not empty and holds nothing of the kind", "name a new folder")
    if workers is None:
        workers = usable_cores() if usable_cores() > 1 else 0
    try:
        sources = find_sources(images, split_rule)
        (out / work).mkdir(parents=True, exist_ok=True)
        with locked(out / work / "lock", "out", out):
            yield sources, workers
    except KeyboardInterrupt:
        raise Interrupted(f"stopped before out={out} was finished: the same command resumes") from None
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        raise DataError("out", out, why, "correct this and run the same command again: it resumes") from error


def find_sources(images: Path, split_rule: str) -> Sources:
    """List the images of a folder, or of its Parquet files, and divide them.

    Raises:
        DataError: There are none, or a folder or Parquet file cannot be read.
        WSSLError: `split_rule` does not fit.
    """
    layout, root = find_layout(images)
    if tables := sorted(find_tables(root), key=lambda path: natural_key(path.relative_to(root).as_posix())):
        split, found = _split_tables(root, tables, split_rule)
    elif paths := list_images(root):
        split, found = split_images(root, paths, split_rule)
    else:
        raise DataError("images", images, "holds no JPEG, PNG or WebP file, and no Parquet file")
    items: list[Entry] = []
    for part in SPLITS:
        for path in split[part]:
            parent, mark, _ = path.name.rpartition("#")
            file = path.with_name(parent) if mark and parent.endswith(".parquet") else path
            try:
                stat = file.stat()
                known = stat.st_size, stat.st_mtime_ns
            except OSError:
                known = -1, -1  # a dangling link or a file that was removed: reading it gives the reason
            items.append(Entry(len(items), path.relative_to(root).as_posix(), part, *known))
    return Sources(root, layout, found, items)


def _split_tables(root: Path, tables: Sequence[Path], split_rule: str) -> tuple[Split, str]:
    rows = {file: [file.with_name(f"{file.name}#{row}") for row in range(count_rows(file))] for file in tables}
    named = {file: FOLDERS.get(file.name.partition("-")[0].removesuffix(".parquet").lower()) for file in tables}
    if split_rule == "auto" and len(set(named.values()) - {None}) > 1:
        split: Split = {part: [] for part in SPLITS}
        for file in tables:
            if part := named[file]:
                split[part] += rows[file]
        if spare := [file.name for file in tables if named[file] is None]:
            warn(
                "images=%s: %d Parquet files have no split in their name: they are omitted (%s)",
                root,
                len(spare),
                spare[0],
            )
        return with_val(root, split, "names of the Parquet files")
    paths = [path for file in tables for path in rows[file]]
    if split_rule == "auto":
        split_rule = "folders" if any(file.relative_to(root).parts[0].lower() in FOLDERS for file in tables) else "hash"
    return split_images(root, paths, split_rule)


def compare(sources: Sequence[Entry], cache: Cache | Shards) -> str:
    """Describe how images differ from those of a cache, by size and time; files that were skipped count as known."""
    old = {entry.source: entry for entry in cache.index}
    found: Counter[str] = Counter()
    for source in sources:
        item = old.pop(source.source, None)
        if item is None:
            found["new"] += 1
        elif (item.bytes, item.mtime_ns) != (source.bytes, source.mtime_ns):
            found["changed"] += 1
        elif item.split != source.split:
            found["in another split"] += 1
    found["deleted"] = len(old)
    # Images that were renamed or sorted into folders have their size and time.
    known = {(source.bytes, source.mtime_ns) for source in sources}
    if cache.index and len(old) == len(cache.index) and not any((e.bytes, e.mtime_ns) in known for e in cache.index):
        raise cache.error("was made of other images; none of them is here", "name a new folder")
    names = ("new", "changed", "deleted", "in another split")
    return ", ".join(f"{found[name]} {name}" for name in names if found[name]) or NO_DIFFERENCE


def _prepare(sources: Sources, out: Path, size: int, resize_filter: str, workers: int, progress: bool) -> Report:
    root, items = sources.root, sources.items
    old = Cache(out) if (out / MANIFEST).exists() else None
    if old and old.size != size:
        raise WSSLError("size", size, f"the cache {out} has {old.size} px", f"set size={old.size}, or a new folder")
    if old and old.resize_filter != resize_filter:
        reason = f"the cache {out} was made with {old.resize_filter}"
        remedy = f"set resize_filter={old.resize_filter}, or a new folder"
        raise WSSLError("resize_filter", resize_filter, reason, remedy)
    differences = compare(items, old) if old else None
    if old and differences == NO_DIFFERENCE and is_current(old, sources, size, resize_filter):
        return Report(old, differences)
    work = out / WORK / plan_digest(sources, files.VERSION, size, resize_filter)
    done, array = read_parts(work, items), work / "images.npy"
    # Killed after the array got its final name: only the manifest is left to write.
    named = len(done) == len(items) and (out / _array_name(done)).is_file()
    for path in (out / WORK).iterdir():
        if path.is_dir() and (path != work or not (array.is_file() or named)):
            shutil.rmtree(path)  # of other files or settings
    if not named or array.is_file():
        done = done if array.is_file() else {}
        work.mkdir(exist_ok=True)
        offset = _allocate(array, len(items), size, out, resume=bool(done))
        known = {entry.source: entry for entry in old.entries} if old else {}
        todo = [(item, known.get(item.source)) for item in items if item.row not in done]
        job = partial(fill, root, array, offset, size, resize_filter, old.array_path if old else None)
        jobs = [partial(job, todo[start : start + CHUNK]) for start in range(0, len(todo), CHUNK)]
        run_jobs(jobs, work, workers, done, len(items), progress, array)
    return Report(_finish(sources, out, work, size, resize_filter, done), differences)


def is_current(old: Cache | Shards, sources: Sources, size: int, resize_filter: str) -> bool:
    """Return whether images without any difference of size and time would make the same cache again."""
    # A file that was skipped may have become readable without any change of its size and time.
    return old.split_rule == sources.split_rule and all(
        decode(sources.root, item, size, resize_filter)[1].reason == item.reason for item in old.skipped
    )


def plan_digest(sources: Sources, *settings: Any) -> str:
    """Return a name for the work on these images with these settings."""
    plan = [*settings, sources.split_rule, sources.layout]
    plan += [[item.source, item.split, item.bytes, item.mtime_ns] for item in sources.items]
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]


def read_parts(work: Path, items: Sequence[Entry]) -> dict[int, Entry]:
    """Return the entries of the rows that are on the disk; rows of a part that cannot be read are done again."""
    sources = {item.row: item.source for item in items}
    done: dict[int, Entry] = {}
    for part in work.glob("part-*.parquet"):
        with contextlib.suppress(ValueError):
            found = files.read_index(part.read_bytes())
            done |= {entry.row: entry for entry in found if sources.get(entry.row) == entry.source}
    return done


def _allocate(path: Path, rows: int, size: int, out: Path, *, resume: bool) -> int:
    """Create the array file, unless it is resumed, and return where its rows start; the disk is not used yet."""
    length = rows * size * size * 3
    used = path.stat().st_blocks * 512 if path.is_file() else 0
    if (free := shutil.disk_usage(path.parent).free) < length - used:
        reason = f"the disk has {free / 1e9:.1f} GB free of the {(length - used) / 1e9:.1f} GB that are needed"
        raise DataError("out", out, reason, "make room and run the same command again")
    mode: Any = "r+" if resume else "w+"
    return int(np.lib.format.open_memmap(path, mode, np.uint8, (rows, size, size, 3)).offset)


def run_jobs(
    jobs: Sequence[Job],
    work: Path,
    workers: int,
    done: dict[int, Entry],
    total: int,
    progress: bool,
    array: Path | None = None,
) -> None:
    """Do the jobs, in any order, and add to `done`; a part is written every second, and when this is stopped.

    Args:
        jobs: Return the entries of rows that are written, and on the disk unless they are in `array`.
        work: Folder of the parts.
        workers: Processes.
        done: Entries by row.
        total: Number of rows, for the progress bar.
        progress: Show one if there is a terminal.
        array: The file that the rows are written to.
    """
    waiting: list[Entry] = []
    flushed = time.monotonic()

    def flush() -> None:
        nonlocal flushed
        if waiting:
            if array is not None:
                with array.open("rb") as file:
                    os.fsync(file.fileno())
            write_atomically(work / f"part-{waiting[0].row:08d}.parquet", files.write_index(waiting))
            waiting.clear()
        flushed = time.monotonic()

    bar = tqdm(total=total, initial=len(done), unit=" images", disable=None if progress else True, smoothing=0.05)
    try:
        with bar, contextlib.closing(results(jobs, workers)) as found:
            for entries in found:
                waiting += entries
                done |= {entry.row: entry for entry in entries}
                bar.update(len(entries))
                if time.monotonic() - flushed > FLUSH_SECONDS:
                    flush()
        flush()
    except KeyboardInterrupt:
        raise Interrupted(f"stopped at {len(done)} of {total} images: the same command resumes from there") from None
    except BrokenProcessPool:
        remedy = "run the same command again: it resumes, with fewer processes by workers=N"
        raise DataError("workers", workers, "a worker process was killed (short of memory?)", remedy) from None
    finally:
        # On a full disk not even this part may fit; then its rows are done again.
        with contextlib.suppress(OSError):
            flush()


def fill(
    root: Path,
    array: Path,
    offset: int,
    size: int,
    resize_filter: str,
    old_array: Path | None,
    rows: Sequence[tuple[Entry, Entry | None]],
) -> list[Entry]:
    """Decode rows of a cache, or copy them from an older one, and write them.

    Args:
        root: Folder that the source names start from.
        array: The array file to write to.
        offset: Bytes before its first row.
        size: Side in pixels.
        resize_filter: How images are resized.
        old_array: The older cache's array file.
        rows: What to decode, and its entry in the older cache.

    Returns:
        The complete entries.

    Raises:
        OSError: The disk is full.
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    entries: list[Entry] = []
    old = np.load(old_array, mmap_mode="r") if old_array else None
    with array.open("r+b", buffering=0) as file:
        for source, known in rows:
            content = None
            if known and (known.bytes, known.mtime_ns) != (source.bytes, source.mtime_ns):
                with contextlib.suppress(DataError):
                    content = read_source(root, source.source)
                known = known if content is not None and hashlib.sha256(content).hexdigest() == known.sha256 else None
            pixels = old[known.row].tobytes() if known and old is not None else b""
            # A row that has been damaged meanwhile is decoded again.
            if known and hashlib.sha256(pixels).hexdigest() == known.pixels_sha256:
                place = {name: getattr(source, name) for name in ("row", "split", "bytes", "mtime_ns")}
                entry = replace(known, **place)
            else:
                pixels, entry = decode(root, source, size, resize_filter, content)
            # Not through the memory map: on a full disk that would kill the process without an error.
            view, position = memoryview(pixels), offset + source.row * len(pixels)
            while view:
                written = os.pwrite(file.fileno(), view, position)
                view, position = view[written:], position + written
            entries.append(entry)
    return entries


def decode(
    root: Path, source: Entry, size: int, resize_filter: str, content: bytes | None = None
) -> tuple[bytes, Entry]:
    """Return the pixels of a source and its complete entry; no pixels, and the reason, if it cannot be decoded."""
    source = replace(source, reason=None)
    try:
        content = read_source(root, source.source) if content is None else content
        if why := damage_in(content):
            return b"", replace(source, reason=why)
        image, (width, height) = decode_image(io.BytesIO(content), size, resize_filter)
    except DataError as error:
        return b"", replace(source, reason=error.reason)
    pixels = image.tobytes()
    sums = hashlib.sha256(content).hexdigest(), hashlib.sha256(pixels).hexdigest()
    return pixels, replace(source, width=width, height=height, sha256=sums[0], pixels_sha256=sums[1])


def read_source(root: Path, name: str) -> bytes:
    """Return the encoded image of a source, a file or a row of a Parquet file."""
    path, mark, number = name.rpartition("#")
    if mark and path.endswith(".parquet"):
        return read_row(root / path, int(number))
    try:
        return (root / name).read_bytes()
    except OSError as error:
        raise DataError("images", root / name, reason(error)) from None


def _array_name(entries: dict[int, Entry]) -> str:
    """Return the array's final name, from the digests of its rows."""
    sums = "\n".join(f"{row} {entry.pixels_sha256}" for row, entry in sorted(entries.items()))
    return f"images-{hashlib.sha256(sums.encode()).hexdigest()[:16]}.npy"


def count_splits(sources: Sources, entries: Sequence[Entry]) -> dict[str, int]:
    """Return the number of images per split, without empty splits.

    Raises:
        DataError: None could be decoded.
    """
    counts = Counter(entry.split for entry in entries if entry.reason is None)
    if not counts:
        first = entries[0]
        reason = f"none of {len(entries)} images can be decoded; the first one, {first.source}, {first.reason}"
        raise DataError("images", sources.root, reason)
    return {split: counts[split] for split in SPLITS if counts[split]}


def _finish(sources: Sources, out: Path, work: Path, size: int, resize_filter: str, entries: dict[int, Entry]) -> Cache:
    rows = [entries[row] for row in range(len(sources.items))]
    counts = count_splits(sources, rows)
    name, index = _array_name(entries), files.write_index(rows)
    index_sha256 = hashlib.sha256(index).hexdigest()
    manifest: dict[str, Any] = {
        "format": files.FORMAT,
        "version": files.VERSION,
        "size": size,
        "resize_filter": resize_filter,
        "count": sum(counts.values()),
        "skipped": len(rows) - sum(counts.values()),
        "splits": counts,
        "split_rule": sources.split_rule,
        "layout": sources.layout,
        "images": {"file": name},
        "index": {"file": f"index-{index_sha256[:16]}.parquet", "sha256": index_sha256},
    }
    manifest["sha256"] = digest(manifest)
    write_atomically(out / manifest["index"]["file"], index)
    if (work / "images.npy").is_file():
        (work / "images.npy").replace(out / name)
    write_json(out / MANIFEST, manifest)
    for path in [*out.glob("images-*.npy"), *out.glob("index-*.parquet")]:
        if path.name not in (name, manifest["index"]["file"]):
            path.unlink()
    shutil.rmtree(work)
    return Cache(out)
