"""Photos to try the page with: faces drawn by code, and one that another package ships."""

import importlib.util
import shutil
from pathlib import Path

from PIL import Image

from wssl_pl.synthetic import draw_face

SIDE = 512
SEEDS = (27, 9, 22, 38, 15)


def make_examples(folder: Path) -> list[Path]:
    """Writes the examples into a folder and returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for seed in SEEDS:
        photos.append(folder / f"face-{seed}.png")
        Image.fromarray(draw_face(seed, SIDE)).save(photos[-1], compress_level=1)
    astronaut = shipped_astronaut()
    if astronaut:
        photos.append(folder / "astronaut.png")
        shutil.copyfile(astronaut, photos[-1])
    return photos


def shipped_astronaut() -> Path | None:
    """Scikit-image's photo of Eileen Collins, by NASA and in the public domain, where it is installed.

    Its own `skimage.data.astronaut()` would fetch what is not there.
    """
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "data" / "astronaut.png"
    return path if path.is_file() else None
