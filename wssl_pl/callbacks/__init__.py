"""Callbacks: pictures, confusion matrices, checkpoints, and the end of a training."""

from wssl_pl.callbacks.average import EMAWeights
from wssl_pl.callbacks.checkpoints import AtomicCheckpointIO, checkpoint_callbacks, with_atomic_checkpoints
from wssl_pl.callbacks.confusion import ConfusionMatrices
from wssl_pl.callbacks.finite import StopOnNaN, weights_are_finite
from wssl_pl.callbacks.interruption import StopOnSignal, can_stop, is_last_epoch
from wssl_pl.callbacks.loggers import RunCSVLogger, check_installed, default_loggers, log_image, takes_images
from wssl_pl.callbacks.monitoring import HyperparameterTable, TrainingMonitor
from wssl_pl.callbacks.pictures import InpaintingPictures, ReconstructionPictures, picture_grid
from wssl_pl.callbacks.probe import OnlineProbe
from wssl_pl.callbacks.progress import progress_bars
from wssl_pl.callbacks.random_state import RandomState

__all__ = [
    "AtomicCheckpointIO",
    "ConfusionMatrices",
    "EMAWeights",
    "HyperparameterTable",
    "InpaintingPictures",
    "OnlineProbe",
    "RandomState",
    "ReconstructionPictures",
    "RunCSVLogger",
    "StopOnNaN",
    "StopOnSignal",
    "TrainingMonitor",
    "can_stop",
    "check_installed",
    "checkpoint_callbacks",
    "default_loggers",
    "is_last_epoch",
    "log_image",
    "picture_grid",
    "progress_bars",
    "takes_images",
    "weights_are_finite",
    "with_atomic_checkpoints",
]
