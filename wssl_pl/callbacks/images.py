"""Images for the loggers after every validation: of the same samples every time, and what the module draws itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from wssl_pl.callbacks.loggers import log_image, takes_images
from wssl_pl.metrics import composite

HOLE_GREY = 0.5


def image_grid(image: Tensor, mask: Tensor, prediction: Tensor, given: Tensor | None = None) -> Tensor:
    """Return one row per image: masked image, prediction, composite, truth.

    Args:
        image: `(B, 3, H, W)` in [0, 1].
        mask: `(B, 1, H, W)`, 1 = hole; shown grey.
        prediction: the network's raw output `(B, 3, H, W)` in [0, 1].
        given: the network's input, where it is not the image itself.

    Returns:
        `(3, height, width)` in [0, 1], with white gaps.
    """
    given = image if given is None else given
    masked = torch.where(mask > 0.5, HOLE_GREY, given)
    return side_by_side([masked, prediction, composite(prediction, given, mask), image])


def side_by_side(columns: Sequence[Tensor]) -> Tensor:
    """Return images `(B, 3, H, W)` as one image, a row per sample and a column per item."""
    images = torch.stack(list(columns), dim=1).flatten(0, 1)
    grid: Tensor = make_grid(images.clamp(0, 1).float(), nrow=len(columns), padding=2, pad_value=1.0)
    return grid


def figure_image(figure: Figure) -> Tensor:
    """Return a matplotlib figure as an image `(3, H, W)` in [0, 1]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return pixels.permute(2, 0, 1).float() / 255


class ValidationImages(Callback):
    """Logs the images and figures of a module after every validation.

    The module's `validation_images(batch)` returns images by tag, of the first samples of the first batch, and its
    `validation_figures(title)` returns figures by tag, of the validation that has ended.

    Args:
        count: how many samples.
    """

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self._first: dict[str, Tensor] | None = None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep the first samples."""
        if batch_idx == 0:
            self._first = {name: value[: self.count] for name, value in batch.items() if isinstance(value, Tensor)}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the images, as long as an average of the weights is in place."""
        if self._first is not None and _draws(trainer):
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                images = pl_module.validation_images(self._first)
            for tag, image in images.items():
                log_image(trainer.loggers, tag, image.cpu(), trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the figures; the metrics of all processes are known now."""
        if _draws(trainer):
            for tag, figure in pl_module.validation_figures(f"epoch {trainer.current_epoch}").items():
                log_image(trainer.loggers, tag, figure_image(figure), trainer.global_step)


def _draws(trainer: Trainer) -> bool:
    return not trainer.sanity_checking and trainer.is_global_zero and any(map(takes_images, trainer.loggers))
