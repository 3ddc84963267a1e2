"""What both stages share: the optimiser, the memory format, compilation, and the mark in the checkpoint."""

from typing import Any, ClassVar

import torch
from lightning import LightningModule
from torch import nn
from torch.optim import Optimizer

from wssl_pl.errors import UsageError


class WSSLModule(LightningModule):
    """Base of the two stages: Adam over what is not frozen, convolutions in channels_last.

    Subclasses hold their networks as submodules, name their `stage`, and say whether they need masks.
    """

    stage: ClassVar[str]
    needs_masks: ClassVar[bool]
    monitor: ClassVar[str]  # the logged figure, the higher the better, by which the best checkpoint is kept

    def check_lr(self, lr: float) -> None:
        """Raises `UsageError` unless the learning rate is a positive number."""
        if not 0.0 < lr < float("inf"):
            raise UsageError(f"model.lr={lr} is not a positive number")

    def finish_networks(self) -> None:
        """To be called when all networks stand: lays the convolutions' weights out in channels_last."""
        self.to(memory_format=torch.channels_last)

    def networks(self) -> list[nn.Module]:
        """The networks that `model.compile` compiles."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Compiles the networks in place, so that the names in the state dict stay, when `compile` is set."""
        if stage == "fit" and self.hparams.get("compile"):
            for network in self.networks():
                network.compile()

    def configure_optimizers(self) -> Optimizer:
        """Adam as in the paper, over the parameters that are not frozen, in one fused kernel."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(parameters, lr=self.hparams["lr"], fused=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Writes the stage into the checkpoint, so that a later command knows what it holds."""
        checkpoint["stage"] = self.stage
