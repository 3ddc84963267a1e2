"""`best.ckpt` and `last.ckpt`, written so that a full disk or a crash never costs the one before."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from torch import Tensor

from wssl_pl.errors import DiskFull, WSSLError
from wssl_pl.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name in the same folder, then renames; reads without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save the checkpoint, or leave the file that was there as it was.

        Raises:
            DiskFull: the disk is full or the folder cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch.save's zip writer reports a full disk as a RuntimeError of its own, raised in that of the file.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            then = f"the previous one is unharmed; make room and resume with resume={path}"
            if not path.exists():
                then = "there was none before; make room and start again"
            reason = getattr(cause, "strerror", None) or str(cause).strip().splitlines()[0]
            raise DiskFull(f"could not write the checkpoint {path} ({reason}); {then}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load with `weights_only=True`, whatever the argument."""
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)


def with_atomic_checkpoints(plugins: Sequence[Any]) -> list[Any]:
    """Return the plugins with `AtomicCheckpointIO`, alone or in an `AsyncCheckpointIO`, unless they bring another."""
    configured = [plugin for plugin in plugins if isinstance(plugin, CheckpointIO)]
    for plugin in configured:
        if isinstance(plugin, AsyncCheckpointIO) and plugin.checkpoint_io is None:
            plugin.checkpoint_io = AtomicCheckpointIO()
    return [*plugins] if configured else [*plugins, AtomicCheckpointIO()]


class BestCheckpoint(ModelCheckpoint):
    """Keep `best.ckpt` by a logged metric; of equal values the one with the lower `val/loss`.

    Two things differ from Lightning's `ModelCheckpoint`:

    - Ties. An accuracy over a few hundred images takes few values, and at chance it does not move.
    - A run directory that was moved, or is another one (`resume=X --run.dir=Y`). Lightning forgets the best score when
      the absolute path differs, so that a worse epoch overwrites `best.ckpt`. Here the score is kept as long as
      `best.ckpt` is in the directory.

    Args:
        directory: the run directory.
        monitor: the logged metric.
        mode: `max` or `min`.
    """

    TIE_BREAK = "val/loss"

    def __init__(self, directory: str, monitor: str, mode: str = "max") -> None:
        super().__init__(
            dirpath=directory,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self._best_loss: float | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the validation was the best one.

        Raises:
            WSSLError: the monitored metric is not logged; also after a sanity check, before the training.
        """
        if self.monitor not in trainer.callback_metrics:
            logged = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise WSSLError("monitor", self.monitor, "is not logged", f"choose one of {', '.join(logged)}")
        super().on_validation_end(trainer, pl_module)

    @property
    def state_key(self) -> str:
        """Return a key that a user's own `ModelCheckpoint` cannot have: Lightning takes each key once."""
        return "wssl.best"

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Return whether the metric is better than the best one, or equal to it with a lower loss."""
        better = super().check_monitor_top_k(trainer, current)
        loss = trainer.callback_metrics.get(self.TIE_BREAK)
        if not better and current is not None and loss is not None and self._best_loss is not None:
            equal = self.best_model_score is not None and bool(current == self.best_model_score)
            better = trainer.strategy.reduce_boolean_decision(equal and float(loss) < self._best_loss)
        if better:
            self._best_loss = None if loss is None else float(loss)
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state, and the loss that belongs to the best metric."""
        return {**super().state_dict(), "best_loss": self._best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score if the run directory holds its checkpoint, wherever the directory was before.

        The score of another metric is none.
        """
        if state_dict.get("monitor") != self.monitor:
            return
        assert self.dirpath is not None
        path = str(Path(self.dirpath) / "best.ckpt")
        score = state_dict["best_model_score"]
        if score is None or not Path(path).is_file():
            return
        moved = {
            "dirpath": self.dirpath,
            "best_model_path": path,
            "kth_best_model_path": path,
            "best_k_models": {path: score},
            "last_model_path": "",
        }
        super().load_state_dict(state_dict | moved)
        self._best_loss = state_dict.get("best_loss")


class LastCheckpoint(ModelCheckpoint):
    """Keep `last.ckpt`, written after every epoch.

    After its end and not after a validation, so that a resumed run starts the next epoch cleanly.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(
            dirpath=directory,
            filename="last",
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )

    @property
    def state_key(self) -> str:
        """Return a key that a user's own `ModelCheckpoint` cannot have: Lightning takes each key once."""
        return "wssl.last"


def checkpoint_callbacks(directory: str, monitor: str, mode: str = "max") -> list[Callback]:
    """Return the callbacks that keep `best.ckpt` by the logged metric `monitor`, and `last.ckpt` after every epoch."""
    return [BestCheckpoint(directory, monitor, mode), LastCheckpoint(directory)]


class RandomState(Callback):
    """Saves and restores the states of Python's, NumPy's and PyTorch's global generators.

    Our own data path does not draw from them; PIC's samples, and a user's task or callback, may. Of GPUs it is the
    state of the one that the process computes on: each process restores that of the first, as all draw alike.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the states in types that `weights_only=True` loads."""
        _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
        return {
            "python": random.getstate(),
            "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
            "torch": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the generators to the saved states."""
        version, internal, gauss = state_dict["python"]
        random.setstate((version, tuple(internal), gauss))
        keys, *rest = state_dict["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(state_dict["torch"])
        if torch.cuda.is_available() and state_dict["cuda"]:
            torch.cuda.set_rng_state(state_dict["cuda"][0])  # earlier versions saved all, the first one first
