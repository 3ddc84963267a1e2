"""Make shards: the same images as a cache, in chunks that can be fetched one by one.

Which images are in a chunk is decided beforehand, so that finished shards do not depend on who wrote what when. A chunk
gets its name when it is on the disk, and a kill costs the chunks in work.

`litdata.optimize` is not used: what it writes depends on the number of processes, an interrupted one starts from the
beginning unless its checkpoints are asked for, it makes a folder in the home directory, and it prints. Its
`BinaryWriter` writes every chunk.
"""

import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from wssl_pl.data.cache import MANIFEST, Entry, digest, duplicates, write_index
from wssl_pl.data.draws import permutation
from wssl_pl.data.files import natural_key
from wssl_pl.data.prepare import (
    NO_DIFFERENCE,
    Report,
    Sources,
    compare,
    count_splits,
    decode,
    is_current,
    plan_digest,
    preparing,
    read_parts,
    read_source,
    run_jobs,
)
from wssl_pl.data.shards import CHUNK_NAME, ENCODINGS, FORMAT, INDEX, VERSION, WORK, Folder, Shards, looks_like_shards
from wssl_pl.data.splits import SPLITS
from wssl_pl.errors import DataError, WSSLError
from wssl_pl.files import write_atomically, write_json

CHUNK_BYTES = 2**28
"""The largest chunk, unless one image is larger: a worker process holds it in memory."""
JPEG_QUALITY = 95


def prepare_shards(
    images: Path,
    out: Path,
    size: int = 256,
    workers: int | None = None,
    split_rule: str = "auto",
    progress: bool = False,
    resize_filter: str = "lanczos",
    encoding: str = "raw",
    chunk_size: int = 256,
) -> Report:
    """Make shards in `out` of the images in a folder, or resume. They are made again where images have changed.

    Args:
        images: The folder, of images or of Parquet files.
        out: The shards' folder.
        size: Height and width in pixels.
        workers: Processes, by default one per core; 0 decodes in this one.
        split_rule: How to divide the images; see `split_images`.
        progress: Show a progress bar if there is a terminal.
        resize_filter: How images are resized, one of `RESIZE_FILTERS`.
        encoding: How an image is stored, one of `ENCODINGS`; with `file` it keeps its size.
        chunk_size: Images per chunk, at the most.

    Raises:
        WSSLError: An argument cannot be used, or another process prepares the same shards.
        DataError: The disk is full, no image can be decoded, or the shards in `out` are damaged.
        Interrupted: By Ctrl-C.
    """
    if encoding not in ENCODINGS:
        raise WSSLError("encoding", encoding, f"must be one of {', '.join(ENCODINGS)}")
    if chunk_size < 1:
        raise WSSLError("chunk_size", chunk_size, "must be at least 1")
    import_writer()
    with preparing(images, out, size, workers, split_rule, resize_filter, looks_like_shards, WORK) as (sources, count):
        settings = {"size": size, "resize_filter": resize_filter, "encoding": encoding, "chunk_size": chunk_size}
        return _prepare(_in_stored_order(sources), out, settings, count, progress)


def import_writer() -> Any:
    """Return litdata's writer.

    Raises:
        WSSLError: It is not installed.
    """
    try:
        from litdata.streaming.writer import BinaryWriter
    except ImportError:
        raise WSSLError("format", "shards", "needs litdata", "pip install 'wssl-pl[stream]'") from None
    return BinaryWriter


def _in_stored_order(sources: Sources) -> Sources:
    """Return the training images in a random order, because images that follow each other by name are often alike."""
    parts = {split: [item for item in sources.items if item.split == split] for split in SPLITS}
    parts["train"] = [parts["train"][place] for place in permutation(0, 0, len(parts["train"])).tolist()]
    items = [item for split in SPLITS for item in parts[split]]
    return sources._replace(items=[replace(item, row=row) for row, item in enumerate(items)])


