"""`best.ckpt` and `last.ckpt`, written so that a full disk or a crash never costs the one before."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from wssl_pl.errors import TrainingStopped


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target under a temporary name, then renames; reads without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Saves the checkpoint, or leaves the file that was there as it was.

        Raises:
            TrainingStopped: the disk is full or the folder cannot be written.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, RuntimeError) as error:
            # torch.save's zip writer reports a full disk as a RuntimeError.
            temporary.unlink(missing_ok=True)
            then = f"the previous one is unharmed; make room and go on with resume={path}"
            if not path.exists():
                then = "there was none before; make room and begin again"
            reason = str(error).strip().splitlines()[0]
            raise TrainingStopped(f"could not write the checkpoint {path} ({reason}); {then}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads with `weights_only=True`, whatever is asked for."""
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)


def checkpoint_callbacks(directory: str, monitor: str) -> list[Callback]:
    """`best.ckpt` by the logged figure `monitor` (the higher the better), and `last.ckpt` after every epoch."""
    best = ModelCheckpoint(
        dirpath=directory,
        filename="best",
        monitor=monitor,
        mode="max",
        save_top_k=1,
        auto_insert_metric_name=False,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )
    # After the epoch's end and not after validation, so that a resumed run starts the next epoch cleanly.
    last = ModelCheckpoint(
        dirpath=directory,
        filename="last",
        auto_insert_metric_name=False,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    return [best, last]
