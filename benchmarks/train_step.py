"""Images per second of the bare network step, of the step with tasks and losses, and of the whole Lightning loop.

    python benchmarks/train_step.py --width 16 --json benchmarks/results/train_step.json

The three are measured in turn, round by round, and compared within each round, because shared machines drift.
`bare` is forward, backward and Adam on random tensors; `step` adds the conversion of the uint8 batch, the pretext
tasks and the losses; `loop` is the command line's own training, from image files on disk, or with `--cache` from the
cache that `wssl prepare` makes of them.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from steps import STAGES, bare_step, full_step, loop, machine, make_module, optimiser_step, seconds

from wssl_pl.cli import run as run_command
from wssl_pl.synthetic import synthetic_faces, synthetic_masks

SIZE, RESIZE = 224, 256


def write_images(folder: Path, count: int) -> None:
    """Leaves `count` drawn faces as 256-px JPEG and some masks as PNG, black = hole, in `folder`."""
    for split, number in (("train", count), ("val", 8)):
        (folder / "images" / split).mkdir(parents=True)
        drawn = synthetic_faces("train", RESIZE, min(number, 64))
        for index in range(number):
            Image.fromarray(drawn[index % len(drawn)]).save(folder / "images" / split / f"{index:05d}.jpg", quality=95)
    for split in ("train", "test"):
        (folder / "masks" / split).mkdir(parents=True)
        for index, mask in enumerate(synthetic_masks("train", SIZE, (0.3, 0.5), 32)):
            Image.fromarray(np.where(mask, 0, 255).astype(np.uint8)).save(
                folder / "masks" / split / f"{index:05d}_{split}.png"
            )


def measure(width: int, batch: int, steps: int, rounds: int, cache: bool = False) -> dict[str, Any]:
    """All figures: images per second, medians over the rounds, with the spread and the ratios within rounds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    raw: dict[str, dict[str, list[float]]] = {stage: {"bare": [], "step": [], "loop": []} for stage in STAGES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm_up = max(2, steps // 4)
        write_images(folder, batch * (steps + warm_up))
        images = folder / "images"
        if cache:
            run_command(["prepare", f"images={images}", f"out={folder / 'cache'}"])
            images = folder / "cache"
        sources = (f"--data.images={images}", f"--data.masks={folder}/masks")
        for turn in range(rounds):
            for stage in STAGES:
                module = make_module(stage, width).to(device)
                losses = {"bare": bare_step(module, batch, SIZE), "step": full_step(module, batch, SIZE, RESIZE)}
                for kind, loss in losses.items():
                    (taken,) = seconds(optimiser_step(module, loss), device, repeats=1, calls=steps)
                    raw[stage][kind].append(batch / taken)
                run = folder / f"{stage}{turn}"
                raw[stage]["loop"].append(loop(stage, width, batch, warm_up, SIZE, RESIZE, run, *sources))
    result: dict[str, Any] = {stage: {k: statistics.median(v) for k, v in raw[stage].items()} for stage in STAGES}
    for stage in STAGES:
        for over in ("bare", "step"):
            ratios = [a / b for a, b in zip(raw[stage]["loop"], raw[stage][over], strict=True)]
            result[stage][f"loop/{over}"] = statistics.median(ratios)
    result["spread"] = {s: {k: (max(v) - min(v)) / statistics.median(v) for k, v in raw[s].items()} for s in STAGES}
    result["rounds"] = raw
    result["settings"] = {"width": width, "batch": batch, "steps": steps, "size": SIZE, "cache": cache}
    result["machine"] = machine()
    return result


def main() -> None:
    """Measures, prints a table, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", action="store_true", help="train from the prepared cache instead of the files")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args.width, args.batch, args.steps, args.rounds, args.cache)
    print(f"{'images/s':<12}{'bare':>8}{'step':>8}{'loop':>8}{'loop/bare':>11}{'loop/step':>11}")
    for stage in STAGES:
        row = result[stage]
        print(
            f"{stage:<12}{row['bare']:>8.1f}{row['step']:>8.1f}{row['loop']:>8.1f}"
            f"{row['loop/bare']:>11.2f}{row['loop/step']:>11.2f}"
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
