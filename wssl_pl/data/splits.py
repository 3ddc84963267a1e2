"""Recognise the editions of CelebA-HQ by their folders, and divide image files into train, val and test."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_only

from wssl_pl.data.files import SUFFIXES, closed, find_tables, reason
from wssl_pl.errors import DataError, WSSLError

warn = rank_zero_only(logging.getLogger(__name__).warning)

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
"""From this fraction of the hash on, an image of `train/` is taken for val where there is no `val/`."""
MAPPING_FILE = "CelebA-HQ-to-CelebA-mapping.txt"
PARTITION_FILE = "list_eval_partition.txt"

# An archive's folder of photos, and the name of the edition. CelebAMask-HQ keeps label images beside it.
EDITIONS = {"CelebA-HQ-img": "CelebAMask-HQ"}
EDITIONS |= {name: name for name in ("data1024x1024", "data512x512", "data256x256", "data128x128")}
EDITIONS |= {name: name for name in ("celeba_hq_1024", "celeba_hq_512", "celeba_hq_256")}
FROM_0 = {name for name in EDITIONS if not name.startswith("data")}
"""Folders whose images are counted from 0, also where a part of them is padded as those of `data256x256` are."""
_SEXES = {"male", "female"}

Split = dict[str, list[Path]]


class Layout(NamedTuple):
    """What a folder of images was recognised as.

    Attributes:
        name: Name for logs and runs.
        folder: Where its images are.
    """

    name: str
    folder: Path


def find_layout(root: Path) -> Layout:
    """Return the edition of CelebA-HQ in `root`, or a tree of images (or of Parquet files).

    Of an archive that holds other images beside the photos, as CelebAMask-HQ does, only the folder of photos counts.

    Raises:
        DataError: A folder cannot be read.
    """
    try:
        return _find_layout(root)
    except OSError as error:
        raise closed("images", root, error) from error


def _find_layout(root: Path) -> Layout:
    for folder, name in EDITIONS.items():
        if root.name == folder:
            return Layout(name, root)
    inside = [folder for folder in EDITIONS if (root / folder).is_dir()]
    if len(inside) == 1:
        return Layout(EDITIONS[inside[0]], root / inside[0])
    if (root / "celeba_hq").is_dir() and _has_sexes(root / "celeba_hq"):
        root = root / "celeba_hq"
    if _has_sexes(root):
        return Layout("celeba_hq (train and val, male and female)", root)
    if next(find_tables(root), None):
        return Layout("Hugging Face Parquet", root)
    return Layout("tree of images", root)


def _has_sexes(folder: Path) -> bool:
    return any(
        (folder / split).is_dir() and {path.name.lower() for path in (folder / split).iterdir()} >= _SEXES
        for split in ("train", "val")
    )


def first_number(numbers: Sequence[int], names: Sequence[str], total: int) -> int:
    """Return whether images named by number are counted from 0 or from 1.

    From 1 if `total` exists and 0 does not, or, for a part of the set, if the names are padded as in `data256x256`
    (`00001.jpg`) and 0 does not exist. Every other edition counts from 0.

    Args:
        numbers: The numbers.
        names: The names without their suffix.
        total: Images in the whole set.
    """
    if 0 in numbers:
        return 0
    padded = bool(names) and all(re.fullmatch(r"\d{5,6}", name) for name in names) and any(n < 10000 for n in numbers)
    return 1 if total in numbers or padded else 0


def split_images(root: Path, paths: Sequence[Path], split_rule: str = "auto") -> tuple[Split, str]:
    """Divide `paths` below `root`, and return the rule that was used.

    `auto` takes the first of these that fits:

    1. `folders`: by `train/`, `val/` (or `valid/`, `validation/`) and `test/` in `root`, if any is there.
       Without `val/`, a fixed 5 % of `train/` by the hash below become val, which the name of the rule says.
    2. `celeba`: by CelebA's partition, if its two text files are in `root` or up to two folders above.
    3. `hash`: by a hash of the file name without its suffix, 90 % train, 5 % val, 5 % test; see `hashed_fractions`.

    Any other rule is a folder of file lists, see `read_lists`.

    Raises:
        WSSLError: The rule is none of these, or does not fit the files.
    """
    if split_rule in ("auto", "folders"):
        by_folder = _by_folder(root, paths)
        if any(by_folder.values()):
            if spare := len(paths) - sum(map(len, by_folder.values())):
                warn("images=%s: %d images are in none of train, val and test: they are omitted", root, spare)
            return with_val(root, by_folder, "folders")
        if split_rule == "folders":
            raise WSSLError("split_rule", split_rule, f"{root} has no train, val or test folder with images")
    if split_rule in ("auto", "celeba"):
        # Above a link, as above what it leads to.
        for folder in dict.fromkeys((root, *root.absolute().parents[:2], *root.resolve().parents[:2])):
            mapping, partition = folder / MAPPING_FILE, folder / PARTITION_FILE
            if mapping.is_file() and partition.is_file():
                return _by_celeba(root, paths, celeba_hq_partition(mapping, partition)), "celeba"
        if split_rule == "celeba":
            reason = f"{MAPPING_FILE} and {PARTITION_FILE} are missing"
            raise WSSLError("split_rule", split_rule, reason, f"put them into {root}")
    if split_rule not in RULES:
        return _by_lists(root, paths, Path(split_rule)), f"lists in {split_rule}"
    split: Split = {name: [] for name in SPLITS}
    for path, fraction in hashed_fractions(root, paths).items():
        split["train" if fraction < 0.90 else "val" if fraction < VAL_FROM else "test"].append(path)
    names = set(_without_suffix(paths).values())
    return split, "hash" if len({name.name for name in names}) == len(names) else "hash, paths of recurring names"


def hashed_fractions(root: Path, paths: Sequence[Path]) -> dict[Path, float]:
    """Return for each path a fixed number in [0, 1) that belongs to its file name, the same on every machine.

    The suffix of an image file does not count, so that `00001.jpg` and `00001.png` are in the same split. A name that
    several folders have counts with its path below `root`: else all images called `front.jpg` would be in one split.
    """
    names = _without_suffix(paths)
    counts = Counter(name.name for name in set(names.values()))
    return {
        path: _hashed(name.name if counts[name.name] == 1 else name.relative_to(root).as_posix())
        for path, name in names.items()
    }


def _without_suffix(paths: Sequence[Path]) -> dict[Path, Path]:
    # A row of a Parquet file is called `<file>.parquet#<row>`: that is no suffix.
    return {path: path.with_suffix("") if path.suffix.lower() in SUFFIXES else path for path in paths}


def _hashed(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6]) / 2.0**48


def celeba_hq_partition(mapping: Path, partition: Path) -> list[str]:
    """Return the split of each CelebA-HQ image by its 0-based number.

    The mapping's `orig_idx` counts CelebA's images from 0, the partition names them from `000001.jpg`: the join is
    by file name (`orig_file`), as taking the one number for the other gives an image its neighbour's split.

    Args:
        mapping: Lines of `idx orig_idx [orig_file]` after a header.
        partition: Lines of `000001.jpg 0` with 0 = train, 1 = val, 2 = test.

    Raises:
        DataError: They cannot be read, or do not fit together.
    """
    try:
        rows = [line.split() for line in partition.read_text().splitlines() if line.strip()]
        split_of = {name: SPLITS[int(number)] for name, number, *_ in rows}
        rows = [line.split() for line in mapping.read_text().splitlines() if line.strip()]
        rows = sorted((fields for fields in rows if fields[0].isdecimal()), key=lambda fields: int(fields[0]))
        originals = [fields[2] if len(fields) > 2 else f"{int(fields[1]) + 1:06d}.jpg" for fields in rows]
        if [int(fields[0]) for fields in rows] != list(range(len(rows))):
            raise ValueError("numbers are missing")
    except (OSError, ValueError, LookupError) as error:
        why = f"{mapping.name} or {partition.name} {reason(error)}"
        raise DataError("split_rule", "celeba", why, "download the files again") from error
    if missing := [name for name in originals if name not in split_of]:
        why = f"{partition} has no line for {missing[0]}, which {mapping.name} names"
        raise DataError("split_rule", "celeba", why, "download the file again")
    return [split_of[name] for name in originals]


def _by_folder(root: Path, paths: Sequence[Path]) -> Split:
    split: Split = {name: [] for name in SPLITS}
    for path in paths:
        parts = path.relative_to(root).parts
        if len(parts) > 1 and parts[0].lower() in FOLDERS:
            split[FOLDERS[parts[0].lower()]].append(path)
    return split


def with_val(root: Path, split: Split, rule: str) -> tuple[Split, str]:
    """Return a split without val with a fixed part of train as val, at least one image, and the name of the rule."""
    if split["val"] or len(split["train"]) < 2:
        return split, rule
    fractions = hashed_fractions(root, split["train"])
    least = min(VAL_FROM, max(fractions.values()))
    split = split | {
        "train": [path for path, fraction in fractions.items() if fraction < least],
        "val": [path for path, fraction in fractions.items() if fraction >= least],
    }
    return split, f"{rule}, {1 - VAL_FROM:.0%} of train for val"


def _by_celeba(root: Path, paths: Sequence[Path], partition: Sequence[str]) -> Split:
    split: Split = {name: [] for name in SPLITS}
    numbers = {path: int(path.stem) for path in paths if path.stem.isdecimal()}
    names = [] if root.name in FROM_0 else [path.stem for path in numbers]
    first = first_number(list(numbers.values()), names, len(partition))
    for path in paths:
        number = numbers.get(path, -1) - first
        if not 0 <= number < len(partition):
            reason = f"has no entry in {MAPPING_FILE}, which numbers 0 to {len(partition) - 1}"
            raise DataError("images", path, reason, f"remove the file, or {PARTITION_FILE} to split by file names")
        split[partition[number]].append(path)
    return split


def read_lists(folder: Path) -> dict[str, list[str]]:
    """Return the names in a folder's file lists: one image per line in `train*`, `val*` and `test*`, flist or txt.

    LaMa's `train_shuffled.flist`, `val_shuffled.flist` and `visual_test_shuffled.flist` are such lists.

    Raises:
        WSSLError: The folder or every list is missing.
    """
    starts = {"train": "train", "val": "val", "test": "test", "visual_test": "test"}
    if not folder.is_dir():
        raise WSSLError("split_rule", folder, f"is neither {', '.join(RULES)} nor a folder of file lists")
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        split = next((split for start, split in starts.items() if path.name.startswith(start)), None)
        if split and path.suffix in (".flist", ".txt", ".lst") and path.is_file():
            try:
                lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
            except OSError as error:
                raise DataError("split_rule", path, reason(error)) from error
            found.setdefault(split, []).extend(line.strip() for line in lines if line.strip())
    if not found:
        raise WSSLError("split_rule", folder, "holds no train, val or test list (train.flist or train.txt)")
    return found


def _by_lists(root: Path, paths: Sequence[Path], folder: Path) -> Split:
    """Divide by lists of paths or names, else of numbers: LaMa's lists count from 0 what others name from 1."""
    lists = read_lists(folder)
    split_of = {name: split for split, names in lists.items() for name in names}
    twice = sum(map(len, lists.values())) - len(split_of)
    if twice:
        raise DataError("split_rule", folder, f"{twice} lines name an image that another line names too")
    by_path = {path: split_of.get(path.relative_to(root).as_posix(), split_of.get(path.name)) for path in paths}
    stems = {path: path.stem for path in paths if path.stem.isdecimal()}
    numbered = {name: Path(name).stem for name in split_of if Path(name).stem.isdecimal()}
    listed = {int(stem): split_of[name] for name, stem in numbered.items()}
    numbers = {path: int(stem) for path, stem in stems.items()}
    first_file = first_number(list(numbers.values()), list(stems.values()), len(listed))
    first_line = first_number(list(listed), list(numbered.values()), len(listed))
    there = {path.relative_to(root).as_posix() for path in paths} | {path.name for path in paths}
    exact = split_of.keys() <= there or (any(by_path.values()) and (not listed or first_file == first_line))
    if not exact and len(listed) < len(numbered):
        why = "its lists give several images one number, and do not name them as they are"
        raise DataError("split_rule", folder, why, f"list paths below {root}, with their suffixes")
    lines = {path: number - first_file + first_line for path, number in numbers.items()}
    split: Split = {name: [] for name in SPLITS}
    for path in paths:
        part = by_path[path] if exact else listed.get(lines.get(path, -1))
        if part:
            split[part].append(path)
    known = len(split_of.keys() & there) if exact else len(listed.keys() & set(lines.values()))
    if spare := len(split_of) - known:
        warn("split_rule=%s: %d of %d lines name no image of %s", folder, spare, len(split_of), root)
    if not any(split.values()):
        raise DataError("split_rule", folder, f"its lists name none of the {len(paths)} images in {root}")
    return split
