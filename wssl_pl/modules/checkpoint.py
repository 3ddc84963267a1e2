"""Reading checkpoints: never unpickling code, and with one clear line when a file is not what it should be."""

import pickle
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wssl_pl.errors import WSSLError, first_line
from wssl_pl.files import check_readable
from wssl_pl.modules.migration import add_slopes, migrate
from wssl_pl.stages import STAGES

# Of what every stage's checkpoint holds; a file may hold anything.
KINDS: dict[str, type] = {
    "state_dict": dict, "hyper_parameters": dict, "datamodule_hyper_parameters": dict, "callbacks": dict, "epoch": int,
    "global_step": int,
}  # fmt: skip


def read_checkpoint(
    path: str | Path, stage: str | Collection[str] | None = None, name: str = "ckpt", mmap: bool = False
) -> dict[str, Any]:
    """Return a checkpoint of one of our stages, on the CPU and in the present format.

    Args:
        path: the file.
        stage: that, or those, which can be used; default: any.
        name: the parameter that gave the path, for the error message.
        mmap: map the tensors into memory instead of reading them, for a look at the other values.

    Raises:
        WSSLError: no such file, unreadable, not a checkpoint, not ours, newer than this program, or of another stage.
    """
    path = Path(path)
    remedy = "give the .ckpt file of a run (runs/<stage>/<run>/best.ckpt)"
    check_readable(path, name, remedy)
    if not path.is_file():
        raise WSSLError(name, path, "is a folder" if path.is_dir() else "is no file", remedy)
    go_on = "; reuse=all trains a finished model on" if stage == "pretext" and name == "ckpt" else ""
    if path.suffix.lower() == ".safetensors":  # torch.load would take it for one
        raise WSSLError(name, path, "holds weights alone, without what training needs", remedy + go_on)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles by other programs; the line below says more
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError):
        if zipfile.is_zipfile(path):
            reason = "holds more than tensors and plain values, or is damaged: not loaded, since it could run code"
        else:
            reason = "is not a checkpoint, or was cut short"
        raise WSSLError(name, path, reason) from None
    found = checkpoint.get("stage") if isinstance(checkpoint, dict) else None
    if found not in STAGES or "state_dict" not in checkpoint:
        raise WSSLError(name, path, "is not a checkpoint of this project: it has no stage")
    accepted = STAGES if stage is None else (stage,) if isinstance(stage, str) else tuple(stage)
    if found not in accepted:
        needed = " or ".join(accepted)
        remedy = f"`wssl train stage={accepted[0]} ...` makes one" + (go_on if found == "downstream" else "")
        raise WSSLError(name, path, f"is a {found} checkpoint; a {needed} one is needed", remedy)
    for key, kind in KINDS.items():
        value: Any = checkpoint.get(key, kind())
        names = value if kind is dict else ()
        if not (isinstance(value, kind) and all(isinstance(each, str) for each in names)):
            raise WSSLError(name, path, f"is not a checkpoint of this project: its {key} is of another kind")
    if not all(isinstance(value, Tensor) for value in checkpoint["state_dict"].values()):
        raise WSSLError(name, path, "is not a checkpoint of this project: its state_dict holds more than tensors")
    checkpoint.setdefault("hyper_parameters", {})
    migrate(checkpoint, name, path)
    return checkpoint


def read_safetensors(path: Path, info_only: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, or none, and the metadata of a safetensors file, a format that cannot hold code.

    Raises:
        WSSLError: it is none.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {} if info_only else {key: file.get_tensor(key) for key in file.keys()}
            add_slopes(state)
            return state, dict(file.metadata() or {})
    except OSError as error:
        raise WSSLError("ckpt", path, f"cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError) as error:
        raise WSSLError("ckpt", path, f"is not a safetensors file, or was cut short: {first_line(error)}") from None


def read_tensors(path: str | Path, name: str, remedy: str | None = None) -> dict[str, Tensor]:
    """Return the tensors by name of a file of foreign weights, on the CPU, never unpickling code.

    Args:
        path: the file.
        name: the parameter that gave the path, for the error message.
        remedy: where such a file comes from.

    Raises:
        WSSLError: there is none, or it holds something else.
    """
    if not Path(path).is_file():
        raise WSSLError(name, path, "does not exist", remedy)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # torch.load raises whatever unpickling does; each means that these are not plain weights.
        raise WSSLError(name, path, "does not hold plain weights that load safely", remedy) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WSSLError(name, path, "does not hold tensors by name", remedy)
    return state


def check_state(module: nn.Module, state: Mapping[str, Tensor], name: str, path: object) -> None:
    """Check that `state` has exactly the keys and shapes of the state dict of `module`.

    Args:
        module: the network.
        state: the tensors by key.
        name: the parameter that gave the file, for the error message.
        path: the value of the parameter.

    Raises:
        WSSLError: they differ; the message names keys.
    """
    own = module.state_dict()
    problems = []
    for label, keys in (("missing", own.keys() - state.keys()), ("unexpected", state.keys() - own.keys())):
        if keys:
            problems.append(f"{label} {_some(sorted(keys))}")
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if shapes:
        problems.append(f"other shapes {_some(shapes)}")
    if problems:
        raise WSSLError(name, path, f"does not fit the network: {'; '.join(problems)}")


def encoder_state(checkpoint: dict[str, Any], path: object) -> dict[str, Tensor]:
    """Return the encoder's part of a checkpoint's state dict; every other key must belong to what is known.

    Raises:
        WSSLError: a key that belongs to neither encoder nor decoder, context, heads or weighting.
    """
    known = ("encoder.", "decoder.", "contexts.", "heads.", "joint.", "weighting.")
    unexpected = [key for key in checkpoint["state_dict"] if not key.startswith(known)]
    if unexpected:
        raise WSSLError("ckpt", path, f"holds keys that are neither the encoder's nor a head's: {_some(unexpected)}")
    return part_of(checkpoint, "encoder.")


def part_of(checkpoint: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the part of a checkpoint's state dict whose keys begin with `prefix`, without it."""
    state = checkpoint["state_dict"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _some(items: list[str], most: int = 4) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
