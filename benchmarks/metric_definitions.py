"""How far other common definitions of PSNR, SSIM and L1 are from ours, on the same pictures.

    python benchmarks/metric_definitions.py --data DIR --write

Measures composites of mean fill and of Telea at 224 px on the synthetic dataset and, with `--data` (a folder with
celeba_hq and qd_imd), on real faces. With `--write` it rewrites the table in docs/metrics.md and benchmarks/results.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from blocks import fill_block
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from wssl_pl.data import WSSLDataModule
from wssl_pl.evaluation.evaluate import machine, predict
from wssl_pl.evaluation.methods import Classical
from wssl_pl.evaluation.metrics import measure
from wssl_pl.evaluation.pages import markdown
from wssl_pl.evaluation.pairs import write_pairs
from wssl_pl.metrics import composite

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
METHODS = ("mean", "telea")
LUMA = np.array([0.299, 0.587, 0.114])
Picture = NDArray[np.float64]


def grey(picture: Picture) -> Picture:
    """Luma of BT.601, `(H, W)`."""
    result: Picture = picture @ LUMA
    return result


def gaussian_ssim(a: Picture, b: Picture, **kwargs: Any) -> Picture:
    """scikit-image's map with our window, population variances."""
    full: Picture = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True, **kwargs
    )[1]
    return full


def squared(a: Picture, b: Picture) -> float:
    """Mean squared error."""
    return float(np.mean((a - b) ** 2))


def decibel(error: float) -> float:
    """PSNR of a mean squared error for a data range of 1."""
    return -10.0 * math.log10(error)


# Name: value of one image (prediction, truth, both (H, W, 3) in [0, 1]), and what becomes of the mean over images.
Definition = tuple[Callable[[Picture, Picture], float], Callable[[float], float]]
DEFINITIONS: dict[str, Definition] = {
    "PSNR, mean squared error pooled over all images": (squared, decibel),
    "PSNR of luma": (lambda a, b: decibel(squared(grey(a), grey(b))), float),
    "SSIM, 5 px of the border cropped (scikit-image, Gaussian)": (
        lambda a, b: float(gaussian_ssim(a, b, channel_axis=2)[5:-5, 5:-5].mean()),
        float,
    ),
    "SSIM of luma, Gaussian": (lambda a, b: float(gaussian_ssim(grey(a), grey(b)).mean()), float),
    "SSIM, uniform window of 7 (scikit-image's default)": (
        lambda a, b: float(structural_similarity(a, b, channel_axis=2, data_range=1.0)),
        float,
    ),
    "SSIM of luma, uniform window of 51 (EdgeConnect's script)": (
        lambda a, b: float(structural_similarity(grey(a), grey(b), win_size=51, data_range=1.0)),
        float,
    ),
    "L1, relative: sum of differences over sum of both (EdgeConnect's script)": (
        lambda a, b: float(np.abs(a - b).sum() / (a + b).sum()),
        float,
    ),
}
OURS = {"PSNR": "psnr_composite", "SSIM": "ssim_composite", "L1": "l1_composite"}


def measure_set(datamodule: WSSLDataModule, count: int) -> dict[str, dict[str, float]]:
    """By method and definition (ours under `PSNR`, `SSIM`, `L1`) the mean over the images."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pairs(datamodule, "test", Path(folder) / "pairs")
        for name in METHODS:
            method = Classical(name)
            values: dict[str, list[float]] = {key: [] for key in (*OURS, *DEFINITIONS)}
            for pair in pairs.pairs[:count]:
                image, mask = (part.float() for part in pairs.read([pair]))
                image = image / 255
                prediction = predict(method, [pair], image, mask)
                figures = measure(prediction, image, mask)
                for key, figure in OURS.items():
                    values[key].append(figures[figure].item())
                a, b = (
                    picture[0].permute(1, 2, 0).double().numpy()
                    for picture in (composite(prediction, image, mask), image)
                )
                for key, (value, _) in DEFINITIONS.items():
                    values[key].append(value(a, b))
            found[name] = {key: float(np.mean(numbers)) for key, numbers in values.items()}
            found[name] |= {key: after(found[name][key]) for key, (_, after) in DEFINITIONS.items()}
    return found


def rows(sets: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    """Ours, then the distance of each other definition from it."""
    columns = [(name, method) for name in sets for method in METHODS]
    table = [["", *[f"{name}, {method}" for name, method in columns]]]
    for kind in OURS:
        digits = 2 if kind == "PSNR" else 4
        table.append([f"**{kind}, ours**", *[f"{sets[name][m][kind]:.{digits}f}" for name, m in columns]])
        for definition in DEFINITIONS:
            if definition.startswith(kind):
                cells = [f"{sets[name][m][definition] - sets[name][m][kind]:+.{digits}f}" for name, m in columns]
                table.append([definition, *cells])
    return table


def main() -> None:
    """Measures, and rewrites the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with celeba_hq and qd_imd")
    parser.add_argument("--count", type=int, default=32, help="images of each set")
    parser.add_argument("--write", action="store_true", help="write docs/metrics.md and the file in benchmarks/results")
    args = parser.parse_args()
    if args.write and not args.data:
        parser.error("--write needs --data: the page has both sets")
    sources = {"synthetic": ("synthetic", "synthetic")}
    if args.data:
        sources["faces"] = (str(args.data / "celeba_hq"), str(args.data / "qd_imd"))
    sets = {
        name: measure_set(WSSLDataModule(images, masks, limit=args.count), args.count)
        for name, (images, masks) in sources.items()
    }
    table = markdown(rows(sets))
    print(table)
    if not args.write:
        return
    path = Path(__file__).parent / "results" / "metric_definitions.json"
    kept = {"machine": machine(), "count": args.count, "size": 224, "hole_ratio": [0.3, 0.5], "sets": sets}
    path.write_text(json.dumps(kept, indent=2) + "\n")
    note = f"Composites at 224 px with holes of 30-50 %, {args.count} images of each set."
    PAGE.write_text(fill_block(PAGE.read_text(), "benchmarks/metric_definitions.py", f"{table}\n\n{note}"))


if __name__ == "__main__":
    main()
