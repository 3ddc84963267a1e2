"""Divide image files into train, val and test."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from wssl_pl.errors import DataError

SPLITS = ("train", "val", "test")
FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MAPPING_FILE = "CelebA-HQ-to-CelebA-mapping.txt"
PARTITION_FILE = "list_eval_partition.txt"

Split = dict[str, list[Path]]


def split_images(root: Path, paths: Sequence[Path]) -> tuple[Split, str]:
    """Divide ``paths`` below ``root`` and name the layout by which it was done.

    1. ``folders``: by ``train/``, ``val/`` (or ``valid/``, ``validation/``) and ``test/`` in ``root``, if any is there.
    2. ``celeba``: by CelebA's partition, if its two text files lie in ``root`` or up to two folders above.
    3. ``hash``: by a hash of the file name, 90 % train, 5 % val, 5 % test.
    """
    by_folder = _by_folder(root, paths)
    if any(by_folder.values()):
        return by_folder, "folders"
    for folder in (root, *root.resolve().parents[:2]):
        mapping, partition = folder / MAPPING_FILE, folder / PARTITION_FILE
        if mapping.is_file() and partition.is_file():
            return _by_celeba(paths, celeba_hq_partition(mapping, partition)), "celeba"
    split: Split = {name: [] for name in SPLITS}
    for path in paths:
        fraction = hashed_fraction(path.name)
        split["train" if fraction < 0.90 else "val" if fraction < 0.95 else "test"].append(path)
    return split, "hash"


def hashed_fraction(name: str) -> float:
    """A fixed number in [0, 1) that belongs to a file name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6]) / 2.0**48


def celeba_hq_partition(mapping: Path, partition: Path) -> list[str]:
    """The split of each CelebA-HQ image by its 0-based number.

    The mapping's ``orig_idx`` counts CelebA's images from 0, the partition names them from ``000001.jpg``: the join is
    by file name (``orig_file``), as taking the one number for the other gives an image its neighbour's split.

    Args:
        mapping: Lines of ``idx orig_idx [orig_file]`` after a header.
        partition: Lines of ``000001.jpg 0`` with 0 = train, 1 = val, 2 = test.
    """
    split_of: dict[str, str] = {}
    for line in partition.read_text().splitlines():
        if fields := line.split():
            split_of[fields[0]] = SPLITS[int(fields[1])]
    found: dict[int, str] = {}
    for line in mapping.read_text().splitlines():
        fields = line.split()
        if not fields or not fields[0].isdecimal():
            continue
        original = fields[2] if len(fields) > 2 else f"{int(fields[1]) + 1:06d}.jpg"
        if original not in split_of:
            raise DataError(f"{partition} has no line for {original}, which {mapping.name} names: is it cut short?")
        found[int(fields[0])] = split_of[original]
    return [found[number] for number in range(len(found))]


def _by_folder(root: Path, paths: Sequence[Path]) -> Split:
    split: Split = {name: [] for name in SPLITS}
    for path in paths:
        parts = path.relative_to(root).parts
        if len(parts) > 1 and parts[0].lower() in FOLDERS:
            split[FOLDERS[parts[0].lower()]].append(path)
    return split


def _by_celeba(paths: Sequence[Path], partition: Sequence[str]) -> Split:
    split: Split = {name: [] for name in SPLITS}
    numbers = {path: int(path.stem) for path in paths if path.stem.isdecimal()}
    # data256x256 counts 00001 to 30000, every other edition 0 to 29999.
    first = 1 if len(partition) in numbers.values() and 0 not in numbers.values() else 0
    for path in paths:
        number = numbers.get(path, -1) - first
        if not 0 <= number < len(partition):
            raise DataError(
                f"{path} has no entry in {MAPPING_FILE}, which numbers 0 to {len(partition) - 1}: "
                f"remove the file, or {PARTITION_FILE} to split by file names"
            )
        split[partition[number]].append(path)
    return split
