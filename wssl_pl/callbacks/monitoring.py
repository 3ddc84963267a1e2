"""Values of a training for the loggers (speed, gradient norm, learning rate, hyperparameters), and its progress bar."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard.summary import hparams as hparams_summary

# TensorBoard takes the columns of its table from one of the runs, of either stage. At first it shows five settings:
# those that are marked as different between runs, sorted by name.
FIRST_SETTINGS: dict[str, str | float] = {"freeze_layers": 0, "loss": "", "seed": 0, "tasks": "", "weights": ""}
METRICS = ("val/score", "val/ssim", "val/psnr", "val/ssim_composite", "val/psnr_composite", "val/loss")


class TrainingMonitor(Callback):
    """Logs `lr`, `train/images_per_s` and `train/grad_norm` at the logging steps (`trainer.log_every_n_steps`).

    Nothing is measured between them: there the loggers read the loss, so that the host waits for a GPU anyway. `lr` is
    the learning rate of the step (`lr/1`, `lr/2`, ... or by name with several parameter groups); Lightning's
    `LearningRateMonitor` writes rows of its own into `metrics.csv`. The speed is that of the training loop with data
    loading and without validation. The norm is that of all gradients before clipping.
    """

    def __init__(self) -> None:
        self._images = 0
        self._start: float | None = None
        self._pause: float | None = None
        self._values: dict[str, float | Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the clock."""
        self._start = self._pause = None
        self._images, self._values = 0, {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Note the learning rates, and compute the norm, which stays on the device."""
        if not _logs_now(trainer):
            return
        groups = optimizer.param_groups
        for number, group in enumerate(groups, start=1):
            self._values["lr" if len(groups) == 1 else f"lr/{group.get('name', number)}"] = group["lr"]
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients).float()
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            # A fused optimizer divides by the scale itself, after this.
            if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
                norm = norm / scaler.get_scale()
            self._values["train/grad_norm"] = norm

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._pause = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock; checkpoints follow."""
        self._pause = self._pause or time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Mapping[str, Tensor], batch_idx: int
    ) -> None:
        """Start the clock again."""
        if self._start is not None and self._pause is not None:
            self._start += time.perf_counter() - self._pause
        self._pause = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Mapping[str, Tensor], batch_idx: int
    ) -> None:
        """Log the values."""
        self._images += len(batch["image"]) * trainer.world_size
        if not _logs_now(trainer) or trainer.fit_loop._should_accumulate():
            return
        now = time.perf_counter()
        if self._start is not None and now > self._start:
            self._values["train/images_per_s"] = self._images / (now - self._start)
        for name, value in self._values.items():
            pl_module.log(name, value)
        self._start, self._images, self._values = now, 0, {}


class HyperparameterTable(Callback):
    """Sends the settings of the run to every logger; TensorBoard's HPARAMS shows them with the validation metrics.

    The table is written after the first validation, when the names of the metrics are known. TensorBoard shows the
    last value of each.

    Args:
        settings: strings, numbers, booleans or None by name.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = {name: value for name, value in settings.items() if value is not None}
        self._written = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the settings that are not the module's own, which Lightning sends."""
        self._written = False
        settings = {name: value for name, value in self.settings.items() if name not in pl_module.hparams}
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if not isinstance(logger, TensorBoardLogger):
                    logger.log_hyperparams(settings)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write TensorBoard's table."""
        if trainer.sanity_checking or self._written or not trainer.is_global_zero:
            return
        self._written = True
        names = shown_metrics(trainer.callback_metrics, pl_module.monitor)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # Lightning's `log_hyperparams` would log each metric once more, at step 0.
                writer = logger.experiment._get_file_writer()
                _, started, ended = hparams_summary(self.settings, {})
                for summary in (self._columns(names), started, ended):
                    writer.add_summary(summary)

    def _columns(self, metrics: Sequence[str]) -> Any:
        columns, _, _ = hparams_summary(FIRST_SETTINGS | self.settings, dict.fromkeys(metrics, 0.0))
        plugin = columns.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        for setting in content.experiment.hparam_infos:
            setting.differs = setting.name in FIRST_SETTINGS
        plugin.content = content.SerializeToString()
        return columns


def shown_metrics(names: Iterable[str], monitor: str) -> list[str]:
    """Return the metrics of the table: the monitored one, those of both stages, and the parts of the monitored one.

    Example:
        >>> shown_metrics(["val/loss/rotation", "val/accuracy/rotation", "train/loss"], "val/score")[::6]
        ['val/score', 'val/accuracy/rotation']
    """
    # The score is the mean of the tasks' own scores.
    prefixes = ("val/accuracy/", "val/r2/") if monitor == "val/score" else (f"{monitor}/",)
    parts = sorted(name for name in names if name.startswith(prefixes))
    return list(dict.fromkeys([monitor, *METRICS, *parts]))


def _logs_now(trainer: Trainer) -> bool:
    return bool(trainer.loggers) and trainer._logger_connector.should_update_logs


def progress_bars(accelerator: str, configured: Sequence[Callback]) -> list[Callback]:
    """Return a bar that is drawn every 20 steps for a GPU; none for a CPU, or beside one that was configured.

    Lightning's own bar is drawn after every step and shows the loss, for which the host waits until the GPU has
    computed it, so that the next step's kernels are not yet there when the GPU could start them.

    Args:
        accelerator: Lightning's name of it: `auto`, `cpu`, `gpu`, `cuda`, `mps`.
        configured: the callbacks of the user.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if not on_gpu or any(isinstance(callback, ProgressBar) for callback in configured):
        return []
    return [TQDMProgressBar(refresh_rate=20)]
