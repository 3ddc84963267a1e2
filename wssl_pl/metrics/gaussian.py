"""The window of SSIM (Wang et al. 2004): a Gaussian filter with reflected borders, as products with banded matrices.

One product for each side costs a third of a separable convolution on a CPU, and its derivative is the same with the
matrices transposed.
"""

from functools import lru_cache

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004, section III-B
RADIUS = WINDOW // 2
C1, C2 = 0.01**2, 0.03**2  # for a data range of 1


def blur(maps: Tensor, transposed: bool = False) -> Tensor:
    """Filters the last two dimensions of `(..., H, W)`, float; `transposed` is the derivative of that.

    Raises:
        ValueError: a side below 6 pixels, beyond which a reflected border does not reach.
    """
    rows, columns = (band(size, maps.device, maps.dtype) for size in maps.shape[-2:])
    if transposed:
        rows, columns = rows.T, columns.T
    return rows @ (maps @ columns.T)


@lru_cache(maxsize=32)
def band(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix `(size, size)` that filters a column: row `i` holds the window around `i`, folded back at the borders.

    Raises:
        ValueError: `size` is below 6.
    """
    if size <= RADIUS:
        raise ValueError(f"SSIM needs a side of at least {RADIUS + 1} px, not {size}")
    # Built on the device: a copy from the host would make it wait.
    offsets = torch.arange(WINDOW, device=device) - RADIUS
    weights = torch.exp(-(offsets.to(dtype) ** 2) / (2 * SIGMA**2))
    columns = (torch.arange(size, device=device).unsqueeze(1) + offsets).abs()
    columns = torch.where(columns >= size, 2 * (size - 1) - columns, columns)
    matrix = torch.zeros(size, size, device=device, dtype=dtype)
    return matrix.scatter_add_(1, columns, (weights / weights.sum()).expand(size, WINDOW))
