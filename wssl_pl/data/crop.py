"""Crop a batch on its device, with or without a margin."""

import torch
from torch import Tensor


def crop_batch(images: Tensor, crop: Tensor, size: int) -> Tensor:
    """Cut a square out of each image, at its own place.

    A row of a crop is one contiguous run of memory: all rows of the batch are gathered by one `index_select` from the
    overlapping view of all such runs. No loop over samples, no waiting for the device, about the cost of a copy.

    Args:
        images: `(B, C, H, W)`, any dtype, in channels_last order (else it is copied to it).
        crop: `(B, 2)` int64, (top, left), within [0, H - size] and [0, W - size].
        size: Side of the square in pixels.

    Returns:
        `(B, C, size, size)` in channels_last order, the dtype of `images`.
    """
    count, channels, height, width = images.shape
    if (height, width) == (size, size) or count == 0:
        return images[..., :size, :size]
    flat = images.permute(0, 2, 3, 1).reshape(-1)
    run = size * channels
    runs = flat.as_strided((flat.numel() - run + 1, run), (1, 1), flat.storage_offset())
    first_row = torch.arange(count, device=images.device)[:, None] * height + crop[:, :1]
    rows = first_row + torch.arange(size, device=images.device)
    starts = (rows * width + crop[:, 1:]) * channels
    return runs.index_select(0, starts.flatten()).view(count, size, size, channels).permute(0, 3, 1, 2)


def trim(images: Tensor, margin: int) -> Tensor:
    """Return a view of the images without their outermost `margin` pixels on every side.

    Args:
        images: `(B, C, H, W)`.
        margin: Pixels to cut off, 0 or more.

    Returns:
        `(B, C, H - 2 * margin, W - 2 * margin)`.

    Example:
        >>> trim(torch.zeros(1, 3, 10, 12), 2).shape
        torch.Size([1, 3, 6, 8])
    """
    height, width = images.shape[-2:]
    return images[..., margin : height - margin, margin : width - margin]
