"""Recognise the editions of CelebA-HQ by the folders that they come in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# An archive's folder of photographs, and what the edition is called. CelebAMask-HQ keeps its label pictures beside it.
EDITIONS = {
    "CelebA-HQ-img": "CelebAMask-HQ",
    "data1024x1024": "data1024x1024",
    "data512x512": "data512x512",
    "data256x256": "data256x256",
    "data128x128": "data128x128",
    "celeba_hq_1024": "celeba_hq_1024",
    "celeba_hq_512": "celeba_hq_512",
    "celeba_hq_256": "celeba_hq_256",
}
_SEXES = {"male", "female"}


@dataclass(frozen=True)
class Layout:
    """What a folder of images was recognised as.

    Attributes:
        name: For people, as it goes into logs and runs.
        folder: Where its images are.
    """

    name: str
    folder: Path


def find_layout(root: Path) -> Layout:
    """The edition of CelebA-HQ in ``root``, found by looking, else a tree of images (or of Parquet files).

    Of an archive that holds other pictures beside the photographs, as CelebAMask-HQ does, only its folder of
    photographs counts.
    """
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
    if next(root.glob("*.parquet"), None) or next(root.glob("*/*.parquet"), None):
        return Layout("Hugging Face Parquet", root)
    return Layout("tree of images", root)


def _has_sexes(folder: Path) -> bool:
    return any(
        (folder / split).is_dir() and {path.name.lower() for path in (folder / split).iterdir()} >= _SEXES
        for split in ("train", "val")
    )


def first_number(numbers: Sequence[int], names: Sequence[str], total: int) -> int:
    """Whether images named by number are counted from 0 or from 1.

    From 1 if ``total`` is there and 0 is not, or, of a part of the set, if the names are padded as in ``data256x256``
    (``00001.jpg``) and 0 is not there. Every other edition counts from 0.

    Args:
        numbers: The numbers.
        names: The names without their suffix.
        total: Images in the whole set.
    """
    if 0 in numbers:
        return 0
    padded = bool(names) and all(re.fullmatch(r"\d{5,6}", name) for name in names) and any(n < 10000 for n in numbers)
    return 1 if total in numbers or padded else 0
