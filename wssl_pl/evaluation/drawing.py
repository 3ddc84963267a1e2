"""Drawings as PNG bytes, for the reports of evaluations and studies."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from wssl_pl.callbacks.images import HOLE_GREY, side_by_side
from wssl_pl.drawing import Panel, draw_panels, figure_png, new_figure
from wssl_pl.errors import DataError
from wssl_pl.evaluation.evaluate import predict, read_pairs
from wssl_pl.evaluation.files import read_rgb
from wssl_pl.evaluation.methods import Method
from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.evaluation.results import Table
from wssl_pl.metrics import composite
from wssl_pl.metrics.bins import BINS

BOXES = ("psnr_composite", "ssim_composite", "psnr_hole", "l1_hole")
RESTORED_BOXES = ("psnr", "ssim", "psnr_hole", "psnr_known")
MAX_SIDE = 256
"""Pixels of an image in a strip, at most."""
GAP = 2
"""White pixels around each, as `side_by_side` leaves them."""


def image_png(image: Tensor) -> bytes:
    """Return an image `(3, H, W)` in [0, 1] as PNG."""
    buffer = io.BytesIO()
    pixels = to_pil_image(image.mul(255).round().to(torch.uint8).cpu())
    pixels.save(buffer, format="png", compress_level=4)  # the default takes twice as long for 1 %
    return buffer.getvalue()


def box_plots(table: Table) -> bytes:
    """Draw a panel per metric with a box per ratio bin: median, quartiles, whiskers of 1.5 box heights."""
    metrics = RESTORED_BOXES if table.restored else BOXES
    figure = new_figure(3.1 * len(metrics), 3.1, dpi=110)
    bins = [name for name in BINS if (table.bins == name).any()]
    for axes, metric in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics, strict=True):
        column = table.column(metric)
        boxes = [column[(table.bins == name) & np.isfinite(column)] for name in bins]
        axes.boxplot(boxes, tick_labels=bins, widths=0.6, flierprops={"markersize": 3})
        axes.set_title(LABELS[metric] + " (dB)" * metric.startswith("psnr"), fontsize=10)
        axes.set_xlabel("hole (%)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", alpha=0.3)
    return figure_png(figure)


def strip(pairs: Pairs, outputs: Mapping[str, Tensor], method: Method, device: torch.device, name: str) -> bytes:
    """Draw masked input, prediction, composite (but of damaged inputs) and truth of one pair, side by side.

    Args:
        pairs: where it is.
        outputs: predictions `(3, H, W)` in [0, 1] that are known, by name.
        method: predicts the others.
        device: where.
        name: of the pair.
    """
    pair = next(pair for pair in pairs.pairs if pair.name == name)
    image, mask, given = read_pairs(pairs, [pair], device)
    output = outputs[name][None].to(device) if name in outputs else predict(method, [pair], image, mask, given)
    columns = [torch.where(mask > 0.5, HOLE_GREY, given), output, image]
    if not pairs.manifest.restore:
        columns.insert(2, composite(output, image, mask))
    longest = max(image.shape[-2:])
    if longest > MAX_SIDE:
        size = [max(1, round(side * MAX_SIDE / longest)) for side in image.shape[-2:]]
        columns = [F.interpolate(column, size, mode="bilinear", antialias=True) for column in columns]
    return image_png(side_by_side(columns))


def columns_of(strip: Path, count: int) -> list[NDArray[np.uint8]]:
    """Return the images `(H, W, 3)` of a strip that has `count` of them.

    Raises:
        DataError: The file cannot be read, or is no such strip.
    """
    pixels = read_rgb(strip)
    width, rest = divmod(pixels.shape[1] - GAP, count)
    if rest or width <= GAP or pixels.shape[0] <= 2 * GAP:
        raise DataError("result", strip, f"is no strip of {count} images", "run `wssl evaluate` again")
    return [pixels[GAP:-GAP, GAP + start : start + width] for start in range(0, pixels.shape[1] - GAP, width)]


def side_by_side_figure(columns: Sequence[tuple[str, Sequence[NDArray[Any]]]], across: int, inches: float) -> bytes:
    """Draw titled columns of images; more than `across` + 2 in bands, each between the first and the last column.

    Args:
        columns: title and images, each `(H, W, 3)` uint8 or in [0, 1]; of every column as many.
        across: columns of a band, without the first and the last.
        inches: width of an image.
    """
    first, *middle, last = columns
    rows = []
    for start in range(0, len(middle), across):
        band = [first, *middle[start : start + across], last]
        for number in range(len(first[1])):
            rows.append([Panel(images[number], "" if number else title) for title, images in band])
    return figure_png(draw_panels(rows, inches))
