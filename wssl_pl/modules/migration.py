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

BOTH_2 = {
    "warmup_steps": 0,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "ema": None,
    "init": "he",
    "fill": 0.0,
}
SETTINGS_2: dict[str, dict[str, Any]] = {
    "pretext": BOTH_2 | {"probe_steps": 0},
    "downstream": BOTH_2 | {"log_cosh_a": 1.0, "ssim_window": 11, "ssim_sigma": 1.5},
}
"""By stage, the hyperparameters that version 2 added, with the values that version 1 trained with."""


def from_1_to_2(checkpoint: dict[str, Any]) -> None:
    """Add the new hyperparameters, so that a resumed run knows which of them were typed."""
    checkpoint["hyper_parameters"] = SETTINGS_2.get(checkpoint["stage"], {}) | checkpoint.get("hyper_parameters", {})


def from_2_to_3(checkpoint: dict[str, Any]) -> None:
    """Rename the pretext stage's mean score, so that a resumed run keeps its best value: it was `val/accuracy`."""
    old, new = "val/accuracy", "val/score"
    callbacks = checkpoint.get("callbacks", {})
    for key in [key for key in callbacks if repr(old) in key]:
        state = callbacks.pop(key)
        if isinstance(state, dict) and state.get("monitor") == old:
            state["monitor"] = new
        callbacks[key.replace(repr(old), repr(new))] = state


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
    1: from_1_to_2,
    2: from_2_to_3,
    3: from_3_to_4,
    4: from_4_to_5,
}
"""By version, the change to the next one, in place."""


def migrate(checkpoint: dict[str, Any], name: str, path: object) -> None:
    """Bring a checkpoint of one of our stages to the present format, in place.

    Args:
        checkpoint: as it was loaded; one without a version is of version 1.
        name: the parameter that gave it, for the error message.
        path: the value of the parameter.

    Raises:
        WSSLError: it is newer than this program, or its version is not a number.
    """
    version = checkpoint.get("format", 1)
    if type(version) is not int or version < 1:
        raise WSSLError(name, path, f"is not a checkpoint of this project: its format is {version!r}")
    if version > FORMAT:
        reason = f"its format is {version}, this version of wssl-pl reads up to {FORMAT}"
        raise WSSLError(name, path, reason, "update wssl-pl")
    for number in range(version, FORMAT):
        MIGRATIONS[number](checkpoint)
    checkpoint["format"] = FORMAT
