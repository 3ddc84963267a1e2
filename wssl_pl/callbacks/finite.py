"""Stop training when a loss, a metric or a weight is no longer finite."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from wssl_pl.errors import TrainingStopped


def weights_are_finite(module: torch.nn.Module) -> bool:
    """Return whether no parameter and no floating-point buffer of `module` holds a NaN or an infinity."""
    tensors = [tensor.detach() for tensor in module.state_dict().values() if torch.is_floating_point(tensor)]
    return not tensors or bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


class StopOnNaN(Callback):
    """Stop when the loss is not finite, before a checkpoint with such weights replaces a good one.

    Reading a value from a GPU makes the host wait. On a GPU the first bad step is therefore kept there, and read only
    every `every` steps and before checkpoints.

    Args:
        directory: the run directory, for the message.
        every: steps between two reads on a GPU.
    """

    def __init__(self, directory: str, every: int = 50) -> None:
        self.directory = directory
        self.every = every
        self._first_bad: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the first step whose loss is not finite."""
        loss = outputs["loss"].detach()
        step = trainer.global_step
        if self._first_bad is None:
            self._first_bad = torch.full((), -1, dtype=torch.int64, device=loss.device)
        first = (self._first_bad < 0) & ~torch.isfinite(loss)
        self._first_bad.masked_fill_(first, step)
        if loss.device.type == "cpu" or step % self.every == 0:
            self._check_losses(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the losses before a validation, whose checkpoint could replace a good one."""
        self._check_losses(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stop when the validation shows that the last step spoilt the weights.

        The monitored metric alone does not show it: an accuracy is an argmax, which is finite for NaN logits.
        """
        if trainer.sanity_checking:
            return
        for name in (pl_module.monitor, "val/loss"):
            value = trainer.callback_metrics.get(name)
            if value is not None and not torch.isfinite(value):
                self._stop(pl_module, f"{name} is {value.item()} after step {trainer.global_step}")
        self._check_weights(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the losses and the weights before the checkpoint of the epoch is written."""
        self._check_losses(pl_module)
        self._check_weights(trainer, pl_module)

    def _check_losses(self, pl_module: LightningModule) -> None:
        if self._first_bad is not None and (step := int(self._first_bad)) >= 0:
            self._stop(pl_module, f"the loss is not finite at step {step}")

    def _check_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not weights_are_finite(pl_module):
            self._stop(pl_module, f"a weight is not finite after step {trainer.global_step}")

    def _stop(self, pl_module: LightningModule, what: str) -> None:
        last = Path(self.directory) / "last.ckpt"
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
        raise TrainingStopped(f"{what}; {kept}; try a lower learning rate than model.lr={pl_module.hparams['lr']}")
