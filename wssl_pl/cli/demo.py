"""`wssl demo`."""

from pathlib import Path

from wssl_pl.cli.run_files import new_directory
from wssl_pl.cli.train import WSSLCLI, train

DATA = "--data.images=synthetic --data.masks=synthetic --data.batch_size=16 --data.image_size=96 --data.resize=110"
PRETEXT = "stage=pretext tasks=rotation,saturation --model.width=16 --model.lr=5e-4 --trainer.max_epochs=12".split()
DOWNSTREAM = "stage=downstream freeze_layers=0 --model.lr=1e-3 --trainer.max_epochs=40".split()
IMAGES = 6


def demo(**options: str) -> Path:
    """Train both stages on the synthetic dataset, and draw what came out: `runs/demo/inpainted.png`.

    Its columns: masked image, prediction, composite, ground truth. Options of `wssl train` go to both stages.

    Example:
        wssl demo
        wssl demo --trainer.max_epochs=2

    Returns:
        the image's path.
    """
    args = [f"--{key}={value}" for key, value in options.items()]
    folder = new_directory("demo")
    print("1/2  Pretext: rotation and saturation", flush=True)
    train([*DATA.split(), *PRETEXT, f"--run.dir={folder}/pretext", *args])
    print("2/2  Downstream: the encoder is fine-tuned, and a decoder learns to fill holes", flush=True)
    ckpt = f"ckpt={folder}/pretext/best.ckpt"
    cli = train([*DATA.split(), *DOWNSTREAM, ckpt, f"--run.dir={folder}/downstream", *args])
    path = Path("runs/demo/inpainted.png")
    draw(f"{folder}/downstream/best.ckpt", cli, path)
    print(f"Columns: masked image, prediction, composite, ground truth: {path}", flush=True)
    return path


def draw(ckpt: str, cli: WSSLCLI, path: Path) -> None:
    """Draw what a model makes of the first validation images into `path`."""
    import torch
    from torchvision.utils import save_image

    from wssl_pl.callbacks import image_grid
    from wssl_pl.models import open_model

    batch = cli.datamodule.on_after_batch_transfer(next(iter(cli.datamodule.val_dataloader())), 0)
    image, mask = batch["image"][:IMAGES], batch["mask"][:IMAGES]
    output = torch.from_numpy(open_model(ckpt, "cpu")(image.numpy(), mask.numpy()))
    save_image(image_grid(image, mask, output), path)
