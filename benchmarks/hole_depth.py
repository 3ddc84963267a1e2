"""How deep a hole a model should fill at once: strokes and boxes, by `hole_depth` of `wssl export safetensors`.

    WSSL_WEIGHTS=FOLDER python benchmarks/hole_depth.py --data DATA --name hole_depth
    WSSL_WEIGHTS=FOLDER python benchmarks/hole_depth.py --data DATA --ckpt MODEL

Every fourth validation face at the model's training size, under QD-style strokes of 30-50 % and under a box whose sides
are 5/16 to 5/8 of the image's, filled as by `wssl inpaint`: PSNR and LPIPS of the composite. With `--name` they are
written to `NAME.json` in benchmarks/results.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wssl_pl.data import WSSLDataModule
from wssl_pl.evaluation.evaluate import machine
from wssl_pl.evaluation.perceptual import LPIPS, open_metric
from wssl_pl.inference import Inpainter
from wssl_pl.inference.engine import fill_images
from wssl_pl.models import open_model

DEPTHS = (0.1, 0.2, 0.3, 0.35, 0.4)
STEP = 4  # of the validation images


def box(side: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return one box, `(side, side)`, True in it."""
    mask = np.zeros((side, side), bool)
    height, width = rng.integers(5 * side // 16, 5 * side // 8, 2)
    top, left = rng.integers(side - height), rng.integers(side - width)
    mask[top : top + height, left : left + width] = True
    return mask


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with celeba_hq and qd_imd")
    parser.add_argument("--ckpt", type=Path, help="default: the shipped model")
    parser.add_argument("--name", help="of the file in benchmarks/results; default: the results are printed alone")
    options = parser.parse_args()
    predictor = open_model(options.ckpt, "cpu")
    side = predictor.info.side
    faces, masks = str(options.data / "celeba_hq"), str(options.data / "qd_imd")
    data = WSSLDataModule(faces, masks, image_size=side, resize=side * 256 // 224, batch_size=STEP, num_workers=0)
    data.setup("validate")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    images = [batch["image"][0] for batch in batches]
    rng = np.random.default_rng(0)
    holes = {
        "strokes": [batch["mask"][0, 0].numpy() > 0.5 for batch in batches],
        "boxes": [box(side, rng) for _ in batches],
    }
    distance, _ = open_metric(LPIPS, None, torch.device("cpu"))
    tiling = Inpainter(predictor).tiling
    found = []
    for kind, of_kind in holes.items():
        for depth in DEPTHS:
            psnr, lpips = [], []
            for image, hole in zip(images, of_kind, strict=True):
                truth = (image * 255).round() / 255
                photo = (truth * 255).to(torch.uint8).permute(1, 2, 0).numpy()
                (filled,) = fill_images([photo], [hole], predictor, replace(tiling, radius=side * depth))
                result = torch.from_numpy(filled).permute(2, 0, 1).float() / 255
                psnr.append(-10 * torch.log10((result - truth).square().mean()).item())
                if distance is not None:
                    lpips.append(distance(result[None], truth[None]).item())
            row = {"holes": kind, "hole_depth": depth, "images": len(psnr), "psnr": float(np.mean(psnr))}
            found.append(row | ({"lpips": float(np.mean(lpips))} if lpips else {}))
            print(found[-1], flush=True)
    if options.name:
        target = Path(__file__).parent / "results" / f"{options.name}.json"
        measured = {"machine": machine(), "model": predictor.info.name, "side": side, "rows": found}
        target.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
