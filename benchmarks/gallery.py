"""The README's gallery: pictures that may be published, with brush strokes over them, and what a model makes of them.

    python benchmarks/gallery.py --out docs/gallery.jpg [--ckpt runs/downstream/<run>/best.ckpt]

Two portraits drawn by code (the synthetic dataset), and photographs that scikit-image ships: NASA's portrait of Eileen
Collins (public domain), a cat and a cup of coffee (both CC0).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from wssl_pl.inference import Inpainter
from wssl_pl.synthetic import draw_face

SIDE, GAP = 224, 6
PAINT = (255, 64, 160)


def pictures() -> list[Image.Image]:
    """Squares of `SIDE` px."""
    crops = [
        (data.astronaut(), (110, 0, 366, 256)),
        (data.chelsea(), (60, 0, 360, 300)),
        (data.coffee(), (120, 0, 520, 400)),
    ]
    photographs = [Image.fromarray(pixels).crop(box) for pixels, box in crops]
    portraits = [Image.fromarray(draw_face(seed, SIDE)) for seed in (27, 38)]
    return [picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for picture in (*photographs, *portraits)]


def strokes(seed: int) -> Image.Image:
    """Three strokes of a brush 12 px wide, white on black."""
    rng = np.random.default_rng(seed)
    mask = Image.new("L", (SIDE, SIDE), 0)
    draw = ImageDraw.Draw(mask)
    for _ in range(3):
        points = [tuple(point) for point in rng.uniform(0.1 * SIDE, 0.9 * SIDE, (3, 2)).tolist()]
        draw.line(points, fill=255, width=12, joint="curve")
    return mask


def main() -> None:
    """Draws the gallery: the painted pictures above, the repaired ones below."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/gallery.jpg"))
    parser.add_argument("--ckpt", type=Path, help="default: the shipped model")
    args = parser.parse_args()
    inpainter = Inpainter.from_checkpoint(args.ckpt)
    shown = pictures()
    sheet = Image.new("RGB", (len(shown) * (SIDE + GAP) - GAP, 2 * SIDE + GAP), "white")
    for column, picture in enumerate(shown):
        mask = strokes(column)
        painted = picture.copy()
        painted.paste(PAINT, mask=mask)
        for row, drawn in enumerate((painted, inpainter(picture, mask))):
            sheet.paste(drawn, (column * (SIDE + GAP), row * (SIDE + GAP)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, quality=90)
    print(args.out)


if __name__ == "__main__":
    main()
