"""Images per second of the bare network step, of the step with tasks and losses, and of the whole Lightning loop.

    python benchmarks/train_step.py --width 16 --json benchmarks/results/train_step.json

The three are measured in turn, round by round, and compared within each round, because shared machines drift.
`bare` is forward, backward and Adam on random tensors; `step` adds the conversion of the uint8 batch, the pretext
tasks and the losses; `loop` is the command line's own training, from image files on disk.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from PIL import Image

from wssl_pl.cli import train as train_verb
from wssl_pl.data import WSSLDataModule
from wssl_pl.data.sample import sample_faces, sample_masks
from wssl_pl.devices import choose_precision
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.base import WSSLModule

STAGES = ("pretext", "downstream")
SIZE, RESIZE = 224, 256


def write_images(folder: Path, count: int) -> None:
    """Leaves `count` drawn faces as 256-px JPEG and some masks as PNG, black = hole, in `folder`."""
    for split, number in (("train", count), ("val", 8)):
        (folder / "images" / split).mkdir(parents=True)
        drawn = sample_faces("train", RESIZE, min(number, 64))
        for index in range(number):
            Image.fromarray(drawn[index % len(drawn)]).save(folder / "images" / split / f"{index:05d}.jpg", quality=95)
    for split in ("train", "test"):
        (folder / "masks" / split).mkdir(parents=True)
        for index, mask in enumerate(sample_masks("train", SIZE, (0.3, 0.5), 32)):
            Image.fromarray(np.where(mask, 0, 255).astype(np.uint8)).save(
                folder / "masks" / split / f"{index:05d}_{split}.png"
            )


def make_module(stage: str, width: int) -> WSSLModule:
    """The module as the paper has it: three pretext tasks, or a decoder on a frozen encoder."""
    module: WSSLModule = PretextModule(width=width) if stage == "pretext" else InpaintModule(width=width)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no trainer is there to log to
    return module


def bare_step(module: WSSLModule, batch: int, device: torch.device) -> Callable[[], torch.Tensor]:
    """The loss of the networks alone on random tensors, made once."""
    images = torch.rand(batch, 3, SIZE, SIZE, device=device).contiguous(memory_format=torch.channels_last)
    if isinstance(module, PretextModule):
        labels = torch.randint(0, 4, (batch,), device=device)
        return lambda: sum((F.cross_entropy(x, labels) for x in module(images).values()), images.new_zeros(()))
    masks = torch.zeros(batch, 1, SIZE, SIZE, device=device)
    return lambda: module(images, masks).mean()


def full_step(module: WSSLModule, batch: int, device: torch.device) -> Callable[[], torch.Tensor]:
    """The training step of the module on a uint8 batch as the loader hands it over."""
    data = WSSLDataModule(images="sample", masks="sample", image_size=SIZE, resize=RESIZE, batch_size=batch)
    raw = {
        # As the loader lays it out: the channels last in memory.
        "image": torch.randint(0, 256, (batch, RESIZE, RESIZE, 3), dtype=torch.uint8, device=device).movedim(-1, 1),
        "mask": (torch.rand(batch, 1, SIZE, SIZE, device=device) < 0.4).to(torch.uint8),
        "crop": torch.randint(0, RESIZE - SIZE + 1, (batch, 2), device=device),
        "random": torch.rand(batch, 16, device=device),
        "index": torch.arange(batch, device=device),
    }
    return lambda: module.training_step(data.on_after_batch_transfer(dict(raw), 0), 0)  # type: ignore[return-value]


def images_per_second(step: Callable[[], torch.Tensor], module: WSSLModule, batch: int, steps: int) -> float:
    """Times `steps` optimiser steps under the precision that training would choose."""
    device = next(module.parameters()).device
    precision, _ = choose_precision(device.type)
    optimizer = module.configure_optimizers()
    module.train()

    def once() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = step()
        loss.backward()
        optimizer.step()

    for _ in range(2):
        once()
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        once()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps * batch / (time.perf_counter() - start)


class Stopwatch(Callback):
    """Images per second between the end of the first batches, when workers are warm, and the last batch."""

    def __init__(self, batch: int, warm_up: int) -> None:
        self.batch, self.warm_up = batch, warm_up
        self.figure = float("nan")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Starts after the warm-up; every later batch moves the end."""
        if next(pl_module.parameters()).device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if batch_idx + 1 == self.warm_up:
            self.start = now
        elif batch_idx + 1 > self.warm_up:
            self.figure = (batch_idx + 1 - self.warm_up) * self.batch / (now - self.start)


def loop(stage: str, width: int, batch: int, steps: int, folder: Path, run: Path) -> float:
    """Trains by the command line for one epoch from the files in `folder`."""
    watch = Stopwatch(batch, warm_up=max(2, steps // 4))
    train_verb.run(
        [
            f"stage={stage}", f"--model.width={width}", f"--data.images={folder}/images", f"--data.batch_size={batch}",
            f"--data.masks={folder}/masks", f"--data.image_size={SIZE}", f"--data.resize={RESIZE}",
            f"--run.dir={run}", "--trainer.max_epochs=1", "--trainer.limit_val_batches=0",
            "--trainer.enable_checkpointing=false", *(["ckpt=none"] if stage == "downstream" else []),
        ],
        extra_callbacks=[watch],
    )  # fmt: skip
    return watch.figure


def measure(width: int, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """All figures: images per second, medians over the rounds, with the spread and the ratios within rounds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    raw: dict[str, dict[str, list[float]]] = {stage: {"bare": [], "step": [], "loop": []} for stage in STAGES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, batch * (steps + max(2, steps // 4)))
        for turn in range(rounds):
            for stage in STAGES:
                module = make_module(stage, width).to(device)
                for kind, step in (("bare", bare_step), ("step", full_step)):
                    figure = images_per_second(step(module, batch, device), module, batch, steps)
                    raw[stage][kind].append(figure)
                raw[stage]["loop"].append(loop(stage, width, batch, steps, folder, folder / f"{stage}{turn}"))
    result: dict[str, Any] = {stage: {k: statistics.median(v) for k, v in raw[stage].items()} for stage in STAGES}
    for stage in STAGES:
        for over in ("bare", "step"):
            ratios = [a / b for a, b in zip(raw[stage]["loop"], raw[stage][over], strict=True)]
            result[stage][f"loop/{over}"] = statistics.median(ratios)
    result["spread"] = {s: {k: (max(v) - min(v)) / statistics.median(v) for k, v in raw[s].items()} for s in STAGES}
    result["rounds"] = raw
    result["settings"] = {"width": width, "batch": batch, "steps": steps, "size": SIZE}
    result["machine"] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "precision": choose_precision(device.type)[0],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
    return result


def main() -> None:
    """Measures, prints a table, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args.width, args.batch, args.steps, args.rounds)
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
