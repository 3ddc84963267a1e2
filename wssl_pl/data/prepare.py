"""Make a cache: decode every image once, in parallel, so that an interruption costs a second's work and no more.

The rows of the array are given out beforehand, so that a finished cache does not depend on who decoded what when. A
journal tells which rows are on the disk; it is written after them. All names change at the end, the manifest's last.
"""

import contextlib
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wssl_pl.data import cache as files
from wssl_pl.data.cache import MANIFEST, SKIPPED, WORK, Cache, Entry, Skipped, digest, duplicates, sync_write
from wssl_pl.data.decode import RESIZE_FILTERS
from wssl_pl.data.journal import Journal
from wssl_pl.data.lock import locked
from wssl_pl.data.prepare_pool import filled, processes
from wssl_pl.data.prepare_rows import Job, Record, Source, decode_source
from wssl_pl.data.prepare_sources import Differences, Sources, compare, find_sources, keep_hashed_splits
from wssl_pl.errors import DataError, Interrupted, UsageError

CHUNK = 16
"""Images that a worker process takes at a time."""


@dataclass(frozen=True)
class Report:
    """What a preparation did.

    Attributes:
        cache: The finished cache.
        differences: How the sources differ from those of the cache before, if there was one.
        skipped: Files that could not be decoded.
        duplicates: How many images have the same pixels in two splits, by the names of both.
    """

    cache: Cache
    differences: Differences | None
    skipped: list[Skipped]
    duplicates: dict[str, int]


def prepare(
    images: Path,
    out: Path,
    size: int = 256,
    workers: int | None = None,
    rule: str = "auto",
    progress: bool = False,
    resize_filter: str = "lanczos",
) -> Report:
    """Make the cache ``out`` of the images in a folder, go on with one that was interrupted, or bring it up to date.

    Args:
        images: The folder; see :func:`~wssl_pl.data.prepare_sources.find_sources`.
        out: The cache's folder.
        size: Height and width in pixels.
        workers: Processes, by default one per core; 0 decodes in this one.
        rule: How to divide the images; see :func:`~wssl_pl.data.splits.split_images`.
        progress: Show a progress bar where there is a terminal.
        resize_filter: How images are resized, one of ``RESIZE_FILTERS``.

    Raises:
        UsageError: An argument does not fit, or another process prepares the same cache.
        DataError: The disk is full, no image can be decoded, or the cache in ``out`` is damaged.
        Interrupted: By Ctrl-C.
    """
    if not images.is_dir():
        raise DataError(f"images={images} is not a folder" if images.exists() else f"images={images} does not exist")
    if size < 1:
        raise UsageError(f"size={size}: it must be at least 1")
    if resize_filter not in RESIZE_FILTERS:
        raise UsageError(f"resize_filter={resize_filter}: it must be one of {', '.join(RESIZE_FILTERS)}")
    if out.exists() and (not out.is_dir() or out.resolve() == images.resolve()):
        raise UsageError(f"out={out}: give a new folder for the cache")
    if out.is_dir() and any(out.iterdir()) and not files.looks_like_cache(out):
        raise UsageError(f"out={out} is not empty and holds no cache: give a new folder")
    with _stops(out):
        sources = find_sources(images, rule)
        (out / WORK).mkdir(parents=True, exist_ok=True)
        with locked(out / WORK / "lock", f"out={out}"):
            return _prepare(sources, out, size, resize_filter, workers, progress)


