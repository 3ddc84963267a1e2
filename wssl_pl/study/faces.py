"""The paper's Figure 3 with the study's own models: a few test pairs, masked, as each arm fills them, and true."""

from collections.abc import Sequence

import numpy as np
import torch

from wssl_pl.callbacks.images import HOLE_GREY
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.drawing import side_by_side_figure
from wssl_pl.evaluation.evaluate import predict, read_pairs
from wssl_pl.evaluation.methods import Classical, Method, Model
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.metrics import composite
from wssl_pl.study.results import Results

ROWS = 4  # pairs that are shown, evenly over the list
ACROSS = 7  # arms beside each other
INCHES = 1.35  # of an image's side


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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        pairs = Pairs.open(results.folder.path / "pairs")
        chosen = [pairs.pairs[int(number)] for number in np.linspace(0, len(pairs) - 1, min(ROWS, len(pairs)))]
        image, mask, given = read_pairs(pairs, chosen, device)
    except WSSLError as error:
        return None, [str(error)]
    columns = [("masked", torch.where(mask > 0.5, HOLE_GREY, given))]
    notes = []
    for name in names:
        label, runs = results.study.arms[name].label, results.measured(name)
        if not runs:
            notes.append(f"{label}: not run")
            continue
        seed, run = next(iter(runs.items()))
        try:
            method: Method
            if run.stage == "method":
                method = Classical(run.options["method"])
            else:
                method = Model(results.folder.run(run.id) / "best.ckpt", device)
                method.learn_strengths(pairs.strengths, pairs.manifest.restore)
            output = predict(method, chosen, image, mask, given)
            filled = output if pairs.manifest.restore else composite(output, image, mask)
        except WSSLError as error:
            notes.append(f"{label}: {error}")
            continue
        columns.append((f"{label}, seed {seed}", filled))
    if len(columns) == 1:
        return None, notes
    drawn = [(title, [*images.permute(0, 2, 3, 1).cpu().numpy()]) for title, images in [*columns, ("original", image)]]
    return side_by_side_figure(drawn, ACROSS, INCHES), notes
