"""The end of a training before its time: a value that is not finite, Ctrl-C, SIGTERM, and SLURM's requeue signal."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.tensor import DTensor

from wssl_pl.errors import Interrupted, Terminated, TrainingStopped


def weights_are_finite(module: torch.nn.Module) -> bool:
    """Return whether no parameter and no floating-point buffer of `module` holds a NaN or an infinity.

    So must those of the networks that are trained beside it, if it has some.
    """
    networks = [module, *getattr(module, "trained_beside", list)()]
    tensors = [tensor.detach() for network in networks for tensor in network.state_dict().values()]
    finite = [torch.isfinite(tensor).all() for tensor in tensors if torch.is_floating_point(tensor)]
    # Of a sharded tensor it is the answer of all processes.
    finite = [value.full_tensor() if isinstance(value, DTensor) else value for value in finite]
    return not finite or bool(torch.stack(finite).all())


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
        """Stop when the last step made weights that are not finite.

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


def can_stop(trainer: Trainer) -> bool:
    """Return whether a checkpoint written after this batch resumes exactly.

    It does not after the last batch of an epoch: a run resumed from there skips the validation of the epoch, and
    Lightning 2.6 counts its epochs wrongly afterwards. It does not inside an accumulation window either: the gradients
    that were accumulated are not part of a checkpoint. Nor where a validation is due after this batch, which a resumed
    run would skip: after `val_check_interval`, or after the last step of a run that ends inside an epoch.
    """
    loop = trainer.fit_loop.epoch_loop
    window_complete = loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0
    fetcher: Any = trainer.fit_loop._data_fetcher
    validates = trainer.is_last_batch or trainer.global_step == trainer.max_steps or loop._should_check_val_fx(fetcher)
    return window_complete and not validates


def is_last_epoch(trainer: Trainer) -> bool:
    """Return whether training ends with this epoch."""
    return trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= (trainer.max_epochs or 0)


class StopOnSignal(Callback):
    """End training with `last.ckpt` after a signal, so that the resumed run ends with the weights of a whole run.

    - Ctrl-C (SIGINT) and SIGTERM stop after the current batch. A second Ctrl-C stops at once; a second SIGTERM changes
      nothing, because a kill follows it.
    - Under SLURM the requeue signal (SIGUSR1, or the `requeue_signal` of Lightning's `SLURMEnvironment`) stops in the
      same way, and then asks SLURM to start the job again if the run was started with `resume=auto`.

    Inside an accumulation window the window is completed first. After the last batch of an epoch, and during a
    validation, the epoch is completed first. With several processes one signal to any of them stops all at the same
    batch.

    Args:
        directory: the run directory.
        requeue: whether the same command line resumes this run (`resume=auto`).
    """

    def __init__(self, directory: str, requeue: bool = False) -> None:
        self.directory = directory
        self.requeue = requeue
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals; only the main thread of a process may.

        Here and not earlier, because Lightning installs a SIGTERM handler of its own just before, which ends the
        process with exit code 0 and without a checkpoint.
        """
        self._received = None
        if threading.current_thread() is not threading.main_thread():
            return
        handled = [signal.SIGINT, signal.SIGTERM]
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            handled.append(environment.requeue_signal)
        self._previous = {number: signal.signal(number, self._on_signal) for number in handled}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the handlers."""
        self.on_train_end(trainer, pl_module)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        first = self._received is None
        if not first and number == signal.SIGINT:
            raise self._error(signal.SIGINT)
        self._received = self._received or signal.Signals(number)
        if first:
            # Not `print`: a signal can arrive inside one, and writing to a buffered stream is not reentrant.
            name = "Interrupted" if number == signal.SIGINT else signal.Signals(number).name
            again = " (Ctrl-C again to stop at once)" if number == signal.SIGINT else ""
            os.write(1, f"\n{name}: writing a checkpoint as soon as the step is complete{again}\n".encode())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the checkpoint between two batches, where the state is complete."""
        if self._asked(trainer) and can_stop(trainer):
            self._save_and_stop(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint at the end of the epoch; after the last epoch training ends anyway."""
        if self._asked(trainer) and not is_last_epoch(trainer):
            self._save_and_stop(trainer, pl_module)

    def _asked(self, trainer: Trainer) -> bool:
        """Whether any process received a signal; all processes get the same answer."""
        asked = self._received is not None
        if trainer.world_size == 1:
            return asked
        # Lightning itself broadcasts a flag before every batch under DDP, so that this adds no new synchronisation.
        asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked and self._received is None:
            self._received = signal.SIGTERM
        return asked

    def _save_and_stop(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._received is not None
        if not weights_are_finite(pl_module):
            raise TrainingStopped(f"a weight is not finite after step {trainer.global_step}: no checkpoint was written")
        trainer.save_checkpoint(Path(self.directory) / "last.ckpt")
        if self._received not in (signal.SIGINT, signal.SIGTERM):
            self._requeue()
        raise self._error(self._received)

    def _requeue(self) -> None:
        if not self.requeue:
            rank_zero_only(print)("The job is not requeued: start it with resume=auto and --run.dir", flush=True)
        elif getattr(rank_zero_only, "rank", 0) == 0:
            requeue_slurm_job()

    def _error(self, number: signal.Signals) -> TrainingStopped:
        kind: type[TrainingStopped] = Interrupted if number == signal.SIGINT else Terminated
        what = "interrupted" if number == signal.SIGINT else f"{number.name} received"
        if getattr(rank_zero_only, "rank", 0) != 0:
            return kind("")  # one process reports it
        last = Path(self.directory) / "last.ckpt"
        if last.exists():
            return kind(f"{what}; resume with: wssl train resume={last}")
        return kind(f"{what} before the first checkpoint: nothing was written to {last.parent} yet")


def requeue_slurm_job() -> None:
    """Ask SLURM to start this job again: `scontrol requeue`, with the task's number in a job array."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        print(f"Job {job} could not be requeued: scontrol is not installed", flush=True)
        return
    result = "requeued" if done.returncode == 0 else f"could not be requeued: {done.stderr.strip()}"
    print(f"Job {job} {result}", flush=True)
