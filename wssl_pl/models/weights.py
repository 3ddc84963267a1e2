"""Models of this project, run by PyTorch: `.ckpt`, `.safetensors` and exported folders."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from wssl_pl.devices import choose_inference_precision
from wssl_pl.errors import WSSLError, first_line
from wssl_pl.models import info as facts
from wssl_pl.models.info import (
    HEADS,
    Array,
    ModelInfo,
    Precision,
    check_output,
    parse_device,
)
from wssl_pl.modules.checkpoint import check_state, read_checkpoint, read_safetensors
from wssl_pl.modules.network import OF_NETWORK, OF_TRAINING, ORACLE, InpaintNetwork
from wssl_pl.records import read_settings
from wssl_pl.stages import FILLING

if TYPE_CHECKING:  # they import Lightning, which takes seconds
    from wssl_pl.modules.filling import FillingModule
    from wssl_pl.modules.pretext import PretextModule

Module = TypeVar("Module", bound=nn.Module)
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
DRAWN_MASKS = 8
"""Under how many masks heads look at an image, if they were trained on images with holes."""
JOINT = "joint."
"""How the names of the weights of joint training start, which fill nothing."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"  # of an exported folder
# Settings of the data that tell a user of the model what it was trained on.
TRAINING = ("image_size", "resize", "resize_filter", "hole_ratio", "dilate")


class TorchPredictor:
    """A model of this project, run by PyTorch; see `Predictor`.

    Attributes:
        module: an `InpaintNetwork`, or the `FillingModule` of a model that is more than that; in evaluation mode.
        precision: `32-true`, `bf16-mixed` or `16-mixed`.
    """

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        threads: int | None = None,
        *,
        oracle: bool = False,
        precision: Precision = "32-true",
    ) -> None:
        self._path, self._device = path, find_device(device)
        self.precision = choose_inference_precision(self._device.type) if precision == "auto" else precision
        self.module, self.info = read_network(path, oracle)
        self.module.to(self._device).eval().requires_grad_(False)
        self.device = str(self._device)
        if threads is not None:
            torch.set_num_threads(threads)

    @cached_property
    def heads(self) -> "Heads":
        """The heads of the model, which are read from its file now.

        Raises:
            WSSLError: it has none.
        """
        return Heads(*read_module(self._path), self._device)

    def __call__(self, images: Array, masks: Array, strengths: Mapping[str, Array] | None = None) -> Array:
        """See `Predictor`; an oracle needs the strengths `(B,)` of each damage, by its name."""
        tensors = [torch.from_numpy(array).to(self._device) for array in (images, masks)]
        known = {name: torch.from_numpy(array).to(self._device) for name, array in (strengths or {}).items()}
        with torch.inference_mode(), self.autocast():
            output = self.module(*tensors, **({"strengths": known} if known else {}))
            result: Array = output.float().cpu().numpy()
        check_output(result, images.shape, self.info.name)
        return result

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the model computes."""
        dtype = DTYPES.get(self.precision)
        # Without one a caller's own autocast stays.
        return nullcontext() if dtype is None else torch.autocast(self._device.type, dtype)


class Heads:
    """The heads of a model, which say what was done to an image.

    Attributes:
        info: what the model's file says.
        tasks: the classifications by name.
        calibrated: whether a validation has calibrated the probabilities.

    Raises:
        WSSLError: the model has no head that classifies.
    """

    def __init__(self, module: "FillingModule | PretextModule", info: ModelInfo, device: torch.device) -> None:
        from wssl_pl.modules import InpaintModule, PretextModule
        from wssl_pl.tasks import Classification

        tasks: Mapping[str, Any] = {}
        if isinstance(module, PretextModule):
            tasks = module.tasks
        elif isinstance(module, InpaintModule) and module.joint is not None:
            tasks = module.joint.tasks
        self.tasks = {name: task for name, task in tasks.items() if isinstance(task, Classification)}
        if not self.tasks:
            raise WSSLError("ckpt", info.name, "has no heads", HEADS)
        self._module: Any = module.to(device).eval().requires_grad_(False)
        self.info, self._device = info, device
        self.calibrated = bool(module.hparams["temperatures"])

    @property
    def unchanged_fractions(self) -> dict[str, float]:
        """By task the fraction of the training's images that it has left as they are."""
        fractions: dict[str, float] = self._module.unchanged_fractions
        return fractions

    def __call__(self, image: Array) -> dict[str, Array]:
        """Return the probabilities `(levels,)` by task for an image `(3, S, S)` in [0, 1], S at least 32.

        Heads that were trained on images with holes look at it under several masks, and their answers are averaged.
        """
        from wssl_pl.synthetic import draw_mask

        images, looks = torch.from_numpy(image[None]).to(self._device), []
        for seed in range(DRAWN_MASKS if self._module.heads_see_holes else 1):
            mask = torch.from_numpy(draw_mask(seed, image.shape[-1])).to(images)
            with torch.inference_mode():
                looks.append(self._module.probabilities(images, mask[None, None]))
        return {name: torch.cat([look[name] for look in looks]).mean(dim=0).cpu().numpy() for name in self.tasks}


