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


def blur(maps: Tensor, transposed: bool = False) -> Tensor:
    """Filters the last two dimensions of `(..., H, W)`, float; `transposed` is the derivative of that.

    Raises:
        ValueError: a side below 6 pixels, beyond which a reflected border does not reach.
    """
    rows, columns = (band(size, maps.device, maps.dtype) for size in maps.shape[-2:])
    if transposed:
        rows, columns = rows.T, columns.T
    if maps.device.type != "cpu":  # a few large products keep an accelerator busier than many small ones
        return rows @ (maps @ columns.T)
    maps = torch.cat([maps[..., near] @ columns[block, near].T for block, near in _blocks(len(columns))], dim=-1)
    return torch.cat([rows[block, near] @ maps[..., near, :] for block, near in _blocks(len(rows))], dim=-2)


def _blocks(size: int) -> list[tuple[slice, slice]]:
    """Rows of a banded matrix, and the columns in which they are not zero, transposed or not."""
    starts = range(0, size, BLOCK)
    return [(slice(at, at + BLOCK), slice(max(0, at - RADIUS), at + BLOCK + RADIUS)) for at in starts]


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
