"""What a preparation has to do: the images of a folder with their splits, and how they differ from an older cache."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wssl_pl.data.cache import Cache, Entry, Skipped
from wssl_pl.data.files import list_images, natural_key
from wssl_pl.data.layouts import find_layout
from wssl_pl.data.prepare_rows import Source
from wssl_pl.data.splits import FOLDERS, SPLITS, Split, split_images
from wssl_pl.errors import DataError


@dataclass(frozen=True)
class Sources:
    """The images of a folder.

    Attributes:
        root: The folder that their names start from.
        layout: What the folder was recognised as.
        rule: The rule by which they are divided.
        items: The images, split by split, in the order of their names.
    """

    root: Path
    layout: str
    rule: str
    items: list[Source]


@dataclass(frozen=True)
class Differences:
    """How sources differ from those of an older cache."""

    new: int
    changed: int
    deleted: int
    moved: int

    def __str__(self) -> str:
        parts = [
            f"{self.new} new",
            f"{self.changed} changed",
            f"{self.deleted} deleted",
            f"{self.moved} in another split",
        ]
        return ", ".join(part for part in parts if not part.startswith("0 ")) or "nothing new"


def find_sources(images: Path, rule: str) -> Sources:
    """List the images of a folder, or of its Parquet files, and divide them.

    Raises:
        DataError: There are none, or a folder or Parquet file cannot be read.
        UsageError: ``rule`` does not fit.
    """
    layout = find_layout(images)
    root = layout.folder
    if files := sorted(root.rglob("*.parquet"), key=lambda path: natural_key(path.relative_to(root).as_posix())):
        split, found = _parquet(root, files, rule)
    else:
        paths = list_images(root, "images")
        if not paths:
            raise DataError(f"images={images} holds no JPEG, PNG or WebP file, and no Parquet file")
        split, found = split_images(root, paths, rule)
    items = [_source(root, path, part) for part in SPLITS for path in split[part]]
    return Sources(root, layout.name, found, items)


def keep_hashed_splits(sources: Sources, cache: Cache) -> Sources:
    """Return the sources with the splits that an older cache gave them, if both are divided by the hash.

    The hash once counted the suffix of a name. Images must not change sides when such a cache is brought up to date.
    """
    if not sources.rule == cache.manifest["split"] == "hash":
        return sources
    known = {entry.source: entry.split for entry in cache.entries}
    known |= {entry.source: entry.split for entry in cache.skipped()}
    items = [replace(item, split=known.get(item.name, item.split)) for item in sources.items]
    if items == sources.items:
        return sources
    items.sort(key=lambda item: (SPLITS.index(item.split), natural_key(item.name)))
    return replace(sources, items=items)


def _parquet(root: Path, files: Sequence[Path], rule: str) -> tuple[Split, str]:
    from wssl_pl.data.parquet import count_rows

    rows = {file: [file.with_name(f"{file.name}#{row}") for row in range(count_rows(file))] for file in files}
    named = {file: FOLDERS.get(file.name.partition("-")[0].removesuffix(".parquet").lower()) for file in files}
    if rule == "auto" and len(set(named.values()) - {None}) > 1:
        split: Split = {part: [] for part in SPLITS}
        for file in files:
            if part := named[file]:
                split[part] += rows[file]
        return split, "names of the Parquet files"
    return split_images(root, [path for file in files for path in rows[file]], "hash" if rule == "auto" else rule)


def _source(root: Path, path: Path, split: str) -> Source:
    name = path.relative_to(root).as_posix()
    parent, mark, _ = path.name.rpartition("#")
    file = path.with_name(parent) if mark and parent.endswith(".parquet") else path
    try:
        stat = file.stat()
    except OSError:
        # A dangling link or a file that went away: reading it will tell why.
        return Source(name, split, -1, -1)
    return Source(name, split, stat.st_size, stat.st_mtime_ns)


def compare(sources: Sequence[Source], cache: Cache) -> Differences:
    """How the sources differ from those of a cache, by size and time; what was skipped then counts as known."""
    old: dict[str, Entry | Skipped] = {entry.source: entry for entry in cache.entries}
    old |= {item.source: item for item in cache.skipped()}
    names = {source.name for source in sources}
    changed = moved = new = 0
    for source in sources:
        item = old.get(source.name)
        if item is None:
            new += 1
        elif (item.bytes, item.mtime_ns) != (source.bytes, source.mtime_ns):
            changed += 1
        elif item.split != source.split:
            moved += 1
    return Differences(new, changed, len(old.keys() - names), moved)
