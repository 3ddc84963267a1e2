"""Training with parameters, gradients and optimiser state sharded over the processes: FSDP2, by Lightning."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from wssl_pl.errors import WSSLError


class ShardedStrategy(ModelParallelStrategy):
    """Shard over all processes, on GPUs or CPUs, and write checkpoints as one file, as every other strategy does.

    `wssl train --trainer.strategy=fsdp` uses it; so does `Trainer(strategy=ShardedStrategy())`.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Connect the processes, which all belong to one group that shares the data."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    # Lightning's own methods load the weights and the optimiser before the module sees the checkpoint, and know only
    # optimisers of all parameters.
    lightning_restore_optimizer = True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the checkpoint, as every process reads it."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give every process its part of the weights."""
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self._module, dict(checkpoint["state_dict"]), options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every process its part of the optimiser's state."""
        options = StateDictOptions(full_state_dict=True)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self._module, optimizer, state, options=options)

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module


def check_sharding(module: Any, trainer: Trainer) -> None:
    """Raise `WSSLError` for a strategy that shards, and does not work with a module.

    Args:
        module: a module with `networks()`, whose parameters would be sharded.
        trainer: its trainer.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
        return
    if not isinstance(strategy, ShardedStrategy):
        reason = "is a strategy whose checkpoints cannot be read here"
        raise WSSLError("strategy", type(strategy).__name__, reason, "give trainer.strategy=fsdp, or ddp")
    sharded = {id(parameter) for network in module.networks() for parameter in network.parameters()}
    others = [name for name, parameter in module.named_parameters() if id(parameter) not in sharded]
    reason = f"{others[0]} is not part of its networks" if others else ""
    if module.stage != "downstream":
        reason = "only the networks of stage=downstream can be sharded"
    if module.hparams.get("adversarial"):
        reason = "a discriminator is trained beside it"
    if module.ema is not None:
        reason = "ema= averages whole weights"
    if reason:
        raise WSSLError("strategy", "fsdp", f"does not work with stage={module.stage}: {reason}", "give ddp")


def shard(networks: Sequence[nn.Module], mesh: Any) -> None:
    """Shard networks in place; their stages are gathered one by one when they compute.

    Args:
        networks: the networks.
        mesh: the processes.
    """
    from torch.distributed.fsdp import fully_shard

    for network in networks:
        network.to(memory_format=torch.contiguous_format)  # others cannot be cut
        for part in (*getattr(network, "stages", ()), network):
            fully_shard(part, mesh=mesh)


def set_gathered(networks: Sequence[nn.Module], gathered: bool) -> None:
    """Gather all parts of sharded networks and keep them, or free them again; all processes call it.

    Running statistics become those of the first process, as with DDP.
    """
    from torch.distributed.fsdp import FSDPModule

    for buffer in (buffer for network in networks for buffer in network.buffers() if gathered):
        torch.distributed.broadcast(buffer, 0)
    for part in (part for network in networks for part in network.modules() if isinstance(part, FSDPModule)):
        part.set_reshard_after_forward(not gathered, recurse=False)
        if gathered:
            part.unshard()
        else:
            part.reshard()
