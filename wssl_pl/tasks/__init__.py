"""The pretext tasks: one small file each, one registry, and their weighting."""

from wssl_pl.tasks.base import PretextTask
from wssl_pl.tasks.registry import TASKS, make_tasks
from wssl_pl.tasks.rotation import Rotation
from wssl_pl.tasks.saturation import Saturation
from wssl_pl.tasks.sharpness import Sharpness
from wssl_pl.tasks.weighting import FixedWeights, UncertaintyWeights, normalise_weights

__all__ = [
    "TASKS",
    "FixedWeights",
    "PretextTask",
    "Rotation",
    "Saturation",
    "Sharpness",
    "UncertaintyWeights",
    "make_tasks",
    "normalise_weights",
]
