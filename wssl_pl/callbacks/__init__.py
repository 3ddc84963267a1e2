"""Callbacks: images, checkpoints, the probe, values for the loggers, and the end of a training."""

from wssl_pl.callbacks.average import EMAWeights
from wssl_pl.callbacks.checkpoints import (
    AtomicCheckpointIO,
    RandomState,
    checkpoint_callbacks,
    with_atomic_checkpoints,
)
from wssl_pl.callbacks.images import ValidationImages, image_grid, side_by_side
from wssl_pl.callbacks.loggers import RunCSVLogger, check_installed, default_loggers, log_image, takes_images
from wssl_pl.callbacks.monitoring import HyperparameterTable, TrainingMonitor, progress_bars
from wssl_pl.callbacks.probe import OnlineProbe
from wssl_pl.callbacks.ranks import ReportFirstFailure
from wssl_pl.callbacks.stopping import StopOnNaN, StopOnSignal, can_stop, is_last_epoch, weights_are_finite

__all__ = [
    "AtomicCheckpointIO",
    "EMAWeights",
    "HyperparameterTable",
    "OnlineProbe",
    "RandomState",
    "ReportFirstFailure",
    "RunCSVLogger",
    "StopOnNaN",
    "StopOnSignal",
    "TrainingMonitor",
    "ValidationImages",
    "can_stop",
    "check_installed",
    "checkpoint_callbacks",
    "default_loggers",
    "image_grid",
    "is_last_epoch",
    "log_image",
    "progress_bars",
    "side_by_side",
    "takes_images",
    "weights_are_finite",
    "with_atomic_checkpoints",
]
