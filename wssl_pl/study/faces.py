"""The paper's Figure 3 with the study's own models: a few test pairs, masked, as each arm fills them, and true."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wssl_pl.errors import UsageError
from wssl_pl.evaluation.evaluate import predict
from wssl_pl.evaluation.methods import Model
from wssl_pl.evaluation.pairs import Pair, Pairs
from wssl_pl.evaluation.plots import HOLE_GREY
from wssl_pl.metrics import composite
from wssl_pl.study.results import Results

ROWS = 4  # pairs that are shown, evenly over the list
INCHES = 1.35


def figure3(results: Results, names: Sequence[str]) -> tuple[bytes | None, list[str]]:
    """Rows of pictures, and notes on what they lack.

    Args:
        results: of the study; its pairs folder and the `best.ckpt` of each arm's first measured seed are read.
        names: of the arms.

    Returns:
        PNG bytes, or None where no arm can be shown; and a line for each arm that is not, with the reason.
    """
    try:
        pairs = Pairs.open(results.folder / "pairs")
    except UsageError as error:
        return None, [str(error)]
    chosen = [pairs.pairs[int(number)] for number in np.linspace(0, len(pairs) - 1, min(ROWS, len(pairs)))]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    image, mask = pairs.read(chosen)
    image, mask = image.to(device).float().div_(255), mask.to(device).float()
    columns = [("masked", torch.where(mask > 0.5, HOLE_GREY, image))]
    notes = []
    for name in names:
        label, runs = results.study.arms[name].label, results.measured(name)
        if not runs:
            notes.append(f"{label}: not run")
            continue
        seed, run = next(iter(runs.items()))
        try:
            filled = _fill(Model(run.folder / "best.ckpt", device), chosen, image, mask)
        except UsageError as error:
            notes.append(f"{label}: {error}")
            continue
        columns.append((f"{label}, seed {seed}", filled))
    if len(columns) == 1:
        return None, notes
    return _draw([*columns, ("original", image)]), notes


def _fill(model: Model, pairs: Sequence[Pair], image: Tensor, mask: Tensor) -> Tensor:
    return composite(predict(model, pairs, image, mask), image, mask)


def _draw(columns: Sequence[tuple[str, Tensor]]) -> bytes:
    from matplotlib.figure import Figure

    rows = len(columns[0][1])
    size = columns[0][1].shape[-1]
    figure = Figure(figsize=(INCHES * len(columns), INCHES * rows + 0.55), dpi=max(100, size / INCHES))
    panels = figure.subplots(
        rows, len(columns), squeeze=False,
        gridspec_kw={"wspace": 0.03, "hspace": 0.03, "left": 0.01, "right": 0.99, "bottom": 0.01,
                     "top": 1 - 0.55 / (INCHES * rows + 0.55)},
    )  # fmt: skip
    for column, (title, pictures) in enumerate(columns):
        for row in range(rows):
            axes = panels[row, column]
            axes.imshow(pictures[row].permute(1, 2, 0).clamp(0, 1).cpu().numpy())
            axes.set_axis_off()
        panels[0, column].set_title("\n".join(textwrap.wrap(title, 22)), fontsize=6.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
