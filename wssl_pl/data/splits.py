"""Divide image files into train, val and test."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from wssl_pl.data.files import SUFFIXES
from wssl_pl.data.layouts import first_number
from wssl_pl.errors import DataError, UsageError

SPLITS = ("train", "val", "test")
RULES = ("auto", "folders", "celeba", "hash")
FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# LaMa's scripts sort the files of their lists into such folders.
FOLDERS |= {
    f"{name}{end}": split
    for name, split in (("train", "train"), ("val", "val"), ("visual_test", "test"))
    for end in ("_256", "_source_256")
}
VAL_FROM = 0.95
"""From this fraction of the hash on, an image of ``train/`` is taken for val where there is no ``val/``."""
MAPPING_FILE = "CelebA-HQ-to-CelebA-mapping.txt"
PARTITION_FILE = "list_eval_partition.txt"

Split = dict[str, list[Path]]


def split_images(root: Path, paths: Sequence[Path], rule: str = "auto") -> tuple[Split, str]:
    """Divide ``paths`` below ``root`` and name the rule by which it was done.

    ``auto`` takes the first of these that fits:

    1. ``folders``: by ``train/``, ``val/`` (or ``valid/``, ``validation/``) and ``test/`` in ``root``, if any is there.
       Without ``val/``, a fixed 5 % of ``train/`` by the hash below become val, which the name of the rule says.
    2. ``celeba``: by CelebA's partition, if its two text files lie in ``root`` or up to two folders above.
    3. ``hash``: by a hash of the file name without its suffix, 90 % train, 5 % val, 5 % test.

    Any other rule is a folder of file lists, see :func:`read_lists`.

    Raises:
        UsageError: The rule is none of these, or does not fit the files.
    """
    if rule in ("auto", "folders"):
        by_folder = _by_folder(root, paths)
        if by_folder["train"] and not by_folder["val"] and len(by_folder["train"]) > 1:
            return _with_val(by_folder), f"folders, {1 - VAL_FROM:.0%} of train for val"
        if any(by_folder.values()):
            return by_folder, "folders"
        if rule == "folders":
            raise UsageError(f"split=folders: {root} has no train, val or test folder with images")
    if rule in ("auto", "celeba"):
        for folder in (root, *root.resolve().parents[:2]):
            mapping, partition = folder / MAPPING_FILE, folder / PARTITION_FILE
            if mapping.is_file() and partition.is_file():
                return _by_celeba(paths, celeba_hq_partition(mapping, partition)), "celeba"
        if rule == "celeba":
            raise UsageError(f"split=celeba: put {MAPPING_FILE} and {PARTITION_FILE} into {root}")
    if rule not in RULES:
        return _by_lists(root, paths, Path(rule)), f"lists in {rule}"
    split: Split = {name: [] for name in SPLITS}
    for path in paths:
        fraction = hashed_fraction(path)
        split["train" if fraction < 0.90 else "val" if fraction < VAL_FROM else "test"].append(path)
    return split, "hash"


def hashed_fraction(path: Path) -> float:
    """Return a fixed number in [0, 1) that belongs to a file name, the same on every machine.

    The suffix of an image file does not count, so that ``00001.jpg`` and ``00001.png`` are in the same split.
    """
    # A row of a Parquet file is called `<file>.parquet#<row>`: that is no suffix.
    name = path.stem if path.suffix.lower() in SUFFIXES else path.name
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


def _with_val(split: Split) -> Split:
    """Return the split with a fixed part of train as val, at least one image."""
    fractions = {path: hashed_fraction(path) for path in split["train"]}
    least = min(VAL_FROM, max(fractions.values()))
    return split | {
        "train": [path for path, fraction in fractions.items() if fraction < least],
        "val": [path for path, fraction in fractions.items() if fraction >= least],
    }


def _by_celeba(paths: Sequence[Path], partition: Sequence[str]) -> Split:
    split: Split = {name: [] for name in SPLITS}
    numbers = {path: int(path.stem) for path in paths if path.stem.isdecimal()}
    first = first_number(list(numbers.values()), [path.stem for path in numbers], len(partition))
    for path in paths:
        number = numbers.get(path, -1) - first
        if not 0 <= number < len(partition):
            raise DataError(
                f"{path} has no entry in {MAPPING_FILE}, which numbers 0 to {len(partition) - 1}: "
                f"remove the file, or {PARTITION_FILE} to split by file names"
            )
        split[partition[number]].append(path)
    return split


def read_lists(folder: Path) -> dict[str, list[str]]:
    """The names in a folder's file lists: one image per line in ``train*``, ``val*`` and ``test*``, flist or txt.

    LaMa's ``train_shuffled.flist``, ``val_shuffled.flist`` and ``visual_test_shuffled.flist`` are such lists.

    Raises:
        UsageError: The folder or every list is missing.
    """
    starts = {"train": "train", "val": "val", "test": "test", "visual_test": "test"}
    if not folder.is_dir():
        raise UsageError(f"split={folder} is neither {', '.join(RULES)} nor a folder of file lists")
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        split = next((split for start, split in starts.items() if path.name.startswith(start)), None)
        if split and path.suffix in (".flist", ".txt", ".lst"):
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            found.setdefault(split, []).extend(line.strip() for line in lines if line.strip())
    if not found:
        raise UsageError(f"split={folder} holds no train, val or test list (train.flist or train.txt)")
    return found


def _by_lists(root: Path, paths: Sequence[Path], folder: Path) -> Split:
    """By lists of relative paths or names, else of numbers, as LaMa's lists count from 0 what others name from 1."""
    lists = read_lists(folder)
    split_of = {name: split for split, names in lists.items() for name in names}
    twice = sum(map(len, lists.values())) - len(split_of)
    if twice:
        raise DataError(f"split={folder}: {twice} lines name an image that another line names too")
    by_path = {path: split_of.get(path.relative_to(root).as_posix(), split_of.get(path.name)) for path in paths}
    stems = {path: path.stem for path in paths if path.stem.isdecimal()}
    listed = {int(Path(name).stem): split for name, split in split_of.items() if Path(name).stem.isdecimal()}
    numbers = {path: int(stem) for path, stem in stems.items()}
    first_file = first_number(list(numbers.values()), list(stems.values()), len(listed))
    first_line = first_number(list(listed), [Path(n).stem for n in split_of if Path(n).stem.isdecimal()], len(listed))
    exact = any(by_path.values()) and (not listed or first_file == first_line)
    split: Split = {name: [] for name in SPLITS}
    for path in paths:
        part = by_path[path] if exact else listed.get(numbers.get(path, -1) - first_file + first_line)
        if part:
            split[part].append(path)
    if not any(split.values()):
        raise DataError(f"split={folder}: its lists name none of the {len(paths)} images in {root}")
    return split
