"""The pretext tasks: one small file each, one registry, and their weighting."""

from wssl_pl.tasks.base import PretextTask
from wssl_pl.tasks.blur import Blur
from wssl_pl.tasks.classification import Classification, Damage, best_temperature
from wssl_pl.tasks.contrast import Contrast
from wssl_pl.tasks.jpeg import Jpeg
from wssl_pl.tasks.masked import Autoencoder, Masked, Restoration
from wssl_pl.tasks.noise import Noise
from wssl_pl.tasks.registry import TASKS, find_task, import_task, make_tasks, task_names
from wssl_pl.tasks.rotation import Rotation
from wssl_pl.tasks.saturation import Saturation
from wssl_pl.tasks.sharpness import Sharpness
from wssl_pl.tasks.weighting import FixedWeights, UncertaintyWeights, normalise_weights

__all__ = [
    "TASKS",
    "Autoencoder",
    "Blur",
    "Classification",
    "Contrast",
    "Damage",
    "FixedWeights",
    "Jpeg",
    "Masked",
    "Noise",
    "PretextTask",
    "Restoration",
    "Rotation",
    "Saturation",
    "Sharpness",
    "UncertaintyWeights",
    "best_temperature",
    "find_task",
    "import_task",
    "make_tasks",
    "normalise_weights",
    "task_names",
]
