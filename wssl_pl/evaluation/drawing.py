"""Drawings as PNG bytes, for the reports of evaluations and studies."""

import io

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from wssl_pl.callbacks import image_grid
from wssl_pl.drawing import figure_png, new_figure
from wssl_pl.evaluation.evaluate import predict
from wssl_pl.evaluation.methods import Method
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.evaluation.results import Table
from wssl_pl.metrics.bins import BINS

BOXES = {
    "psnr_composite": "PSNR composite (dB)",
    "ssim_composite": "SSIM composite",
    "psnr_hole": "PSNR hole (dB)",
    "l1_hole": "L1 hole",
}


def image_png(image: Tensor) -> bytes:
    """Return an image `(3, H, W)` in [0, 1] as PNG."""
    buffer = io.BytesIO()
    pixels = to_pil_image(image.mul(255).round().to(torch.uint8).cpu())
    pixels.save(buffer, format="png", compress_level=4)  # the default takes twice as long for 1 %
    return buffer.getvalue()


def box_plots(table: Table) -> bytes:
    """Draw a panel per metric with a box per ratio bin: median, quartiles, whiskers of 1.5 box heights."""
    figure = new_figure(3.1 * len(BOXES), 3.1, dpi=110)
    bins = [name for name in BINS if (table.bins == name).any()]
    for axes, (metric, label) in zip(np.atleast_1d(figure.subplots(1, len(BOXES))), BOXES.items(), strict=True):
        column = table.column(metric)
        boxes = [column[(table.bins == name) & np.isfinite(column)] for name in bins]
        axes.boxplot(boxes, tick_labels=bins, widths=0.6, flierprops={"markersize": 3})
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("hole (%)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", alpha=0.3)
    return figure_png(figure)


def strip(pairs: Pairs, name: str, method: Method, device: torch.device) -> bytes:
    """Draw masked input, prediction, composite and truth of one pair, side by side."""
    pair = next(pair for pair in pairs.pairs if pair.name == name)
    image, mask = pairs.read([pair])
    image, mask = image.to(device).float().div_(255), mask.to(device).float()
    return image_png(image_grid(image, mask, predict(method, [pair], image, mask)))
