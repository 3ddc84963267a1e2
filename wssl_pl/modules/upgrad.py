"""Gradients that harm no task: UPGrad of Quinton and Rey 2024, by their library TorchJD."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn import Parameter

from wssl_pl.errors import UsageError


class UPGrad:
    """Combines the tasks' gradients such that, to first order, a step along them increases no task's loss.

    "Jacobian descent for multi-objective optimization", arXiv 2406.16232: each task's gradient with respect to the
    shared parameters is projected onto the cone of directions that conflict with no task, and the projections are
    averaged. A head's parameters get their own task's gradient. The projection is a small quadratic program that is
    solved on the CPU: the host waits for the device once in every step.

    Attributes:
        features: what the shared network gave to every head in its last pass; to be set before `backward`, which
            differentiates the heads and the shared network apart.

    Raises:
        UsageError: TorchJD or its solver is not installed.
    """

    features: Tensor

    def __init__(self) -> None:
        try:
            from torchjd import aggregation, autojac

            self.aggregator = aggregation.UPGrad()
        except ImportError:
            raise UsageError(
                "weighting=upgrad needs TorchJD: pip install 'torchjd[quadprog-projector]>=0.18'"
            ) from None
        # Functions, since a module of Python cannot be copied with the module (`model.ema`).
        self.mtl_backward, self.jac_to_grad = autojac.mtl_backward, autojac.jac_to_grad

    def backward(
        self, losses: Mapping[str, Tensor], shared: Iterable[Parameter], own: Sequence[Iterable[Parameter]]
    ) -> dict[str, Tensor]:
        """Adds to the parameters' gradients.

        Args:
            losses: scalars by task.
            shared: the shared network's parameters.
            own: the parameters of each task's head, in the order of the losses.

        Returns:
            by task, the weight that its gradient came to have among the shared parameters' ones.
        """
        shared, own = list(shared), [list(parameters) for parameters in own]
        features = self.features
        del self.features  # its graph is used once, and could not be copied
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
        """Raises `UsageError` for what Lightning does not do where a module steps itself."""
        if trainer.num_devices * trainer.num_nodes > 1:
            raise UsageError("weighting=upgrad works on one device: give trainer.devices=1")
        if trainer.gradient_clip_val:
            raise UsageError(f"trainer.gradient_clip_val={trainer.gradient_clip_val} does not go with weighting=upgrad")
        if trainer.accumulate_grad_batches != 1:
            accumulated = f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}"
            raise UsageError(f"{accumulated} does not go with weighting=upgrad: give a larger data.batch_size")
        if trainer.precision in ("16-mixed", "bf16-true"):
            raise UsageError(
                f"trainer.precision={trainer.precision} does not go with weighting=upgrad: give bf16-mixed or 32-true"
            )
