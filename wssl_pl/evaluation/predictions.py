"""Another program's outputs: a folder of images matched to the pairs by name."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wssl_pl.data.files import FORMATS
from wssl_pl.errors import DataError
from wssl_pl.evaluation.files import is_deep, join, match_files, one_form, reading


class Predictions:
    """The images of a folder, `NAME.png` for the pair NAME; never resized, never converted without a warning.

    Args:
        source: the folder, or a pattern such as `DIR/*_output.png`, whose `*` is the name.
        names: the pairs that are wanted.
        known: all pairs of the pairs folder, of which `names` may be a beginning.
        allow_missing: measure those that exist and omit the others.

    Raises:
        DataError: Images are missing, extra or named twice.
    """

    def __init__(
        self, source: str | Path, names: Sequence[str], known: Sequence[str], allow_missing: bool = False
    ) -> None:
        self.source = source
        self.name = Path(source).name or str(source)
        self.notes: list[str] = []
        self.files = match_files(source, "predictions")
        missing = [name for name in names if not self.has(name)]
        extra = sorted(set(self.files) - {one_form(name) for name in known})
        problems = [f"{len(missing)} missing: {join(missing)}"] if missing else []
        problems += [f"{len(extra)} extra or misnamed: {join(extra)}"] if extra else []
        if len(missing) == len(names):
            problems.insert(0, f"no image has the name of a pair ({join(list(names), 2)})")
        elif problems and allow_missing:
            self.notes.append(f"predictions={source}: {'; '.join(problems)}")
            problems = []
        if problems:
            remedy = None if len(missing) == len(names) else "allow_missing=true measures those that match"
            raise DataError("predictions", source, "; ".join(problems), remedy)
        lossy = sum(path.suffix.lower() != ".png" for path in self.files.values())
        if lossy:
            self.notes.append(f"{lossy} predictions are not PNG: their compression is measured too")

    def has(self, name: str) -> bool:
        """Return whether the pair has a prediction."""
        return one_form(name) in self.files

    def __call__(self, names: Sequence[str], images: Tensor, masks: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)` in [0, 1]; see `wssl_pl.evaluation.methods.Method`."""
        size = images.shape[-1], images.shape[-2]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda name: read_prediction(self.files[one_form(name)], size), names))
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float().div_(255)

    def describe(self) -> dict[str, str]:
        """Return what a result keeps of it."""
        return {"predictions": str(self.source)}


def read_prediction(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image as `(height, width, 3)` uint8.

    Args:
        path: its file.
        size: the width and height that it must have.

    Raises:
        DataError: It cannot be read, or is not 8-bit RGB of that size.
    """
    with reading("predictions", path), Image.open(path, formats=FORMATS) as image:
        if image.size != size:
            sizes = [f"{width} x {height}" for width, height in (image.size, size)]
            raise DataError("predictions", path, f"is {sizes[0]} px, the pair is {sizes[1]}: never resized here")
        if is_deep(image, path):
            raise DataError("predictions", path, "has more than 8 bits per channel", "save it as 8-bit RGB")
        if image.mode != "RGB":
            kind = "grey" if image.mode in ("L", "1", "LA") else f"of mode {image.mode}"
            raise DataError("predictions", path, f"is {kind}, the pairs are RGB", "save it as 8-bit RGB")
        return np.asarray(image)
