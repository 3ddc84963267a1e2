"""The same validation pictures after every epoch, side by side."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.utils import make_grid

from wssl_pl.metrics import composite

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
    columns = torch.stack([masked, output, composite(output, image, mask), image], dim=1)
    return make_grid(columns.flatten(0, 1).clamp(0, 1).float(), nrow=4, padding=2, pad_value=1.0)


class InpaintingPictures(Callback):
    """Logs `val/pictures` after every validation: the first images of the first batch, the same every time.

    Args:
        count: how many images.
    """

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self._first: tuple[Tensor, Tensor] | None = None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keeps the first images."""
        if batch_idx == 0:
            self._first = (batch["image"][: self.count], batch["mask"][: self.count])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws them."""
        if trainer.sanity_checking or self._first is None or not isinstance(trainer.logger, TensorBoardLogger):
            return
        if not trainer.is_global_zero:
            return
        image, mask = self._first
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            output = pl_module(image, mask)
        grid = picture_grid(image, mask, output)
        trainer.logger.experiment.add_image("val/pictures", grid.cpu(), trainer.global_step)
