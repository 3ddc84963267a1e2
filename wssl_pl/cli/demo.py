"""`wssl demo`: both stages on the synthetic dataset, and a picture of what came out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.utils import save_image

from wssl_pl.callbacks import image_grid
from wssl_pl.cli import train
from wssl_pl.cli.run_directory import new_directory
from wssl_pl.modules import InpaintModule

DATA = "--data.images=synthetic --data.masks=synthetic --data.batch_size=16 --data.image_size=96 --data.resize=110"
PRETEXT = "stage=pretext tasks=rotation,saturation --model.width=16 --model.lr=5e-4 --trainer.max_epochs=12".split()
DOWNSTREAM = "stage=downstream --model.lr=1e-3 --trainer.max_epochs=40".split()
PICTURES = 6


def run(args: Sequence[str]) -> Path:
    """Trains in `runs/demo/<time>` and leaves `runs/demo/inpainted.png`; `args` go to both stages.

    Returns:
        the picture's path. Its columns: masked input, raw output, composite, truth.
    """
    folder = new_directory("demo")
    print("1/2  Pretext: which way up, and how colourful?", flush=True)
    train.run([*DATA.split(), *PRETEXT, f"--run.dir={folder}/pretext", *args])
    print("2/2  Downstream: the encoder is frozen, and a decoder learns to fill holes", flush=True)
    ckpt = f"ckpt={folder}/pretext/best.ckpt"
    cli = train.run([*DATA.split(), *DOWNSTREAM, ckpt, f"--run.dir={folder}/downstream", *args])
    path = Path("runs/demo/inpainted.png")
    draw(f"{folder}/downstream/best.ckpt", cli, path)
    print(f"Columns: masked input, output, composite, truth: {path}", flush=True)
    return path


def draw(ckpt: str, cli: train.WSSLCLI, path: Path) -> None:
    """Draws the model's first validation pictures into `path`."""
    module = InpaintModule.load_from_checkpoint(ckpt).eval()
    batch = cli.datamodule.on_after_batch_transfer(next(iter(cli.datamodule.val_dataloader())), 0)
    image, mask = batch["image"][:PICTURES], batch["mask"][:PICTURES]
    with torch.no_grad():
        output = module(image, mask)
    save_image(image_grid(image, mask, output), path)
