"""The window of SSIM (Wang et al. 2004): a Gaussian filter with reflected borders, as products with banded matrices.

The derivative of a product is the product with the matrix transposed, so that the reflected borders need no code of
their own. On a CPU only the blocks along the diagonal are multiplied.
"""

from functools import lru_cache

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004, section III-B
RADIUS = WINDOW // 2
C1, C2 = 0.01**2, 0.03**2  # for a data range of 1
BLOCK = 16  # rows of a block; the products of a whole side cost three times as much at 224 px


def check_window(window: int, sigma: float) -> None:
    """Raise `ValueError` unless `window` is odd and at least 3, and `sigma` a positive number."""
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window={window}: it must be odd and at least 3")
    if not 0.0 < sigma < float("inf"):
        raise ValueError(f"sigma={sigma}: it must be a positive number")


def blur(maps: Tensor, transposed: bool = False, window: int = WINDOW, sigma: float = SIGMA) -> Tensor:
    """Filter the last two dimensions of `(..., H, W)`, float; `transposed` is the derivative of that.

    Raises:
        ValueError: a side of `window // 2` pixels or less, beyond which a reflected border does not reach.
    """
    rows, columns = (band(size, maps.device, maps.dtype, window, sigma) for size in maps.shape[-2:])
    if transposed:
        rows, columns = rows.T, columns.T
    if maps.device.type != "cpu":  # a few large products keep an accelerator busier than many small ones
        return rows @ (maps @ columns.T)
    maps = torch.cat(
        [maps[..., near] @ columns[block, near].T for block, near in _blocks(len(columns), window)], dim=-1
    )
    return torch.cat([rows[block, near] @ maps[..., near, :] for block, near in _blocks(len(rows), window)], dim=-2)


def _blocks(size: int, window: int) -> list[tuple[slice, slice]]:
    """Return rows of a banded matrix, and the columns in which they are not zero, transposed or not."""
    starts, radius = range(0, size, BLOCK), window // 2
    return [(slice(at, at + BLOCK), slice(max(0, at - radius), at + BLOCK + radius)) for at in starts]


@lru_cache(maxsize=32)
def band(size: int, device: torch.device, dtype: torch.dtype, window: int = WINDOW, sigma: float = SIGMA) -> Tensor:
    """Return the matrix `(size, size)` that filters a column.

    Row `i` holds the window around `i`, folded back at the borders.

    Raises:
        ValueError: `size` is not above `window // 2`.
    """
    radius = window // 2
    if size <= radius:
        raise ValueError(f"SSIM needs a side of at least {radius + 1} px, not {size}")
    # The matrix is kept. Made under inference mode, as in a validation, it could not take part in a gradient later.
    with torch.inference_mode(False):
        # Built on the device: a copy from the host would make it wait.
        offsets = torch.arange(window, device=device) - radius
        weights = torch.exp(-(offsets.to(dtype) ** 2) / (2 * sigma**2))
        columns = (torch.arange(size, device=device).unsqueeze(1) + offsets).abs()
        columns = torch.where(columns >= size, 2 * (size - 1) - columns, columns)
        matrix = torch.zeros(size, size, device=device, dtype=dtype)
        return matrix.scatter_add_(1, columns, (weights / weights.sum()).expand(size, window))
