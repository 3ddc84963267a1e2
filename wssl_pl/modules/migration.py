"""Checkpoints of earlier versions, brought up to date when they are read.

A checkpoint holds its version under `format`. Whoever changes what a checkpoint must hold raises `FORMAT` and adds a
function to `MIGRATIONS` that makes a checkpoint of the version before into one of the new version.
"""

import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from wssl_pl.errors import WSSLError

FORMAT = 5
OLDEST = 3  # of version 0.2


def from_3_to_4(checkpoint: dict[str, Any]) -> None:
    """Say that the activation of the heads is a ReLU, as it was: a leaky one of slope 0."""
    for name in ("state_dict", "current_model_state"):  # with an EMA the second has the weights that are trained
        add_slopes(checkpoint.get(name, {}))


def add_slopes(state: dict[str, Tensor]) -> None:
    """Add the slope of a ReLU to the heads of a state dict that has none; a head's first layer has a matrix."""
    for key in [key for key in state if re.search(r"(^|\.)heads\.[^.]+\.layers\.0\.weight$", key)]:
        slope = key.replace("layers.0.weight", "layers.1.slope")
        if state[key].ndim == 2 and slope not in state:
            state[slope] = torch.tensor(0.0)


def from_4_to_5(checkpoint: dict[str, Any]) -> None:
    """Rename the states of our checkpoint callbacks, which had Lightning's own keys, so that they are found again."""
    callbacks = checkpoint.get("callbacks", {})
    for key, state in list(callbacks.items()):
        if str(key).startswith("ModelCheckpoint{") and isinstance(state, dict):
            name = PurePath(str(state.get("best_model_path"))).stem
            if name in ("best", "last") or "best_loss" in state:
                callbacks.setdefault("wssl.best" if "best_loss" in state else f"wssl.{name}", callbacks.pop(key))


MIGRATIONS: dict[int, Callable[[dict[str, Any]], None]] = {
    3: from_3_to_4,
    4: from_4_to_5,
}
"""By version, the change to the next one, in place."""


def migrate(checkpoint: dict[str, Any], name: str, path: object) -> None:
    """Bring a checkpoint of one of our stages to the present format, in place.

    Args:
        checkpoint: as it was loaded. Without a format it is of version 0.1, or if no trainer wrote it made by hand.
        name: the parameter that gave it, for the error message.
        path: the value of the parameter.

    Raises:
        WSSLError: it is newer than this program, or older than version 0.2, or its format is not a number.
    """
    version = checkpoint.get("format", 1 if "pytorch-lightning_version" in checkpoint else OLDEST)
    if type(version) is not int or version < 1:
        raise WSSLError(name, path, f"is not a checkpoint of this project: its format is {version!r}")
    if version > FORMAT:
        reason = f"its format is {version}, this version of wssl-pl reads up to {FORMAT}"
        raise WSSLError(name, path, reason, "update wssl-pl")
    if version < OLDEST:
        raise WSSLError(name, path, "is older than version 0.2 of wssl-pl, which still reads it", "train it again")
    for number in range(version, FORMAT):
        MIGRATIONS[number](checkpoint)
    checkpoint["format"] = FORMAT
