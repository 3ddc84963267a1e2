"""An exponential moving average of the weights, validated and saved as the model."""

import itertools
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor


class EMAWeights(WeightAveraging):
    """Average the weights over the steps: `average = decay * average + (1 - decay) * weights` after every step.

    Buffers that a module names in `not_averaged` are copied. The average starts with the weights after the first
    step. It is validated and saved under `state_dict`; the weights that are trained are saved beside it, so that a
    resumed run continues exactly. After the training the module has the averaged weights. Unlike with Lightning's
    `EMAWeightAveraging`, the average is on the module's device and the host never waits for it; what does not change,
    such as a frozen encoder, is equal in the average bit by bit; and the average stays in place until all callbacks
    have seen the validation.

    Args:
        decay: between 0 and 1; the average reaches back about `1 / (1 - decay)` steps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._swapped = False  # whether the module has the average, and the copy the weights that are trained
        self._swaps_back = False  # whether the end of the present validation ends that

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module when a fit starts."""
        if stage != TrainerFn.FITTING:
            return
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        self._latest_update_step, self._swapped = 0, False
        # First in line: a callback that writes a checkpoint after this step finds the average of this step.
        trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after an optimiser step."""
        if trainer.global_step > self._latest_update_step:
            self._update(pl_module, first=self._latest_update_step == 0)
            self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def _update(self, pl_module: LightningModule, first: bool) -> None:
        averages, weights = _tensors(self._copy), _tensors(pl_module)
        if first:
            torch._foreach_copy_(averages.averaged, weights.averaged)
        else:
            torch._foreach_lerp_(averages.averaged, weights.averaged, 1.0 - self.decay)
        for average, value in zip(averages.copied, weights.copied, strict=True):
            average.copy_(value)
        assert self._average_model is not None
        self._average_model.n_averaged += 1

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        self._swaps_back = self._average_model is not None and not self._swapped
        if self._swaps_back:
            self._swap_models(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the average in place for the other callbacks."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue with the weights that are trained."""
        if self._swaps_back:
            self._swap_models(pl_module)
            self._swaps_back = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module."""
        if not self._swapped:
            self._swap_models(pl_module)

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the model, and the weights that are trained beside it."""
        if self._average_model is None:
            return
        module, copy = checkpoint["state_dict"], self._copy.state_dict()
        average, current = (module, copy) if self._swapped else (copy, module)
        checkpoint["state_dict"], checkpoint["current_model_state"] = average, current
        checkpoint["averaging_state"] = {"n_averaged": self._average_model.n_averaged}

    def model_state(self, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
        """Return the model's state for a checkpoint, also of weights alone, for which Lightning calls no callback."""
        state: dict[str, Tensor] = checkpoint["state_dict"]
        has_weights = self._average_model is not None and not self._swapped and "averaging_state" not in checkpoint
        return self._copy.state_dict() if has_weights else state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue the average of a resumed run; a test or a prediction takes the model as it was saved."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    @property
    def _copy(self) -> torch.nn.Module:
        assert self._average_model is not None
        return self._average_model.module


class _Tensors(NamedTuple):
    averaged: list[Tensor]
    copied: list[Tensor]


def _tensors(module: torch.nn.Module) -> _Tensors:
    """Return the parameters and buffers that are averaged, and the others: counts, and what is `not_averaged`."""
    excluded = {id(getattr(part, name)) for part in module.modules() for name in getattr(part, "not_averaged", ())}
    found = _Tensors([], [])
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        is_averaged = tensor.is_floating_point() and id(tensor) not in excluded
        (found.averaged if is_averaged else found.copied).append(tensor.detach())
    return found
