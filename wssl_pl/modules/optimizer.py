"""The optimiser and the learning rate's schedule, from the settings of a module."""

import math
from collections.abc import Mapping
from typing import Any

from torch.optim import Adam, AdamW

from wssl_pl.errors import UsageError

OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise `UsageError` for a setting of the optimiser or of the warm-up that cannot be used.

    Args:
        settings: `optimizer`, `weight_decay`, `betas`, `eps` and `warmup_steps`.
    """
    if settings["optimizer"] not in OPTIMIZERS:
        raise UsageError(f"model.optimizer={settings['optimizer']}: it must be one of {', '.join(OPTIMIZERS)}")
    if not 0.0 <= settings["weight_decay"] < math.inf:
        raise UsageError(f"model.weight_decay={settings['weight_decay']}: it must be a number, 0 or more")
    betas = settings["betas"]
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise UsageError(f"model.betas={list(betas)}: give two numbers, each at least 0 and below 1")
    if not 0.0 < settings["eps"] < math.inf:
        raise UsageError(f"model.eps={settings['eps']}: it must be a positive number")
    if settings["warmup_steps"] < 0:
        raise UsageError(f"model.warmup_steps={settings['warmup_steps']}: it must be 0 or more")


def make_optimizer(groups: list[dict[str, Any]], settings: Mapping[str, Any], fused: bool | None) -> Adam:
    """Return the optimiser of `settings`.

    Args:
        groups: parameter groups; what a group sets itself wins over the settings.
        settings: `optimizer`, `lr`, `weight_decay`, `betas` and `eps`.
        fused: whether a step is one fused kernel; None leaves the choice to PyTorch.
    """
    kind = OPTIMIZERS[settings["optimizer"]]
    betas: Any = tuple(settings["betas"])
    options = {name: settings[name] for name in ("lr", "weight_decay", "eps")}
    return kind(groups, betas=betas, fused=fused, **options)


def lr_factor(step: int, warmup_steps: int, steps: float | None) -> float:
    """Return the factor of the learning rate at a step.

    It rises linearly over the warm-up, from `1 / (warmup_steps + 1)` at the first step to 1 at step `warmup_steps`.
    Then it stays at 1 or, where `steps` is given, falls along half a cosine to 0 after `steps` steps. It depends on the
    step alone, and not on the factor before it, so that a run that is resumed for longer follows the longer curve.

    Args:
        step: number of optimiser steps before this one.
        warmup_steps: steps of the warm-up.
        steps: steps of the whole run, above `warmup_steps`; None for a constant rate.

    Example:
        >>> [lr_factor(step, warmup_steps=3, steps=None) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return 1.0 if steps is None else cosine(step - warmup_steps, steps - warmup_steps)


def cosine(step: float, steps: float) -> float:
    """Return half a cosine: 1 at step 0, 0 from step `steps` on.

    Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    return 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))
