"""Another program's outputs: a folder of pictures matched to the pairs by name."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wssl_pl.data.files import SUFFIXES, reason
from wssl_pl.errors import DataError, UsageError


class Predictions:
    """The pictures of a folder, `NAME.png` for the pair NAME; never resized, never converted in silence.

    Args:
        folder: where they lie.
        names: the pairs that are wanted.
        known: all pairs of the pairs folder, of which `names` may be a beginning.
        size: side in pixels that they must have.
        allow_missing: measure those that are there and leave out the others.

    Raises:
        UsageError: pictures are missing, extra or named twice.
    """

    def __init__(
        self, folder: str | Path, names: Sequence[str], known: Sequence[str], size: int, allow_missing: bool = False
    ) -> None:
        self.folder, self.size = Path(folder), size
        self.name = self.folder.name or str(self.folder)
        self.notes: list[str] = []
        if not self.folder.is_dir():
            raise UsageError(f"predictions={folder} is not a folder")
        self.files: dict[str, Path] = {}
        twice = []
        for path in sorted(self.folder.iterdir()):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                if path.stem in self.files:
                    twice.append(path.stem)
                self.files[path.stem] = path
        if twice:
            raise UsageError(f"predictions={folder} names pictures twice: {_some(twice)}")
        problems = []
        for what, which in (
            ("missing", [name for name in names if name not in self.files]),
            ("extra or misnamed", sorted(set(self.files) - set(known))),
        ):
            if which:
                problems.append(f"{len(which)} {what}: {_some(which)}")
        if not set(names) & set(self.files):
            problems.insert(0, f"no picture has the name of a pair ({_some(list(names), 2)}.png)")
            allow_missing = False
        if problems:
            line = f"predictions={folder}: {'; '.join(problems)}"
            if not allow_missing:
                raise UsageError(f"{line} (allow_missing=true measures those that match)")
            self.notes.append(line)
        lossy = sum(path.suffix.lower() != ".png" for path in self.files.values())
        if lossy:
            self.notes.append(f"{lossy} predictions are not PNG: their compression is measured too")

    def has(self, name: str) -> bool:
        """Whether the pair has a prediction."""
        return name in self.files

    def __call__(self, names: Sequence[str], images: Tensor, masks: Tensor) -> Tensor:
        """The pictures `(B, 3, H, W)` in [0, 1]; see :class:`~wssl_pl.evaluation.methods.Method`."""
        with ThreadPoolExecutor(2) as pool:
            pictures = list(pool.map(lambda name: read_prediction(self.files[name], self.size), names))
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255)

    def describe(self) -> dict[str, str]:
        """What a result keeps of it."""
        return {"predictions": str(self.folder)}


def read_prediction(path: Path, size: int) -> NDArray[np.uint8]:
    """A picture as `(size, size, 3)` uint8.

    Raises:
        DataError: it cannot be read, or is not 8-bit RGB of that size.
    """
    try:
        with Image.open(path) as image:
            if image.size != (size, size):
                width, height = image.size
                raise DataError(f"{path} is {width} x {height} px, the pairs are {size} x {size}: never resized here")
            # Pillow reads 16-bit RGB as 8 bit without a word; the depth stands in the PNG header.
            deep = image.mode.startswith(("I", "F")) or (image.format == "PNG" and _png_depth(path) > 8)
            if deep:
                raise DataError(f"{path} has more than 8 bits per channel, the pairs have 8: save it as 8-bit RGB")
            if image.mode != "RGB":
                kind = "grey" if image.mode in ("L", "1", "LA") else f"of mode {image.mode}"
                raise DataError(f"{path} is {kind}, the pairs are RGB: save it as 8-bit RGB")
            return np.asarray(image)
    except DataError:
        raise
    except Exception as error:
        # Pillow's decoders raise whatever their format's parser does.
        raise DataError(f"{path} {reason(error)}") from error


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
