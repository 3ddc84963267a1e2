"""Padding to the sizes that five poolings can halve, and back."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(images: Tensor, multiple: int = 32) -> Tensor:
    """Pads `(B, C, H, W)` on all sides until `H` and `W` divide by `multiple`.

    Reflects at the border; where a side is too short to be reflected, its last pixels are repeated first. Images
    that fit already come back unchanged. Undo with `crop_to(padded, H, W)`.

    Example:
        >>> import torch
        >>> pad_to_multiple(torch.rand(1, 3, 1, 70)).shape
        torch.Size([1, 3, 32, 96])
    """
    height, width = images.shape[-2:]
    top, bottom = _split(-height % multiple)
    left, right = _split(-width % multiple)
    if not (top or bottom or left or right):
        return images
    # One side at a time, because each may need another mode: reflection takes fewer pixels than the side has.
    for padding, side in (((left, right, 0, 0), width), ((0, 0, top, bottom), height)):
        mode = "reflect" if max(padding) < side else "replicate"
        images = F.pad(images, padding, mode=mode)
    return images


def crop_to(images: Tensor, height: int, width: int) -> Tensor:
    """The central `(B, C, height, width)` part of what `pad_to_multiple` made of an image of that size."""
    top, _ = _split(images.shape[-2] - height)
    left, _ = _split(images.shape[-1] - width)
    return images[..., top : top + height, left : left + width]


def _split(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2
