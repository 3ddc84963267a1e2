"""Figures without a window system, and images beside each other with titles."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wssl_pl.errors import WSSLError
from wssl_pl.files import replacing, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE_INCHES = 0.4  # above a row that has titles


def new_figure(
    width: float, height: float, dpi: float = 120, layout: Literal["constrained", "compressed"] = "constrained"
) -> "Figure":
    """Return a figure of `width` x `height` inches."""
    # Without pyplot: no window system is used and nothing stays in its global list.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout=layout)


def figure_png(figure: "Figure") -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in the format that the file's name ends in, whole or not at all.

    Raises:
        WSSLError: There is no such format, or the file cannot be written.
    """
    known = figure.canvas.get_supported_filetypes()
    if (form := path.suffix.removeprefix(".").lower() or "png") not in known:
        raise WSSLError("out", path, "names no image format", f"end the name in .{', .'.join(sorted(known))}")
    with writing("out", path), replacing(path) as file:
        figure.savefig(file, format=form)


@dataclass(frozen=True)
class Panel:
    """One of the images of a figure.

    Attributes:
        image: `(H, W, 3)` uint8 or in [0, 1], or grey `(H, W)` in [0, 1].
        title: written above it; lines are wrapped.
        frame: top, left and side, in pixels, of a square that is framed.
    """

    image: NDArray[Any]
    title: str = ""
    frame: tuple[int, int, int] | None = None


def draw_panels(rows: Sequence[Sequence[Panel]], inches: float, title: str = "") -> "Figure":
    """Return a figure of images in rows, each `inches` wide and with all its pixels; short rows end earlier."""
    from matplotlib.patches import Rectangle

    across = max(len(row) for row in rows)
    high = sum(inches + TITLE_INCHES * any(panel.title for panel in row) for row in rows) + 0.3 * bool(title)
    side = max(panel.image.shape[0] for row in rows for panel in row)
    figure = new_figure(inches * across, high, max(100, side / inches), "compressed")
    for axes, row in zip(figure.subplots(len(rows), across, squeeze=False), rows, strict=True):
        for axis in axes:
            axis.set_axis_off()
        for axis, panel in zip(axes, row, strict=False):
            pixels = panel.image if panel.image.dtype == np.uint8 else panel.image.clip(0, 1)
            axis.imshow(pixels, "gray", vmin=0, vmax=1)
            axis.set_title("\n".join(textwrap.wrap(panel.title, int(16.5 * inches))), fontsize=min(8, 4.8 * inches))
            if panel.frame:
                top, left, size = panel.frame
                axis.add_patch(Rectangle((left - 0.5, top - 0.5), size, size, fill=False, edgecolor="yellow"))
    figure.suptitle(title, fontsize=9)
    return figure
