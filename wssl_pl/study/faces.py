"""The paper's Figure 3 with the study's own models: a few test pairs, masked, as each arm fills them, and true."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wssl_pl.callbacks.images import HOLE_GREY
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.evaluate import predict
from wssl_pl.evaluation.methods import Model
from wssl_pl.evaluation.pairs import Pair, Pairs
from wssl_pl.metrics import composite
from wssl_pl.study.folder import Results

ROWS = 4  # pairs that are shown, evenly over the list
ACROSS = 7  # arms beside each other
INCHES = 1.35  # of a picture's side
TITLE = 0.55  # inches


def figure3(results: Results, names: Sequence[str]) -> tuple[bytes | None, list[str]]:
    """Rows of pictures, and notes on what they lack.

    Args:
        results: of the study; its pairs folder and the `best.ckpt` of each arm's first measured seed are read.
        names: of the arms.

    Returns:
        PNG bytes, or None where no arm can be shown; and a line for each arm that is not, with the reason.
    """
    if not any(results.measured(name) for name in names):
        return None, ["no arm is measured yet"]
    try:
        pairs = Pairs.open(results.folder.path / "pairs")
    except WSSLError as error:
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
            filled = _fill(Model(results.folder.run(run.id) / "best.ckpt", device), chosen, image, mask)
        except WSSLError as error:
            notes.append(f"{label}: {error}")
            continue
        columns.append((f"{label}, seed {seed}", filled))
    if len(columns) == 1:
        return None, notes
    return _draw([*columns, ("original", image)]), notes


def _fill(model: Model, pairs: Sequence[Pair], image: Tensor, mask: Tensor) -> Tensor:
    return composite(predict(model, pairs, image, mask), image, mask)


def _draw(columns: Sequence[tuple[str, Tensor]]) -> bytes:
    """The arms' columns in bands of at most `ACROSS`, each between the masked picture and the original."""
    from matplotlib.figure import Figure

    masked, *arms, original = columns
    bands = [[masked, *arms[start : start + ACROSS], original] for start in range(0, len(arms), ACROSS)]
    rows, size = len(masked[1]), masked[1].shape[-1]
    high = INCHES * rows + TITLE
    width, height = INCHES * len(bands[0]), high * len(bands)
    figure = Figure(figsize=(width, height), dpi=max(100, size / INCHES))
    for number, band in enumerate(bands):
        top = height - number * high - TITLE
        grid = figure.add_gridspec(
            rows, len(band), wspace=0.03, hspace=0.03, left=0.01, right=0.01 + 0.98 * len(band) / len(bands[0]),
            bottom=(top - INCHES * rows) / height, top=top / height,
        )  # fmt: skip
        for column, (title, pictures) in enumerate(band):
            for row in range(rows):
                axes = figure.add_subplot(grid[row, column])
                axes.imshow(pictures[row].permute(1, 2, 0).clamp(0, 1).cpu().numpy())
                axes.set_axis_off()
                if row == 0:
                    axes.set_title("\n".join(textwrap.wrap(title, 22)), fontsize=6.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
