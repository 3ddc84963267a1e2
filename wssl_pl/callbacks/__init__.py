"""What happens around training: pictures, confusion matrices, checkpoints, and orderly ends."""

from wssl_pl.callbacks.checkpoints import AtomicCheckpointIO, checkpoint_callbacks
from wssl_pl.callbacks.confusion import ConfusionMatrices
from wssl_pl.callbacks.ends import StopOnInterrupt, StopOnNaN, is_last_epoch, stop_fits
from wssl_pl.callbacks.pictures import InpaintingPictures, ReconstructionPictures, picture_grid
from wssl_pl.callbacks.progress import progress_bars
from wssl_pl.callbacks.random_state import RandomState

__all__ = [
    "AtomicCheckpointIO",
    "ConfusionMatrices",
    "InpaintingPictures",
    "RandomState",
    "ReconstructionPictures",
    "StopOnInterrupt",
    "StopOnNaN",
    "checkpoint_callbacks",
    "is_last_epoch",
    "picture_grid",
    "progress_bars",
    "stop_fits",
]
