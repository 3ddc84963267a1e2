"""What a run is, in a few words: part of the name of its directory, and of the tables that show it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wssl_pl.errors import WSSLError
from wssl_pl.modules.encoder import read_start
from wssl_pl.tasks import normalise_weights


def describe_run(stage: str, model: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the label, tasks and weights of a run; those of a downstream run are of its pretext checkpoint.

    Args:
        stage: one of `STAGES`.
        model: the arguments of the module.
        record: what `run.json` of the resumed run holds; its pretext checkpoint may be gone.

    Raises:
        WSSLError: the pretext checkpoint cannot be read, or there are not as many weights as tasks.
    """
    if stage == "pretext":
        return {"stage": stage, "label": pretext_label(model), **_tasks(model)}
    if stage != "downstream":
        return {"stage": stage, "label": f"width{model['width']}"}
    frozen, ckpt = model["freeze_layers"], model["ckpt"]
    about: dict[str, Any] = {"stage": stage, "freeze_layers": frozen}
    if record and record.get("tasks"):
        weights = record.get("weights")
        pretext = {"tasks": record["tasks"], ("weighting" if isinstance(weights, str) else "weights"): weights}
    elif ckpt == "none":
        return about | {"label": downstream_label(model, None)}
    elif record is not None and not Path(ckpt).is_file():
        return about | {"label": record.get("label") or f"pretext-frozen{frozen}"}
    else:
        start = read_start(ckpt, model.get("reuse", "encoder"), mmap=True) or {}
        pretext = start["hyper_parameters"]
        if start["stage"] == "downstream":
            return about | {"label": f"model-frozen{frozen}" if frozen else "model-finetuned"}
        try:
            _tasks(pretext)
        except (AttributeError, KeyError, TypeError):
            raise WSSLError("ckpt", ckpt, "its settings hold no tasks and weights: it is damaged") from None
    return about | {"label": downstream_label(model, pretext), **_tasks(pretext)}


def settings_of(about: Mapping[str, Any], module: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which people compare runs, as strings and numbers.

    Args:
        about: as `describe_run` returns it.
        module: the module's hyperparameters.
        data: the arguments of the data module.
    """
    settings = {"stage": about["stage"], "run": about["label"]}
    settings |= {name: module[name] for name in sorted(module) if name not in ("tasks", "weights")}
    settings |= {name: about[name] for name in ("tasks", "weights") if name in about}
    settings |= {name: data[name] for name in ("batch_size", "image_size", "seed")}
    return {name: _plain(value) for name, value in settings.items() if value is not None}


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, list | tuple):
        return "+".join(str(_plain(item)) for item in value)
    if isinstance(value, float):
        return round(value, 12)
    return value if isinstance(value, str | int) else str(value)


def _tasks(pretext: Mapping[str, Any]) -> dict[str, Any]:
    weights = normalise_weights(pretext["tasks"], pretext.get("weights"))
    fixed = pretext.get("weighting", "fixed") == "fixed"
    rounded = [round(weight, 12) for weight in weights.values()]
    return {"tasks": list(weights), "weights": rounded if fixed else pretext["weighting"]}


def pretext_label(model: Mapping[str, Any]) -> str:
    """Return the tasks with their weights where these differ, and the weighting where it is not `fixed`.

    A task that is given by its class path is named by the class.

    Example:
        >>> pretext_label({"tasks": ["saturation", "sharpness"], "weights": [3, 7]})
        'saturation.3+sharpness.7'
        >>> pretext_label({"tasks": ["rotation", "masked"], "weighting": "uncertainty"})
        'rotation+masked-uncertainty'
        >>> pretext_label({"tasks": ["mypackage.Brightness"]})
        'Brightness'
    """
    weights = normalise_weights(model["tasks"], model.get("weights"))
    equal = len(set(weights.values())) == 1
    weighted = [(name.rpartition(".")[2], "" if equal else f"{weight:.2g}") for name, weight in weights.items()]
    parts = [name + weight.removeprefix("0") for name, weight in weighted]
    weighting = model.get("weighting", "fixed")
    return "+".join(parts) + ("" if weighting == "fixed" else f"-{weighting}")


def downstream_label(model: Mapping[str, Any], pretext: Mapping[str, Any] | None) -> str:
    """Return the label of the pretext run, or none, and how many layers are frozen; the loss where it is not `wssl`.

    Example:
        >>> downstream_label({"freeze_layers": 16}, {"tasks": ["rotation"]})
        'rotation-frozen16'
        >>> downstream_label({"freeze_layers": 0, "loss": "ssim"}, None)
        'scratch-ssim'
    """
    frozen = model["freeze_layers"]
    if pretext is not None:
        label = pretext_label(pretext) + (f"-frozen{frozen}" if frozen else "-finetuned")
    else:
        label = f"random-frozen{frozen}" if frozen else "scratch"
    loss = model.get("loss", "wssl")
    return label + ("" if loss == "wssl" else f"-{loss}")
