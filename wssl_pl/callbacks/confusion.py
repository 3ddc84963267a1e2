"""Which levels a head takes for which: the confusion matrix of every pretext task, drawn after every epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from wssl_pl.callbacks.loggers import log_image, takes_images


def confusion_figure(matrix: Tensor, levels: Sequence[float], title: str) -> Figure:
    """Draws a confusion matrix `(levels, levels)` of counts, rows true, columns predicted, as shares of each row."""
    shares = matrix.float() / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    # A Figure of its own, without pyplot: no window system is touched and nothing is left in its global list.
    figure = Figure(figsize=(3.6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues")
    names = [f"{level:g}" for level in levels]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for row, line in enumerate(shares.tolist()):
        for column, share in enumerate(line):
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.5 else "black")
    return figure


def figure_image(figure: Figure) -> Tensor:
    """Return a figure as an image `(3, H, W)` in [0, 1]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return pixels.permute(2, 0, 1).float() / 255


class ConfusionMatrices(Callback):
    """Logs `val/confusion/<task>` after every validation."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw the counts of the validation that has ended."""
        if trainer.sanity_checking or not trainer.is_global_zero or not any(map(takes_images, trainer.loggers)):
            return
        for name, matrix in pl_module.confusion.items():
            levels = pl_module.tasks[name].levels
            figure = confusion_figure(matrix.cpu(), levels, f"{name}, epoch {trainer.current_epoch}")
            log_image(trainer.loggers, f"val/confusion/{name}", figure_image(figure), trainer.global_step)
