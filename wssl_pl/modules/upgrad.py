"""Gradients that increase no task's loss: UPGrad of Quinton and Rey 2024, by their library TorchJD."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn import Parameter

from wssl_pl.errors import WSSLError


class UPGrad:
    """Combines the tasks' gradients such that, to first order, a step along them increases no task's loss.

    "Jacobian descent for multi-objective optimization", arXiv 2406.16232: each task's gradient with respect to the
    shared parameters is projected onto the cone of directions that conflict with no task, and the projections are
    averaged. A head's parameters get their own task's gradient. The projection is a small quadratic program that is
    solved on the CPU: the host waits for the device once in every step.

    Raises:
        WSSLError: TorchJD or its solver is not installed.
    """

    def __init__(self) -> None:
        try:
            from torchjd import aggregation, autojac

            self.aggregator = aggregation.UPGrad()
        except ImportError:
            remedy = "pip install 'torchjd[quadprog-projector]>=0.18'"
            raise WSSLError("weighting", "upgrad", "needs TorchJD", remedy) from None
        # Functions, since a module of Python cannot be copied with the module (`model.ema`).
        self.mtl_backward, self.jac_to_grad = autojac.mtl_backward, autojac.jac_to_grad

    def backward(
        self,
        losses: Mapping[str, Tensor],
        features: Tensor,
        shared: Iterable[Parameter],
        own: Sequence[Iterable[Parameter]],
    ) -> dict[str, Tensor]:
        """Add to the parameters' gradients; the heads and the shared network are differentiated apart.

        Args:
            losses: scalars by task.
            features: the shared network's output, which every head was given.
            shared: the shared network's parameters.
            own: the parameters of each task's head, in the order of the losses.

        Returns:
            by task, the weight of its gradient in that of the shared parameters.
        """
        shared, own = list(shared), [list(parameters) for parameters in own]
        # Autocast would have the Jacobians multiplied in bfloat16.
        with torch.autocast(features.device.type, enabled=False):
            # One task after the other: batched differentiation does not know every layer.
            self.mtl_backward(
                list(losses.values()), features, tasks_params=own, shared_params=shared, parallel_chunk_size=1
            )
            weights = self.jac_to_grad(shared, self.aggregator, optimize_gramian_computation=True)
        for parameter in itertools.chain(shared, *own):
            # In the memory format of the parameter: the fused Adam walks through both alike, whatever their strides.
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        return dict(zip(losses, weights, strict=True))

    @staticmethod
    def check_trainer(trainer: Trainer) -> None:
        """Raise `WSSLError` for what Lightning does not do where a module steps itself."""
        conflict = "conflicts with weighting=upgrad"
        if trainer.num_devices * trainer.num_nodes > 1:
            raise WSSLError("devices", trainer.num_devices, conflict, "give devices=1")
        if trainer.gradient_clip_val:
            raise WSSLError("gradient_clip_val", trainer.gradient_clip_val, conflict, "omit it")
        if trainer.accumulate_grad_batches != 1:
            steps = trainer.accumulate_grad_batches
            raise WSSLError("accumulate_grad_batches", steps, conflict, "give a larger batch_size")
        if trainer.precision in ("16-mixed", "bf16-true"):
            raise WSSLError("precision", trainer.precision, conflict, "give bf16-mixed or 32-true")
