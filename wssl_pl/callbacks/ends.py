"""Orderly ends: a loss that is not a number, and Ctrl-C."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from wssl_pl.errors import Interrupted, TrainingStopped


class StopOnNaN(Callback):
    """Stops when the loss is not finite, naming the step, before a checkpoint with such weights is written.

    Asking a GPU for a value makes the host wait for it, so on a GPU the first bad step is remembered there and asked
    for only every `every` steps and before checkpoints.

    Args:
        directory: the run's folder, for the message.
        every: steps between two questions to a GPU.
    """

    def __init__(self, directory: str, every: int = 50) -> None:
        self.directory = directory
        self.every = every
        self._first_bad: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remembers the first step whose loss is not finite."""
        loss = outputs["loss"].detach()
        step = trainer.global_step
        if self._first_bad is None:
            self._first_bad = torch.full((), -1, dtype=torch.int64, device=loss.device)
        fresh = (self._first_bad < 0) & ~torch.isfinite(loss)
        self._first_bad.masked_fill_(fresh, step)
        if loss.device.type == "cpu" or step % self.every == 0:
            self._check(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks before the validation whose checkpoint would replace a good one."""
        self._check(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stops when the last step before validation has spoilt the weights."""
        figure = trainer.callback_metrics.get(pl_module.monitor)
        if not trainer.sanity_checking and figure is not None and not torch.isfinite(figure):
            self._stop(pl_module, f"{pl_module.monitor} is {figure.item()} after step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks before the epoch's checkpoint is written."""
        self._check(pl_module)

    def _check(self, pl_module: LightningModule) -> None:
        if self._first_bad is not None and (step := int(self._first_bad)) >= 0:
            self._stop(pl_module, f"the loss is not finite at step {step}")

    def _stop(self, pl_module: LightningModule, what: str) -> None:
        last = Path(self.directory) / "last.ckpt"
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint had been written yet"
        raise TrainingStopped(f"{what}; {kept}; try a lower learning rate than model.lr={pl_module.hparams['lr']}")


def stop_fits(trainer: Trainer) -> bool:
    """Whether a checkpoint after this batch goes on exactly: not after the last batch of an epoch.

    A run resumed from there leaves out the epoch's validation, and Lightning 2.6 counts its epochs wrongly afterwards,
    so that it repeats batches when it is stopped and resumed once more. At the epoch's end it can be stopped again.
    """
    return not trainer.is_last_batch


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether training is over with this epoch."""
    return trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= (trainer.max_epochs or 0)


class StopOnInterrupt(Callback):
    """Ctrl-C ends training after the current batch with a checkpoint; a second Ctrl-C ends it at once.

    After the last batch of an epoch the epoch is brought to its end first.

    During validation, and with several processes, which may stand at different batches, training ends at once and
    the checkpoint of the last epoch's end is the one to go on from.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._asked = False
        self._epoch_first = False
        self._previous: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over Ctrl-C; only a process's main thread may."""
        self._asked = self._epoch_first = False
        if threading.current_thread() is threading.main_thread():
            self._gentle = trainer.world_size == 1
            self._previous = signal.signal(signal.SIGINT, self._on_interrupt)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives Ctrl-C back."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._asked or not self._gentle:
            raise Interrupted(self._how_to_resume(self._last()))
        self._asked = True
        print("\nInterrupted: writing a checkpoint after this batch (Ctrl-C again to stop at once)", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes the checkpoint, when asked to stop, between two batches, where the state is whole."""
        if self._asked:
            if stop_fits(trainer):
                self._save_and_stop(trainer)
            self._epoch_first = True

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stops in the middle of a validation, which a resumed run will not miss."""
        if self._asked and not self._epoch_first:
            raise Interrupted(self._how_to_resume(self._last()))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops after the validation that belonged to the batch; after the last epoch training ends anyway."""
        if self._asked and not is_last_epoch(trainer):
            self._save_and_stop(trainer)

    def _save_and_stop(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._last())
        raise Interrupted(self._how_to_resume(self._last()))

    def _last(self) -> Path:
        return Path(self.directory) / "last.ckpt"

    @staticmethod
    def _how_to_resume(last: Path) -> str:
        if last.exists():
            return f"interrupted; go on with: python train.py resume={last}"
        return f"interrupted before the first checkpoint; nothing is kept in {last.parent}"