def find_device(name: str, parameter: str = "device") -> torch.device:
    """Return the device of a name: `auto`, `cpu`, `gpu`, `cuda`, `cuda:N` or `mps`.

    Args:
        name: its name.
        parameter: the parameter that gave it, for messages.

    Raises:
        WSSLError: no such name, or no such device here.
    """
    kind, number = parse_device(name)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise WSSLError(parameter, name, "there is no CUDA device here", f"{parameter}=cpu works everywhere")
        if number and int(number) >= count:
            raise WSSLError(parameter, name, f"there are {count} CUDA devices here, counted from 0")
        return torch.device("cuda", int(number)) if number else torch.device("cuda")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise WSSLError(parameter, name, "there is no MPS device here", f"{parameter}=cpu works everywhere")
    return torch.device(kind)


def read_network(path: Path, oracle: bool = False) -> "tuple[InpaintNetwork | FillingModule, ModelInfo]":
    """Return the networks of a `.ckpt`, a `.safetensors` file or an exported folder, on the CPU in float32.

    Lightning is imported only for a model that is more than an `InpaintNetwork`, or has settings unknown here.

    Args:
        path: the file.
        oracle: accept a model that needs the strengths of damages.

    Raises:
        WSSLError: see `read_module`.
    """
    state, info = read_weights(path)
    settings = info.hyper_parameters
    special = info.stage != "downstream" or settings.get("strength_channels")
    if special or not settings.keys() <= OF_NETWORK | OF_TRAINING:
        return _made_module(path, state, info, oracle)
    if settings.get("task_loss"):  # its heads take no part
        state = {key: value for key, value in state.items() if not key.startswith(JOINT)}
    network = {key: settings[key] for key in OF_NETWORK if key in settings}
    return _made(InpaintNetwork, network, path, state), info


def read_module(path: Path, oracle: bool = False) -> "tuple[FillingModule, ModelInfo]":
    """Return the module of a `.ckpt`, a `.safetensors` file or an exported folder, on the CPU in float32.

    Args:
        path: the file.
        oracle: accept a model that needs the strengths of damages.

    Raises:
        WSSLError: it is none of these, is damaged, holds code, does not fit the network of its settings, or is an
            oracle.
    """
    return _made_module(path, *read_weights(path), oracle)


def _made_module(
    path: Path, state: dict[str, Tensor], info: ModelInfo, oracle: bool
) -> "tuple[FillingModule, ModelInfo]":
    if info.hyper_parameters.get("strength_channels") and not oracle:
        reason = "needs the strengths of the damages (strength_channels), which nobody knows of a photo"
        raise WSSLError("ckpt", path, reason, ORACLE)
    from wssl_pl.modules import FILLING_MODULES

    return _made(FILLING_MODULES[info.stage], info.hyper_parameters | {"compile": False}, path, state), info


def read_heads(path: Path) -> "tuple[FillingModule | PretextModule, ModelInfo]":
    """Return the module of a pretext checkpoint, or of any model file that `read_module` takes.

    Raises:
        WSSLError: see `read_module`.
    """
    if path.is_dir() or path.suffix.lower() == ".safetensors":
        return read_module(path)
    checkpoint = read_checkpoint(path)
    if checkpoint["stage"] in FILLING:
        return read_module(path)
    from wssl_pl.modules import PretextModule

    info = _info(path, checkpoint)
    settings = info.hyper_parameters | {"compile": False, "probe_steps": 0}
    if settings.get("weighting") == "upgrad":
        settings["weighting"] = "fixed"  # of no effect here, and TorchJD need not be installed
    return _made(PretextModule, settings, path, checkpoint["state_dict"]), info


