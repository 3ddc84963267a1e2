"""Draw a batch: what was read, what the model sees of it, and the hole."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wssl_pl.data.datamodule import WSSLDataModule
from wssl_pl.data.loader import BatchLoader
from wssl_pl.data.sampler import KeySampler
from wssl_pl.drawing import Panel, draw_panels, save_figure

Batch = dict[str, Any]


def first_batch(module: WSSLDataModule, split: str, count: int, epoch: int) -> Batch:
    """The loader's first ``count`` samples of an epoch, as they come, before the transfer to a device."""
    module.setup(split)
    loader: BatchLoader = getattr(module, f"{split}_dataloader")()
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
    batch = module.on_after_batch_transfer(dict(raw), 0)
    samples = []
    for i, (image, crop) in enumerate(zip(raw["image"], batch["image"], strict=True)):
        top, left = raw["crop"][i].tolist()
        cropped = crop.permute(1, 2, 0).numpy()
        frame = top, left, module.image_size
        panels = [Panel(image.permute(1, 2, 0).numpy(), f"index {int(raw['index'][i])}", frame)]
        panels.append(Panel(cropped, f"crop at ({top}, {left})"))
        if "mask" in batch:
            mask = batch["mask"][i, 0].numpy()
            panels += [Panel(mask, f"hole {np.mean(mask):.1%}"), Panel(cropped * (1 - mask[..., None]), "input")]
        samples.append(panels)
    across = 2 if len(samples) > 4 else 1
    rows = [list(chain(*samples[i : i + across])) for i in range(0, len(samples), across)]
    save_figure(draw_panels(rows, 2.1, title), path)
    return path