def _prepare(sources: Sources, out: Path, size: int, resize_filter: str, workers: int | None, progress: bool) -> Report:
    old = Cache(out) if (out / MANIFEST).is_file() else None
    if old:
        sources = keep_hashed_splits(sources, old)
    differences = compare(sources.items, old) if old else None
    if old and old.size != size:
        raise UsageError(f"out={out} is a cache of {old.size} px: give size={old.size}, or a new folder")
    if old and old.resize_filter != resize_filter:
        raise UsageError(
            f"out={out} is a cache that was made with resize_filter={old.resize_filter}: give that, or a new folder"
        )
    if old and str(differences) == "nothing new" and old.manifest["split"] == sources.rule:
        skipped = old.skipped()
        if _still_bad(sources, skipped, size, resize_filter):
            return _report(old, differences)
    known = _reusable(sources.items, old) if old else {}
    work = out / WORK
    plan = {"version": files.VERSION, "size": size, "rule": sources.rule, "layout": sources.layout}
    plan["resize_filter"] = resize_filter
    plan["sources"] = [[s.name, s.split, s.bytes, s.mtime_ns] for s in sources.items]
    content = json.dumps(plan).encode()
    journal = Journal(work / "journal")
    if not (work / "plan.json").is_file() or (work / "plan.json").read_bytes() != content:
        journal.clear()
        (work / "images.npy").unlink(missing_ok=True)
        sync_write(work / "plan.json", content)
    records = journal.read()
    name = _images_name(records, len(sources.items))
    # Killed between the new names of the array and of the manifest: only the rest of the end is left to do.
    moved = name is not None and (out / name).is_file() and not (work / "images.npy").is_file()
    if not moved:
        if not (work / "images.npy").is_file():
            journal.clear()
            records = {}
        array = _allocate(work / "images.npy", len(sources.items), size, out)
        rows = [(row, source) for row, source in enumerate(sources.items) if row not in records]
        jobs = [
            Job(
                sources.root,
                array,
                size,
                resize_filter,
                part,
                {row: known[row] for row, _ in part if row in known},
                old.array_path if old else None,
            )
            for part in (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        ]
        _fill(jobs, processes(workers), journal, array, records, progress)
    cache = _finish(sources, out, size, resize_filter, records)
    return _report(cache, differences)


def _fill(
    jobs: Sequence[Job], workers: int, journal: Journal, array: Path, records: dict[int, Record], progress: bool
) -> None:
    total = len(records) + sum(len(job.rows) for job in jobs)
    bar = tqdm(total=total, initial=len(records), unit=" images", disable=None if progress else True, smoothing=0.05)
    try:
        with bar, contextlib.closing(filled(jobs, workers, journal, array)) as results:
            for found in results:
                records |= {record[0]: record for record in found}
                bar.update(len(found))
    except KeyboardInterrupt:
        raise Interrupted(f"stopped at {len(records)} of {total} images: the same command goes on from there") from None


def _reusable(sources: Sequence[Source], old: Cache) -> dict[int, Entry]:
    entries = {entry.source: entry for entry in old.entries}
    return {row: entries[source.name] for row, source in enumerate(sources) if source.name in entries}


def _still_bad(sources: Sources, skipped: Sequence[Skipped], size: int, resize_filter: str) -> bool:
    """Whether what was skipped is as bad as before; a file may be mended by its permissions alone."""
    by_name = {source.name: source for source in sources.items}
    for item in skipped:
        try:
            decode_source(sources.root, 0, by_name[item.source], size, resize_filter)
        except DataError as error:
            if str(error) == item.reason:
                continue
        return False
    return True


def _allocate(path: Path, rows: int, size: int, out: Path) -> Path:
    """The array file at its full length, without using the disk for it yet."""
    length = files.HEADER_BYTES + rows * size * size * 3
    used = path.stat().st_blocks * 512 if path.is_file() else 0
    free = shutil.disk_usage(path.parent).free
    if free < length - used:
        raise DataError(
            f"out={out}: the disk has {free / 1e9:.1f} GB free of the {(length - used) / 1e9:.1f} GB that are needed: "
            "make room and run the same command again"
        )
    with path.open("r+b" if path.is_file() else "w+b") as file:
        file.write(files.header(rows, size))
        file.truncate(length)
    return path


@contextlib.contextmanager
def _stops(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped before out={out} was finished: the same command goes on from there") from None
    except OSError as error:
        what = f"{error.filename or f'out={out}'}: {error.strerror or error}"
        raise DataError(f"{what}: mend this and run the same command again, it goes on where it stopped") from error


def _images_name(records: dict[int, Record], rows: int) -> str | None:
    """The array's final name, from the sums of its rows; None while some are missing."""
    if len(records) < rows:
        return None
    sums = "\n".join(f"{row} {record[-1] if len(record) == 5 else ''}" for row, record in sorted(records.items()))
    return f"images-{hashlib.sha256(sums.encode()).hexdigest()[:16]}.npy"


def _finish(sources: Sources, out: Path, size: int, resize_filter: str, records: dict[int, Record]) -> Cache:
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    for row, source in enumerate(sources.items):
        record = records[row]
        if len(record) == 2:
            skipped.append(Skipped(source.name, source.split, source.bytes, source.mtime_ns, record[1]))
        else:
            _, sha256, width, height, pixels = record
            entries.append(
                Entry(row, source.split, source.name, source.bytes, source.mtime_ns, width, height, sha256, pixels)
            )
    if not entries:
        first = skipped[0]
        raise DataError(f"none of {len(skipped)} images can be decoded; the first one, {first.source}, {first.reason}")
    name = _images_name(records, len(sources.items))
    index, table = files.write_csv(entries, Entry), files.write_csv(skipped, Skipped)
    index_sha, table_sha = (hashlib.sha256(content).hexdigest() for content in (index, table))
    counts = Counter(entry.split for entry in entries)
    manifest: dict[str, Any] = {
        "format": files.FORMAT,
        "version": files.VERSION,
        "size": size,
        "resize_filter": resize_filter,
        "rows": len(sources.items),
        "count": len(entries),
        "splits": {split: counts[split] for split in ("train", "val", "test") if counts[split]},
        "split": sources.rule,
        "layout": sources.layout,
        "images": {"file": name},
        "index": {"file": f"index-{index_sha[:16]}.csv", "sha256": index_sha},
        "skipped": {"file": SKIPPED, "count": len(skipped), "sha256": table_sha},
    }
    manifest["sha256"] = digest(manifest)
    sync_write(out / manifest["index"]["file"], index)
    sync_write(out / SKIPPED, table)
    if (out / WORK / "images.npy").is_file():
        (out / WORK / "images.npy").replace(out / str(name))
    sync_write(out / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    kept = {name, manifest["index"]["file"]}
    for path in [*out.glob("images-*.npy"), *out.glob("index-*.csv")]:
        if path.name not in kept:
            path.unlink()
    for leftover in ("journal", "plan.json"):
        (out / WORK / leftover).unlink(missing_ok=True)
    return Cache(out)


def _report(cache: Cache, differences: Differences | None) -> Report:
    return Report(cache, differences, cache.skipped(), duplicates(cache.entries))
