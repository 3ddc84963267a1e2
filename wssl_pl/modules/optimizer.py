"""The optimiser and the learning rate's schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch.optim import Adam, AdamW

from wssl_pl.errors import WSSLError

OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW}


@dataclass(frozen=True)
class OptimizerSettings:
    """The settings of an optimiser and its schedule, as the modules take them.

    The second phase is a fraction of a run's steps at its end, in which `second_phase_lr` is in the place of `lr`.

    Raises:
        WSSLError: a setting that cannot be used.
    """

    lr: float
    lr_schedule: str
    warmup_steps: int
    optimizer: str
    weight_decay: float
    betas: Sequence[float]
    eps: float
    second_phase: float = 0.0
    second_phase_lr: float = 5e-5

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        if not 0.0 <= self.second_phase <= 1.0:
            raise WSSLError("second_phase", self.second_phase, "must be a fraction of the run between 0 and 1")
        check_positive("second_phase_lr", self.second_phase_lr)
        check_positive("eps", self.eps)
        if self.optimizer not in OPTIMIZERS:
            raise WSSLError("optimizer", self.optimizer, f"must be one of {', '.join(OPTIMIZERS)}")
        check_factor("weight_decay", self.weight_decay)
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise WSSLError("betas", list(self.betas), "must be two numbers, each at least 0 and below 1")
        if self.warmup_steps < 0:
            raise WSSLError("warmup_steps", self.warmup_steps, "must be 0 or more")

    def second_phase_step(self, steps: float) -> float:
        """Return at which step of a run of `steps` steps the second phase begins; infinite where there is none."""
        return steps - round(self.second_phase * steps) if self.second_phase else math.inf

    def factor(self, step: int, steps: float) -> float:
        """Return the factor of the learning rate at a step, of `steps` in all: see `lr_factor`."""
        phase = self.second_phase_lr / self.lr if step >= self.second_phase_step(steps) else 1.0
        return phase * lr_factor(step, self.warmup_steps, steps if self.lr_schedule == "cosine" else None)

    def make(self, groups: list[dict[str, Any]], fused: bool | None) -> Adam:
        """Return the optimiser.

        Args:
            groups: parameter groups; what a group sets itself wins over the settings.
            fused: whether a step is one fused kernel; None leaves the choice to PyTorch.
        """
        betas = cast(tuple[float, float], tuple(self.betas))
        options: Any = {"lr": self.lr, "weight_decay": self.weight_decay, "eps": self.eps, "fused": fused}
        return OPTIMIZERS[self.optimizer](groups, betas=betas, **options)


def check_positive(name: str, value: float) -> None:
    """Raise `WSSLError` unless a value is a positive number."""
    if not 0.0 < value < math.inf:
        raise WSSLError(name, value, "must be a positive number")


def check_factor(name: str, value: float) -> None:
    """Raise `WSSLError` unless a value is a number, 0 or more."""
    if not 0.0 <= value < math.inf:
        raise WSSLError(name, value, "must be a number, 0 or more")


def lr_factor(step: int, warmup_steps: int, steps: float | None) -> float:
    """Return the factor of the learning rate at a step.

    It increases linearly over the warm-up, from `1 / (warmup_steps + 1)` at the first step to 1 at step `warmup_steps`.
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