def _groups(sources: Sources, settings: dict[str, Any]) -> Iterator[tuple[str, list[Entry]]]:
    """Yield the name of each chunk without its digest, `train/chunk-000000`, and what it is made of."""
    pixels = settings["size"] ** 2 * 3
    for split in SPLITS:
        group: list[Entry] = []
        filled = number = 0
        for item in [item for item in sources.items if item.split == split]:
            # The size of a row of a Parquet file is not known.
            large = pixels if settings["encoding"] != "file" or "#" in item.source else item.bytes
            if group and (len(group) == settings["chunk_size"] or filled + large > CHUNK_BYTES):
                yield f"{split}/chunk-{number:06d}", group
                group, filled, number = [], 0, number + 1
            group.append(item)
            filled += large
        if group:
            yield f"{split}/chunk-{number:06d}", group


def _prepare(sources: Sources, out: Path, settings: dict[str, Any], workers: int, progress: bool) -> Report:
    size, resize_filter = settings["size"], settings["resize_filter"]
    old = _old(out, settings)
    differences = compare(sources.items, old) if old else None
    if old and differences == NO_DIFFERENCE and is_current(old, sources, size, resize_filter):
        return Report(old, differences)
    work = out / WORK / plan_digest(sources, VERSION, settings)
    for path in (out / WORK).iterdir():
        if path.is_dir() and path != work:
            shutil.rmtree(path)  # of other files or settings
    for split in SPLITS:
        (work / split).mkdir(parents=True, exist_ok=True)
    done = read_parts(work, sources.items)
    groups = list(_groups(sources, settings))
    jobs = []
    for name, group in groups:
        found = [done[item.row] for item in group if item.row in done]
        if len(found) < len(group) or (any(entry.reason is None for entry in found) and not _written(name, work, out)):
            for item in group:
                done.pop(item.row, None)
            jobs.append(partial(write_chunk, sources.root, work, name, settings, group))
    run_jobs(jobs, work, workers, done, len(sources.items), progress)
    return Report(_finish(sources, out, work, settings, groups, done), differences)


def _old(out: Path, settings: dict[str, Any]) -> Shards | None:
    """Return the finished shards in `out`; None if there are none, or if they are incomplete."""
    if not (out / MANIFEST).exists():
        return None
    old = Shards(Folder(out), "out")
    for name, value in settings.items():
        if (before := getattr(old, name)) not in (value, None):
            raise WSSLError(name, value, f"{out} was made with {before}", f"set {name}={before}, or a new folder")
    try:
        chunks = [chunk for split in old.sizes() for chunk in old.chunks(split)]
        complete = all((out / chunk.name).stat().st_size == chunk.bytes for chunk in chunks)
    except (DataError, FileNotFoundError):
        complete = False
    return old if complete else None


def _written(name: str, work: Path, out: Path) -> Path | None:
    """Return the file of a chunk that has been written, before or after it was moved to its place."""
    note = work / f"{name}.txt"
    if note.is_file():
        for folder in (work, out):
            path = (folder / name).with_name(note.read_text())
            if CHUNK_NAME.fullmatch(path.name) and path.is_file():
                return path
    return None