def _made(kind: Callable[..., Module], settings: dict[str, Any], path: Path, state: dict[str, Tensor]) -> Module:
    """Return a module of the settings of a file, with its weights."""

    def build() -> Module:
        try:
            return kind(**settings)
        except Exception as error:
            # Settings of a file may be anything, and a module raises whatever it does on them.
            reason = f"its settings {str(settings)[:400]} make no network here: {first_line(error)}"
            raise WSSLError("ckpt", path, reason) from None

    return load_state(build, state, path)


def load_state(build: Callable[[], Module], state: Mapping[str, Tensor], path: str | Path) -> Module:
    """Return a module in float32 with the weights of a file.

    Raises:
        WSSLError: they do not fit the module, or are not finite numbers.
    """
    # First without memory: settings that were made up for harm could ask for any amount of it.
    with torch.device("meta"):
        check_state(build(), state, "ckpt", path)
    module = build()
    module.load_state_dict(dict(state))
    module = module.float()
    for key, value in module.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            reason = f"its weights {key} are not finite numbers: the training that wrote them has diverged"
            raise WSSLError("ckpt", path, reason, "give an earlier checkpoint")
    return module


def read_info(path: Path) -> ModelInfo:
    """Return what a file that PyTorch reads says about its model, without reading the weights.

    Raises:
        WSSLError: see `read_module`.
    """
    return read_weights(path, info_only=True)[1]


def read_weights(path: Path, info_only: bool = False) -> tuple[dict[str, Tensor], ModelInfo]:
    """Return the state dict of a model file, or nothing in place of it, and what the file says about its model.

    Raises:
        WSSLError: see `read_module`.
    """
    if path.is_dir():
        return _read_folder(path, info_only)
    if path.suffix.lower() == ".safetensors":
        state, metadata = read_safetensors(path, info_only)
        try:
            stored = read_settings(metadata)
        except ValueError:
            raise WSSLError(
                "ckpt", path, "does not say its network", "`wssl export safetensors` writes it into the metadata"
            ) from None
        shipped = facts.is_shipped(path)
        info = ModelInfo(f"the shipped model {path.name}" if shipped else str(path), *stored)
        if shipped:  # what is exported from it has it, too
            info.training["license"] = facts.SHIPPED_LICENSE
        return state, info
    checkpoint = read_checkpoint(path, stage=FILLING, mmap=info_only)
    return {} if info_only else checkpoint["state_dict"], _info(path, checkpoint)


def _info(path: Path, checkpoint: Mapping[str, Any]) -> ModelInfo:
    data = checkpoint.get("datamodule_hyper_parameters", {})
    training = {key: data[key] for key in TRAINING if key in data}
    training |= {"epochs": checkpoint.get("epoch", -1) + 1, "steps": checkpoint.get("global_step", 0)}
    # The command line leaves keys of its own that begin with an underscore.
    settings = {key: value for key, value in checkpoint.get("hyper_parameters", {}).items() if not key.startswith("_")}
    return ModelInfo(str(path), settings, training, checkpoint["stage"])


def _read_folder(folder: Path, info_only: bool) -> tuple[dict[str, Tensor], ModelInfo]:
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise WSSLError("ckpt", folder, f"is a folder without {name}", "`wssl export safetensors` writes one")
    state, _ = read_safetensors(folder / WEIGHTS, info_only)
    try:
        config = json.loads((folder / CONFIG).read_text())
        training, stage = config.pop("training", {}), config.pop("stage", None)
        config.pop("library", None)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise WSSLError("ckpt", folder, f"{CONFIG} cannot be read: {first_line(error)}") from None
    if stage not in FILLING or not isinstance(training, dict):
        raise WSSLError("ckpt", folder, f"{CONFIG} is not that of an inpainting model of this project")
    return state, ModelInfo(str(folder), config, training, stage)
