"""Writing weights as safetensors: one file, or a folder that huggingface_hub loads."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from wssl_pl.files import write_atomically, write_json
from wssl_pl.models import ModelInfo
from wssl_pl.models.weights import CONFIG, JOINT, WEIGHTS

OF_JOINT = {"task_loss", "tasks", "weights", "levels", "temperatures"}
"""Hyperparameters of joint training."""


def write_safetensors(state: Mapping[str, Tensor], info: ModelInfo, path: Path, half: bool = False) -> None:
    """Write weights with their settings in the metadata; a whole file or none.

    Args:
        state: the state dict.
        info: settings of network and data.
        path: the file.
        half: halve the size: float16 is exact to three digits, which does not show in 8-bit images.
    """
    dtype = torch.float16 if half else torch.float32
    # On disk the plain layout, whatever the memory format was.
    plain = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }
    write_atomically(path, save(plain, metadata(info)))


def write_folder(state: Mapping[str, Tensor], info: ModelInfo, folder: Path, half: bool = False) -> None:
    """Write `model.safetensors` and `config.json`, which `open_model` and huggingface_hub read."""
    write_safetensors(state, info, folder / WEIGHTS, half)
    config = info.hyper_parameters | {"library": "wssl-pl", "stage": info.stage, "training": info.training}
    write_json(folder / CONFIG, config)


def without_heads(state: Mapping[str, Tensor], info: ModelInfo) -> tuple[dict[str, Tensor], ModelInfo]:
    """Return the weights and settings of a downstream model that is trained no more: without heads of `task_loss`."""
    settings = {name: value for name, value in info.hyper_parameters.items() if name not in OF_JOINT}
    kept = {key: value for key, value in state.items() if not key.startswith(JOINT)}
    return kept, replace(info, hyper_parameters=settings)


def metadata(info: ModelInfo) -> dict[str, str]:
    """Return what a model file says about itself, as strings."""
    return {
        "format": "pt",
        "library": "wssl-pl",
        "stage": info.stage,
        "hyper_parameters": json.dumps(info.hyper_parameters),
        "training": json.dumps(info.training),
    }
