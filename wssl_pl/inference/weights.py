"""Weights as files that hold data and nothing else: reading all of them, writing safetensors."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wssl_pl.errors import UsageError
from wssl_pl.inference.backends import SHIPPED, ModelInfo
from wssl_pl.inference.output import replacing
from wssl_pl.modules import InpaintModule, read_checkpoint
from wssl_pl.modules.checkpoint import check_state

Module = TypeVar("Module", bound=InpaintModule)
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Of the data's settings those that tell a user of the model what it saw.
TRAINING = ("image_size", "resize", "hole_ratio", "dilate")


def read_module(path: Path) -> tuple[InpaintModule, ModelInfo]:
    """The module of a `.ckpt`, a `.safetensors` file or an exported folder, on the CPU in float32.

    Raises:
        UsageError: it is none of these, is damaged, holds code, or does not fit the network that it tells of.
    """
    state, info = read_weights(path)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"ckpt={path} holds other things than tensors among its weights")
    return load_state(lambda: _build(info, path), state, f"ckpt={path}"), info


def load_state(build: Callable[[], Module], state: Mapping[str, Tensor], source: str) -> Module:
    """A module in float32 with the weights of a file.

    Raises:
        UsageError: they do not fit the module.
    """
    # First without memory: settings that were made up for harm could ask for any amount of it.
    with torch.device("meta"):
        check_state(build(), dict(state), source)
    module = build()
    module.load_state_dict(dict(state))
    return module.float()


def _build(info: ModelInfo, path: Path) -> InpaintModule:
    try:
        return InpaintModule(**info.hyper_parameters | {"compile": False})
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        line = str(error).splitlines()[0]
        raise UsageError(f"ckpt={path}: its settings {info.hyper_parameters} make no network here: {line}") from None


def read_weights(path: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """The state dict of a model file and what the file tells of it.

    Raises:
        UsageError: see :func:`read_module`.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() == ".safetensors":
        state, metadata = read_safetensors(path)
        name = f"the shipped model {path.name}" if path == SHIPPED else str(path)
        return state, ModelInfo(name, *_settings(path, metadata))
    checkpoint = read_checkpoint(path, stage="downstream")
    data = checkpoint.get("datamodule_hyper_parameters") or {}
    training = {key: data[key] for key in TRAINING if key in data}
    training |= {"epochs": checkpoint.get("epoch", -1) + 1, "steps": checkpoint.get("global_step", 0)}
    # The command line leaves keys of its own that begin with an underscore.
    found = checkpoint.get("hyper_parameters") or {}
    settings = {key: value for key, value in found.items() if not key.startswith("_")}
    return checkpoint["state_dict"], ModelInfo(str(path), settings, training)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; a format that cannot hold code.

    Raises:
        UsageError: it is none.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"ckpt={path} is not a safetensors file, or was cut short: {error}") from None


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UsageError(f"ckpt={folder} is a folder without {name}: `wssl export safetensors` writes one with it")
    state, _ = read_safetensors(folder / WEIGHTS)
    try:
        config = json.loads((folder / CONFIG).read_text())
        if not isinstance(config, dict):
            raise ValueError("it holds no settings")
        training = config.pop("training", {})
        stage = config.pop("stage", None)
        config.pop("library", None)
    except (OSError, ValueError) as error:
        raise UsageError(f"ckpt={folder}: {CONFIG} cannot be read: {error}") from None
    if stage != "downstream" or not isinstance(training, dict):
        raise UsageError(f"ckpt={folder}: {CONFIG} is not that of an inpainting model of this project")
    return state, ModelInfo(str(folder), config, training)


def _settings(path: Path, metadata: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        settings, training = json.loads(metadata["hyper_parameters"]), json.loads(metadata["training"])
        if metadata["stage"] != "downstream" or not isinstance(settings, dict) or not isinstance(training, dict):
            raise ValueError
    except (KeyError, ValueError):
        raise UsageError(
            f"ckpt={path} does not tell its network: safetensors of `wssl export safetensors` do, in their metadata"
        ) from None
    return settings, training


def write_safetensors(state: Mapping[str, Tensor], info: ModelInfo, path: Path, half: bool = False) -> None:
    """Writes weights with what :func:`read_weights` needs to know in the metadata; a whole file or none.

    Args:
        state: the state dict.
        info: settings of network and data.
        path: the file.
        half: halve the size: float16 is exact to three digits, which does not show in 8-bit pictures.
    """
    dtype = torch.float16 if half else torch.float32
    # On disk the plain layout, whatever the memory format was.
    plain = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }
    with replacing(path) as temporary:
        temporary.write_bytes(save(plain, metadata(info)))


def write_folder(state: Mapping[str, Tensor], info: ModelInfo, folder: Path, half: bool = False) -> None:
    """Writes `model.safetensors` and `config.json`, which :func:`read_weights` and huggingface_hub read."""
    write_safetensors(state, info, folder / WEIGHTS, half)
    config = info.hyper_parameters | {"library": "wssl-pl", "stage": "downstream", "training": info.training}
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")


def metadata(info: ModelInfo) -> dict[str, str]:
    """What a model file says of itself, as strings."""
    return {
        "format": "pt",
        "library": "wssl-pl",
        "stage": "downstream",
        "hyper_parameters": json.dumps(info.hyper_parameters),
        "training": json.dumps(info.training),
    }
