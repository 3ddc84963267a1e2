"""The model card: what a model is, what it learnt from, how good it is and how it is used."""

from pathlib import Path

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.pages import markdown
from wssl_pl.evaluation.report import metric_rows
from wssl_pl.evaluation.results import read_result
from wssl_pl.models import ModelInfo

CARD = """\
---
library_name: wssl-pl
pipeline_tag: image-to-image
tags:
- image-inpainting
- self-supervised-learning
- pytorch-lightning
{license_line}---

# {title}

Fills the holes of pictures: a U-Net of width {width} ({parameters} parameters{norm}), after
[*WSSL: Weighted Self-Supervised Learning for image inpainting*](https://arxiv.org/abs/2211.13856), written by
WSSL-PL's `wssl export safetensors`.

## Use

```python
from wssl_pl.inference import Inpainter

filled = Inpainter.from_checkpoint("{file}")(photo, mask)    # PIL, NumPy or tensors; white or 1 is hole
```

```
wssl inpaint photo.png mask.png -o filled.png ckpt={file}
```

{hub}The network takes RGB in [0, 1] and a mask (1 = hole), sees {fill} in the hole, and draws the whole picture.

## What it learnt from

{data}

Trained on crops of {side} x {side} pixels{resized}, holes of {ratio} of the picture{dilated}; loss `{loss}`,
{frozen}; {steps} steps in {epochs} epochs.

## How good it is

{figures}

## Limits

It knows what it was trained on. Holes that are much thicker than a tenth of a picture of the training size are filled
at a coarser scale first, and come out smooth. Faces that it fills in are made up; they tell nothing of a real person.

{license}
"""


def model_card(
    info: ModelInfo, parameters: int, title: str, file: str, data: str | None, terms: str | None, figures: Path | None
) -> str:
    """The card as Markdown.

    Args:
        info: settings of the network and of its training.
        parameters: how many numbers it learnt.
        title: its name.
        file: the name of its folder.
        data: sentences on the training data; a sentence that nothing was said, if left out.
        terms: the licence of the weights, as the Hub calls it.
        figures: a result folder of `wssl evaluate`, whose table goes into the card.

    Raises:
        WSSLError: `figures` is not a result folder, or the training has settings of another kind.
    """
    settings, training = info.hyper_parameters, info.training
    try:
        ratio = "unknown share"
        if "hole_ratio" in training:
            ratio = "{:.0f} to {:.0f} %".format(*(100 * each for each in training["hole_ratio"]))
        steps = f"{training['steps']:,}" if "steps" in training else "an unknown number of"
    except (TypeError, ValueError, IndexError):
        raise WSSLError("ckpt", info.name, "what it says about its training cannot be read") from None
    frozen = settings.get("freeze_layers", 0)
    norm = settings.get("norm", "none")
    hub = f'`from wssl_pl.export import HubModel; HubModel.from_pretrained("{file}")` gives the PyTorch module.\n\n'
    return CARD.format(
        license_line=f"license: {terms}\n" if terms else "",
        title=title,
        width=settings.get("width"),
        parameters=f"{parameters:,}",
        norm="" if norm == "none" else f", {norm} normalisation",
        file=file,
        hub=hub,
        fill="the image's mean colour" if settings.get("fill") == "mean" else settings.get("fill") or 0,
        data=data or "The data was not named when the model was exported (`data=...`).",
        side=info.side,
        resized=f" of pictures of {training['resize']} pixels" if "resize" in training else "",
        ratio=ratio,
        dilated=f", widened by {training['dilate']} pixels" if training.get("dilate") else "",
        loss=settings.get("loss", "wssl"),
        frozen=f"the first {frozen} of the encoder's 16 layers frozen" if frozen else "the whole network trained",
        steps=steps,
        epochs=training.get("epochs", "an unknown number of"),
        figures=_figures(figures),
        license=f"Licence of the weights: {terms}."
        if terms
        else "No licence of the weights was stated; mind the terms of the data.",
    )


def _figures(folder: Path | None) -> str:
    if folder is None:
        return "Not measured yet: `wssl evaluate pairs=PAIRS ckpt=FILE out=RESULT`."
    result = read_result(folder)
    pairs = result.pairs
    measured = f"Measured by `wssl evaluate` on {pairs.evaluated} pairs (hash {pairs.hash[:16]})"
    told = f"{measured}, raw output and composite."
    return "\n".join([told, "", markdown(metric_rows(result))])
