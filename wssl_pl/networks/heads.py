"""The classification branch that each pretext task has."""

from torch import Tensor, nn

from wssl_pl.networks.blocks import he_initialise


class TaskHead(nn.Module):
    """Global average pool, Linear, ReLU, Linear to the task's levels.

    Args:
        in_channels: feature maps of the encoder's last stage.
        levels: classes of the task.
        hidden: units between the two linear layers; a quarter of `in_channels` if left out.

    Example:
        >>> import torch
        >>> TaskHead(128, levels=4)(torch.rand(2, 128, 7, 7)).shape
        torch.Size([2, 4])
    """

    def __init__(self, in_channels: int, levels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(32, in_channels // 4)
        self.layers = nn.Sequential(nn.Linear(in_channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, levels))
        he_initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(B, levels)` from feature maps `(B, in_channels, H, W)`."""
        output: Tensor = self.layers(features.mean(dim=(2, 3)))
        return output
