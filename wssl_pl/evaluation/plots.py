"""The pictures of a report, as PNG bytes."""

import io

import numpy as np
import torch
from PIL import Image

from wssl_pl.evaluation.methods import Method
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.evaluation.table import Table
from wssl_pl.metrics import composite
from wssl_pl.metrics.bins import BINS

SHOWN = {
    "psnr_composite": "PSNR composite (dB)",
    "ssim_composite": "SSIM composite",
    "psnr_hole": "PSNR hole (dB)",
    "l1_hole": "L1 hole",
}
HOLE_GREY = 0.5
GAP = 3


def box_plots(table: Table) -> bytes:
    """One panel per figure, one box per ratio bin: median, quartiles, whiskers of 1.5 box heights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(SHOWN), 3.1), dpi=110, layout="constrained")
    bins = [name for name in BINS if (table.bins == name).any()]
    for axes, (name, label) in zip(np.atleast_1d(figure.subplots(1, len(SHOWN))), SHOWN.items(), strict=True):
        column = table.column(name)
        boxes = [column[(table.bins == group) & np.isfinite(column)] for group in bins]
        axes.boxplot(boxes, tick_labels=bins, widths=0.6, flierprops={"markersize": 3})
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("hole (%)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def strip(pairs: Pairs, name: str, method: Method, device: torch.device) -> bytes:
    """Masked input, raw output, composite and truth of one pair, side by side."""
    from wssl_pl.evaluation.evaluate import predict

    pair = next(pair for pair in pairs.pairs if pair.name == name)
    image, mask = pairs.read([pair])
    image, mask = image.to(device).float().div_(255), mask.to(device).float()
    prediction = predict(method, [pair], image, mask)
    masked = torch.where(mask > 0.5, HOLE_GREY, image)
    gap = image.new_ones(1, 3, image.shape[2], GAP)
    columns = [masked, gap, prediction, gap, composite(prediction, image, mask), gap, image]
    row = torch.cat(columns, dim=3)[0].mul(255).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(row.permute(1, 2, 0).cpu().numpy()).save(buffer, format="png")
    return buffer.getvalue()
