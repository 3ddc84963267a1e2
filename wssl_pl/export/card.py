"""The model card: what a model is, what it learned from, how good it is and how it is used."""

from pathlib import Path

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.pages import render
from wssl_pl.evaluation.report import metric_rows
from wssl_pl.evaluation.results import read_result
from wssl_pl.models import ModelInfo
from wssl_pl.stages import TITLES


def model_card(
    info: ModelInfo, parameters: int, title: str, file: str, data: str | None, terms: str | None, figures: Path | None
) -> str:
    """Return the card as Markdown.

    Args:
        info: settings of the network and of its training.
        parameters: how many numbers it learned.
        title: its name.
        file: the name of its folder.
        data: sentences on the training data; default: one that they were not named.
        terms: the licence of the weights, as the Hub calls it; default: the model's own.
        figures: a result folder of `wssl evaluate`, whose table goes into the card.

    Raises:
        WSSLError: `figures` is not a result folder, or the training has settings of another kind.
    """
    settings = {"width": None, "fill": 0, "loss": "wssl", "freeze_layers": 0} | info.hyper_parameters
    training = {"dilate": 0} | info.training
    try:
        result = read_result(figures) if figures else None
    except WSSLError as error:
        error.parameter = "figures"
        raise
    try:
        ratio = "unknown ratio"
        if "hole_ratio" in training:
            ratio = "{:.0f} to {:.0f} %".format(*(100 * each for each in training["hole_ratio"]))
        steps = f"{training['steps']:,}" if "steps" in training else "an unknown number of"
        licence = " ".join(training.get("license", "").split())
    except (AttributeError, TypeError, ValueError, IndexError):
        raise WSSLError("ckpt", info.name, "what it says about its training cannot be read") from None
    return render(
        "card.md.j2",
        "wssl_pl.export",
        title=title,
        file=file,
        parameters=f"{parameters:,}",
        data=data,
        terms=terms or licence or None,
        side=info.side,
        settings=settings,
        rival=TITLES.get(info.stage),
        training=training,
        ratio=ratio,
        steps=steps,
        pairs=result and result.pairs,
        metrics=result and metric_rows(result),
    )
