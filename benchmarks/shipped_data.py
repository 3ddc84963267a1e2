"""Prepares what the shipped model is trained on, from a folder with celeba_hq, utkface and qd_imd.

    python benchmarks/shipped_data.py DATA --size 144 --out data/shipped     # for training at 128 px
    python benchmarks/shipped_data.py DATA --size 288 --out data/shipped_256 --celeba   # for training at 256 px

images  a cache of CelebA-HQ's images for training and of UTKFace without every tenth; CelebA-HQ's for validation.
        UTKFace's have 200 px: `--celeba` omits them where they would be enlarged, and teach blur
masks   black holes of 5 to 60 %: QD-IMD-style strokes, the same ones thin and widened, boxes, and boxes with strokes

What is there already is not made again.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from where_data import link

from wssl_pl.data.cache import MANIFEST
from wssl_pl.data.files import list_images
from wssl_pl.data.prepare import prepare

SIDE = 512
RATIO = (0.05, 0.6)
KINDS = ("strokes", "thin", "wide", "boxes", "boxes and strokes")
Mask = NDArray[np.bool_]


def boxes(rng: np.random.Generator) -> Mask:
    """Return one to three rectangles, `(512, 512)`, True in them; sides of a tenth to three fifths of the image."""
    mask = np.zeros((SIDE, SIDE), bool)
    for _ in range(rng.integers(1, 4)):
        height, width = rng.integers(SIDE // 10, 3 * SIDE // 5, 2)
        top, left = rng.integers(SIDE - height), rng.integers(SIDE - width)
        mask[top : top + height, left : left + width] = True
    return mask


def changed(strokes: Mask, kind: str, rng: np.random.Generator) -> Mask:
    """Return a mask of one of `KINDS`, made from strokes."""
    pixels = strokes.astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, [int(rng.integers(9, 31))] * 2)
    if kind == "thin":
        return cv2.erode(pixels, disc) > 0
    if kind == "wide":
        return cv2.dilate(pixels, disc) > 0
    if kind == "boxes":
        return boxes(rng)
    return strokes if kind == "strokes" else (cv2.erode(pixels, disc) > 0) | boxes(rng)


def draw(files: list[Path], count: int, seed: int) -> Iterator[Mask]:
    """Yield masks within `RATIO`, each kind in turn."""
    rng = np.random.Generator(np.random.PCG64(seed))
    made = 0
    while made < count:
        file = files[int(rng.integers(len(files)))]
        strokes = np.asarray(Image.open(file).convert("L").resize((SIDE, SIDE), Image.Resampling.NEAREST)) < 128
        mask = changed(strokes, KINDS[made % len(KINDS)], rng)
        if RATIO[0] <= mask.mean() <= RATIO[1]:
            yield mask
            made += 1


def main() -> None:
    """Make both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data/shipped"))
    parser.add_argument("--size", type=int, default=144, help="side of the images in the cache")
    parser.add_argument("--masks", type=int, default=5000, help="number of masks for training")
    parser.add_argument("--celeba", action="store_true", help="without UTKFace")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder)
        link(list_images(options.data / "celeba_hq" / "train"), links / "train" / "celeba")
        if not options.celeba:
            others = sorted(list_images(options.data / "utkface"))
            link([file for number, file in enumerate(others) if number % 10], links / "train" / "utkface")
        link(list_images(options.data / "celeba_hq" / "val"), links / "val")
        if not (options.out / "images" / MANIFEST).is_file():  # an interrupted call is resumed
            prepare(links, options.out / "images", options.size, progress=True)
    files = sorted(list_images(options.data / "qd_imd" / "train"))
    # The last strokes are those of validation's masks alone.
    for split, of_split, count in (("train", files[:-200], options.masks), ("test", files[-200:], 200)):
        target = options.out / "masks" / split
        if target.is_dir():
            continue
        making = target.with_name(f"{split}-unfinished")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        for number, mask in enumerate(draw(of_split, count, seed=len(split))):
            Image.fromarray(np.where(mask, 0, 255).astype(np.uint8)).convert("1").save(making / f"{number:05d}.png")
        making.rename(target)


if __name__ == "__main__":
    main()
