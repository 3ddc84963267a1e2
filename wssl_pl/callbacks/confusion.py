"""Which levels a head takes for which: the confusion matrix of every pretext task, drawn after every epoch."""

from collections.abc import Sequence
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor


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


class ConfusionMatrices(Callback):
    """Logs `val/confusion/<task>` after every validation."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draws what the module counted in the epoch that has just ended."""
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return
        for name, matrix in pl_module.confusion.items():
            levels = pl_module.tasks[name].levels
            figure = confusion_figure(matrix.cpu(), levels, f"{name}, epoch {trainer.current_epoch}")
            trainer.logger.experiment.add_figure(f"val/confusion/{name}", figure, trainer.global_step)
