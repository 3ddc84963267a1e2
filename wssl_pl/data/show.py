"""Draw a batch: what was read, what the model sees of it, and the hole."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from wssl_pl.data.datamodule import WSSLDataModule
from wssl_pl.data.sampler import KeySampler

Batch = dict[str, Any]


def first_batch(module: WSSLDataModule, split: str, stage: str, count: int, epoch: int) -> Batch:
    """The loader's first ``count`` samples of an epoch, as they come, before the transfer to a device."""
    module.setup(stage)
    loader = {"train": module.train_dataloader, "val": module.val_dataloader, "test": module.test_dataloader}[split]()
    if isinstance(loader.sampler, KeySampler):
        loader.sampler.set_epoch(epoch)
    batches = []
    have = 0
    for batch in loader:
        batches.append(batch)
        have += len(batch["index"])
        if have >= count:
            break
    return {key: torch.cat([batch[key] for batch in batches])[:count] for key in batches[0]}


def draw_batch(module: WSSLDataModule, raw: Batch, path: Path, title: str) -> Path:
    """A row per sample: the image with its crop framed, the crop, the mask (white = hole), and the crop without it.

    Args:
        module: Whose batch it is.
        raw: The batch as the loader gave it.
        path: The PNG file.
        title: Written above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    batch = module.on_after_batch_transfer(dict(raw), 0)
    count, size = len(raw["index"]), module.image_size
    across = 2 if count > 4 else 1
    down = -(-count // across)
    figure = Figure(figsize=(8.4 * across, 2.3 * down + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, 4 * across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i in range(count):
        row, column = i // across, 4 * (i % across)
        crop = batch["image"][i].permute(1, 2, 0).numpy()
        top, left = raw["crop"][i].tolist()
        panels = axes[row, column : column + 4]
        panels[0].imshow(raw["image"][i].permute(1, 2, 0).numpy())
        panels[0].add_patch(Rectangle((left - 0.5, top - 0.5), size, size, fill=False, edgecolor="yellow"))
        panels[0].set_title(f"index {int(raw['index'][i])}", fontsize=8)
        panels[1].imshow(crop)
        panels[1].set_title(f"crop at ({top}, {left})", fontsize=8)
        if "mask" in batch:
            mask = batch["mask"][i, 0].numpy()
            panels[2].imshow(mask, cmap="gray", vmin=0, vmax=1)
            panels[2].set_title(f"hole {np.mean(mask):.1%}", fontsize=8)
            panels[3].imshow(crop * (1 - mask[..., None]))
            panels[3].set_title("input", fontsize=8)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    return path
