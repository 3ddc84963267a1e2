"""The same validation pictures after every epoch, side by side."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchvision.utils import make_grid

from wssl_pl.callbacks.loggers import log_image, takes_images
from wssl_pl.metrics import composite
from wssl_pl.tasks import Masked

HOLE_GREY = 0.5


def picture_grid(image: Tensor, mask: Tensor, output: Tensor) -> Tensor:
    """One row per image: masked input, raw output, composite, truth.

    Args:
        image: `(B, 3, H, W)` in [0, 1].
        mask: `(B, 1, H, W)`, 1 = hole; shown grey.
        output: the network's raw output `(B, 3, H, W)` in [0, 1].

    Returns:
        `(3, height, width)` in [0, 1], with white gaps.
    """
    masked = torch.where(mask > 0.5, HOLE_GREY, image)
    return _rows([masked, output, composite(output, image, mask), image])


def _rows(columns: Sequence[Tensor]) -> Tensor:
    images = torch.stack(list(columns), dim=1).flatten(0, 1)
    grid: Tensor = make_grid(images.clamp(0, 1).float(), nrow=len(columns), padding=2, pad_value=1.0)
    return grid


class FirstImages(Callback):
    """Logs pictures after every validation: of the first images of the first batch, the same every time.

    A subclass draws them.

    Args:
        count: how many images.
    """

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self._first: dict[str, Tensor] | None = None

    def draw(self, pl_module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pictures `(3, height, width)` in [0, 1] by tag, of a batch of the first images."""
        raise NotImplementedError

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keeps the first images and what belongs to them."""
        if batch_idx == 0:
            self._first = {name: value[: self.count] for name, value in batch.items() if isinstance(value, Tensor)}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws them."""
        if trainer.sanity_checking or self._first is None or not trainer.is_global_zero:
            return
        if not any(map(takes_images, trainer.loggers)):
            return
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            pictures = self.draw(pl_module, self._first)
        for tag, picture in pictures.items():
            log_image(trainer.loggers, tag, picture.cpu(), trainer.global_step)


class InpaintingPictures(FirstImages):
    """Logs `val/pictures`: masked input, raw output, composite, truth."""

    def draw(self, pl_module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `picture_grid`."""
        output = pl_module(batch["image"], batch["mask"])
        return {"val/pictures": picture_grid(batch["image"], batch["mask"], output)}


class ReconstructionPictures(FirstImages):
    """Logs `val/pictures/<task>` for pretext tasks that reconstruct: what the encoder saw, the output, the truth."""

    def draw(self, pl_module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One row per image and task."""
        tasks = {name: task for name, task in pl_module.tasks.items() if isinstance(task, Masked)}
        if not tasks:
            return {}
        seen, targets = pl_module.see(batch)
        outputs = pl_module(seen)
        size = seen.shape[-2:]
        pictures = {name: F.interpolate(task.picture(outputs[name]), size=size) for name, task in tasks.items()}
        return {f"val/pictures/{name}": _rows([seen[:, :3], pictures[name], targets[name]]) for name in tasks}
