"""Draw hole masks by QD-IMD's recipe: black strokes on white, in its names and folders.

QD-IMD (Iskakov 2018, "Semi-parametric image inpainting") lays people's strokes from Quick, Draw! over each other: their
number from N(4, 2), their width from U(5, 15) px, magnified by U(1, 1.5), the centre 512 px kept, and cut to black and
white. One stroke is taken from a drawing. A drawing has 256 px, and widths are in these: in the mask's 512 px, a
stroke is twice as wide. Read otherwise, hardly a mask would reach the 30 % that QD-IMD's have on average.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from wssl_pl.errors import DataError, WSSLError
from wssl_pl.files import check_readable, writing
from wssl_pl.synthetic import random_stroke

SIZE = 512
STROKES = (4.0, 2.0)
WIDTH = (5.0, 15.0)
UPSCALE = (1.0, 1.5)
TEST_FRACTION = 1 / 6
"""Of QD-IMD's 60,000 masks 10,000 are for testing."""
_DRAWING_SIZE = 256


Strokes = Callable[[Generator, bool], NDArray[np.float64]]
"""Returns the points of a stroke, for training or for testing, as `(N, 2)` (x, y) in [0, 1]."""


def random_strokes(rng: Generator, test: bool) -> NDArray[np.float64]:
    """Return a smooth random line: a heading that turns by a little more or less at every step."""
    return random_stroke(rng)


class DrawnStrokes:
    """Strokes of a Quick, Draw! file of drawings, one JSON object per line; half of the drawings are kept for testing.

    Both the simplified files (coordinates from 0 to 255) and the raw ones (any range, with times) are read.

    Args:
        path: The file.

    Raises:
        WSSLError: It cannot be read, or holds fewer than two drawings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        starts = [0]
        check_readable(path, "drawings")
        if not path.is_file():
            raise DataError("drawings", path, "is not a file")
        with path.open("rb") as file:
            starts += [file.tell() for _ in iter(file.readline, b"")]
        self.starts = np.array(starts[:-1], np.int64)
        if len(self.starts) < 2:
            raise DataError("drawings", path, f"holds {len(self.starts)} drawings, at least 2 are needed")

    def __call__(self, rng: Generator, test: bool) -> NDArray[np.float64]:
        """Return a stroke of a random drawing; see `Strokes`."""
        half = np.arange(len(self.starts))[int(test) :: 2]
        line = int(rng.choice(half))
        with self.path.open("rb") as file:
            file.seek(int(self.starts[line]))
            content = file.readline()
        try:
            drawing = [np.array(stroke[:2], np.float64).T for stroke in json.loads(content)["drawing"]]
            points = drawing[int(rng.integers(len(drawing)))]
            everything = np.concatenate(drawing)
            if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(everything).all():
                raise ValueError("a stroke is two lists of numbers")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            why = f"line {line + 1} is no drawing of Quick, Draw!: {error}"
            raise DataError("drawings", self.path, why) from error
        low, high = everything.min(0), everything.max(0)
        simplified = low.min() >= 0 and high.max() < _DRAWING_SIZE
        return points / (_DRAWING_SIZE - 1) if simplified else (points - low) / max((high - low).max(), 1)


def draw_mask(strokes: Strokes, rng: Generator, test: bool) -> Image.Image:
    """Return a mask of 512 px, mode `1`: black strokes (holes) on white, at least one pixel of them."""
    while True:
        scale = rng.uniform(*UPSCALE)
        side = round(SIZE * scale)
        image = Image.new("L", (side, side), 255)
        draw = ImageDraw.Draw(image)
        for _ in range(max(1, round(rng.normal(*STROKES)))):
            points = strokes(rng, test) * (side - 1)
            _line(draw, points, rng.uniform(*WIDTH) * side / _DRAWING_SIZE)
        left = (side - SIZE) // 2
        mask = image.crop((left, left, left + SIZE, left + SIZE)).convert("1", dither=Image.Dither.NONE)
        if mask.getextrema()[0] == 0:
            return mask


def _line(draw: ImageDraw.ImageDraw, points: NDArray[np.float64], width: float) -> None:
    draw.line([(x, y) for x, y in points.tolist()], fill=0, width=max(1, round(width)), joint="curve")
    radius = width / 2
    for x, y in (points[0].tolist(), points[-1].tolist()):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)


def make_masks(out: Path, count: int, strokes: Strokes, seed: int = 0, progress: bool = False) -> dict[str, int]:
    """Draw `count` masks into `out/train` and `out/test`; a mask depends on its number and the seed alone.

    Returns:
        How many there are in each.

    Raises:
        WSSLError: `out` is not empty or cannot be written, or a number is out of range.
        DataError: A drawing cannot be read.
    """
    if count < 2:
        raise WSSLError("count", count, "must be at least 2, one for training and one for testing")
    if seed < 0:
        raise WSSLError("seed", seed, "must be at least 0")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WSSLError("out", out, "is not empty", "name a new folder")
    tests = max(1, round(count * TEST_FRACTION))
    counts = {"train": count - tests, "test": tests}
    with writing("out", out), tqdm(total=count, unit=" masks", disable=None if progress else True) as bar:
        for name, total in counts.items():
            (out / name).mkdir(parents=True)
            for number in range(total):
                rng = Generator(PCG64([seed, int(name == "test"), number]))
                draw_mask(strokes, rng, name == "test").save(out / name / f"{number:05d}_{name}.png")
                bar.update()
    return counts
