"""The picture of docs/better.md: what the arms of the study `better` make of pictures that may be published.

    python benchmarks/better_strip.py runs/study/better --arms plain alexnet psnr sharp --out docs/better.jpg

A row for each arm whose first seed is trained, of the composites at the size of the training; the pictures are those
of the README's gallery, with a square hole of a ninth of the image and strokes beside it. A look, and no evidence.
"""

import argparse
from pathlib import Path

from gallery import PAINT, pictures, strokes
from PIL import Image, ImageDraw, ImageFont

from wssl_pl.inference import Inpainter
from wssl_pl.study.results import read_results

SIDE, GAP, LEFT = 128, 4, 190


def hole(seed: int) -> Image.Image:
    """Return strokes and a square beside the middle, white on black."""
    mask = strokes(seed).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    x, y = 30 + 13 * seed % 40, 40 + 29 * seed % 30
    ImageDraw.Draw(mask).rectangle((x, y, x + SIDE // 3, y + SIDE // 3), fill=255)
    return mask


def main() -> None:
    """Draw the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("--out", type=Path, default=Path("docs/better.jpg"))
    parser.add_argument("--arms", nargs="+", help="which, in this order; default: all")
    options = parser.parse_args()
    results = read_results(options.study)
    if unknown := set(options.arms or ()) - results.study.arms.keys():
        parser.error(f"--arms: {', '.join(unknown)}: there are {', '.join(results.study.arms)}")
    images = [picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for picture in pictures()]
    masks = [hole(number) for number in range(len(images))]
    painted = [image.copy() for image in images]
    for image, mask in zip(painted, masks, strict=True):
        image.paste(PAINT, mask=mask)
    rows = [("painted", painted)]
    for name in options.arms or results.study.arms:
        arm, runs = results.study.arms[name], results.measured(name)
        if runs:
            best = options.study / "runs" / next(iter(runs.values())).id / "best.ckpt"
            fill = Inpainter.from_checkpoint(best, "cpu")
            rows.append((arm.label, [fill(image, mask) for image, mask in zip(images, masks, strict=True)]))
    rows.append(("truth", images))
    sheet = Image.new("RGB", (LEFT + len(images) * (SIDE + GAP), len(rows) * (SIDE + GAP) - GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, (label, shown) in enumerate(rows):
        top = row * (SIDE + GAP)
        words, lines = label.split(), [""]
        for word in words:
            longer = f"{lines[-1]} {word}".strip()
            lines[-1:] = [longer] if draw.textlength(longer, font) < LEFT - 12 else [lines[-1], word]
        draw.multiline_text((4, top + 8), "\n".join(lines), fill="black", font=font)
        for column, image in enumerate(shown):
            sheet.paste(image, (LEFT + column * (SIDE + GAP), top))
    sheet.save(options.out, quality=88)


if __name__ == "__main__":
    main()