def write_chunk(root: Path, work: Path, name: str, settings: dict[str, Any], group: Sequence[Entry]) -> list[Entry]:
    """Write a chunk, which is on the disk when this returns; none if no image of it can be decoded.

    Args:
        root: Folder that the source names start from.
        work: Folder of the unfinished shards.
        name: The chunk's name without its digest.
        settings: Size, filter and encoding.
        group: The images.

    Returns:
        The complete entries.

    Raises:
        OSError: The disk is full.
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    entries: list[Entry] = []
    items: list[bytes] = []
    contents: dict[int, bytes | DataError] = {}

    def read(source: Entry) -> bytes | DataError:
        try:
            return read_source(root, source.source)
        except DataError as error:
            return error

    # Neighbours of a Parquet file after each other: each of its groups is decoded as a whole.
    rows = [source for source in group if "#" in source.source]
    for source in sorted(rows, key=lambda source: natural_key(source.source)):
        contents[source.row] = read(source)
    for source in group:
        content = contents.pop(source.row, None) or read(source)
        if isinstance(content, DataError):
            entries.append(replace(source, reason=content.reason))
            continue
        pixels, entry = decode(root, source, settings["size"], settings["resize_filter"], content)
        entries.append(entry)
        if entry.reason is None:
            items.append(content if settings["encoding"] == "file" else encode(pixels, **settings))
    if items:
        folder = work / f"{name}.part"
        shutil.rmtree(folder, ignore_errors=True)
        write_items(folder, items, len(items))
        written = folder / "chunk-0-0.bin"
        with written.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        written.replace(work / f"{name}-{checksum[:16]}.bin")
        # An older chunk of this number may be in place, so that the number does not find it.
        write_atomically(work / f"{name}.txt", f"{Path(name).name}-{checksum[:16]}.bin")
        shutil.rmtree(folder)
    return entries


def write_items(folder: Path, items: Sequence[bytes], chunk_size: int) -> dict[str, Any]:
    """Write a folder of one chunk and return its index."""
    from litdata.streaming.serializers import BytesSerializer

    # Named here, it comes first: others would take bytes for an image, by what they start with.
    writer = import_writer()(str(folder), chunk_size=chunk_size, serializers={"bytes": BytesSerializer()})
    for number, item in enumerate(items):
        writer[number] = item
    writer.done()
    index: dict[str, Any] = json.loads((folder / "0.index.json").read_bytes())
    return index


def encode(pixels: bytes, size: int, encoding: str, **_: Any) -> bytes:
    """Return an image of `size * size * 3` bytes as one of `ENCODINGS` stores it."""
    if encoding == "raw":
        return pixels
    buffer = io.BytesIO()
    image = Image.frombytes("RGB", (size, size), pixels)
    if encoding == "png":
        image.save(buffer, "PNG", compress_level=1, compress_type=3)  # runs alone: as small as level 3, twice as fast
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _finish(
    sources: Sources,
    out: Path,
    work: Path,
    settings: dict[str, Any],
    groups: Sequence[tuple[str, Sequence[Entry]]],
    entries: dict[int, Entry],
) -> Shards:
    rows = [entries[row] for row in range(len(sources.items))]
    counts = count_splits(sources, rows)
    config = write_items(work / "config.part", [b"0"], settings["chunk_size"])["config"]
    index = write_index(rows)
    index_sha256 = hashlib.sha256(index).hexdigest()
    manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, **settings}
    if settings["encoding"] == "file":
        manifest |= {"size": None, "resize_filter": None}
    manifest |= {
        "splits": {},
        "skipped": len(rows) - sum(counts.values()),
        "duplicates": duplicates([entry for entry in rows if entry.reason is None]),
        "split_rule": sources.split_rule,
        "layout": sources.layout,
        "index": {"file": f"index-{index_sha256[:16]}.parquet", "sha256": index_sha256},
    }
    names = {manifest["index"]["file"]}
    write_atomically(out / manifest["index"]["file"], index)
    indices: dict[str, str] = {}
    for split in counts:
        chunks: list[dict[str, Any]] = []
        (out / split).mkdir(exist_ok=True)
        for name, group in groups:
            good = [item for item in group if entries[item.row].reason is None]
            if group[0].split == split and good:
                path = _written(name, work, out)
                if path is None:
                    raise DataError("out", out, f"{name} has vanished", "run the same command again")
                path.replace(out / split / path.name)
                size = (out / split / path.name).stat().st_size
                chunks.append({"chunk_bytes": size, "chunk_size": len(good), "dim": None, "filename": path.name})
        names |= {f"{split}/{chunk['filename']}" for chunk in chunks}
        indices[split] = json.dumps({"chunks": chunks, "config": config}, sort_keys=True)
        sha256 = hashlib.sha256(indices[split].encode()).hexdigest()
        manifest["splits"][split] = {"images": counts[split], "sha256": sha256}
    manifest["sha256"] = digest(manifest)
    for split, text in indices.items():
        write_atomically(out / split / INDEX, text)
    write_json(out / MANIFEST, manifest)
    chunk_files = (path for split in SPLITS for path in out.glob(f"{split}/chunk-*.bin"))
    for path in [*out.glob("index-*.parquet"), *chunk_files]:
        named = path.relative_to(out).as_posix() in names
        if not named and (path.parent == out or CHUNK_NAME.fullmatch(path.name)):
            path.unlink()
    for split in set(SPLITS) - set(counts):
        (out / split / INDEX).unlink(missing_ok=True)
    shutil.rmtree(work)
    return Shards(Folder(out), "out")
