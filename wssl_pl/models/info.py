"""What a model file says about its model, and what a model does: fill masked images."""

import filecmp
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wssl_pl.errors import WSSLError
from wssl_pl.files import check_readable

SHIPPED = Path(__file__).parents[1] / "inference" / "model" / "wssl-w16.safetensors"
SHIPPED_LICENSE = "for non-commercial research only"  # the Apache License covers the code alone
KINDS = "a .ckpt, .safetensors or .onnx file, or an exported folder"
HEADS = "give the checkpoint of a pretext stage, or of a downstream stage that was trained with task_loss"
IMAGE_SIZE = 224  # of a model whose file does not say it, the paper's
MAX_BYTES = 2**31  # of a model file, the limit of ONNX's own format
HOLE_DEPTH = 0.1  # of a model whose file does not say it
MAX_SIDE = 4096  # pixels; a made-up size could ask for all memory

Array = NDArray[np.float32]
Polarity = Literal["hole", "known"]
Range = Literal["0-1", "-1-1", "0-255"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
RANGES = {"0-1": (0.0, 1.0), "-1-1": (-1.0, 1.0), "0-255": (0.0, 255.0)}


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says about its model.

    Attributes:
        name: what messages call it.
        hyper_parameters: the settings of the module that was saved; none for an ONNX file of another project.
        training: settings of its data, `image_size` among them where the file has it.
        stage: which trained it, one of `FILLING`, or `pretext`.
        foreign: whether it is an ONNX file of another project.
    """

    name: str
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    stage: str = "downstream"
    foreign: bool = False

    @property
    def side(self) -> int:
        """The side, in pixels, of the images that it was trained on, or that it takes."""
        return min(positive(self.training.get("image_size")) or IMAGE_SIZE, MAX_SIDE)

    @property
    def hole_depth(self) -> float:
        """How far from known pixels it fills a hole at once, as a fraction of `side`, at most half."""
        depth = self.training.get("hole_depth")
        return float(depth) if isinstance(depth, float | int) and 0.0 < depth <= 0.5 else HOLE_DEPTH

    @property
    def width(self) -> int | None:
        """Feature maps of the network's first stage, if the file says it."""
        return positive(self.hyper_parameters.get("width"))


def positive(value: Any) -> int | None:
    """Return a whole number above 0 as it is, and None for anything else."""
    return value if isinstance(value, int) and value > 0 else None


def check_output(output: Any, shape: tuple[int, ...], name: object) -> None:
    """Check the output of a network.

    Raises:
        WSSLError: it is no image of this shape, or holds values that are not finite numbers.
    """
    if not isinstance(output, np.ndarray) or output.shape != shape or output.dtype.kind not in "buif":
        found = f"shape {output.shape}" if isinstance(output, np.ndarray) else type(output).__name__
        raise WSSLError("ckpt", name, f"gives {found} for {shape}: not an image")
    if not np.isfinite(output).all():
        raise WSSLError("ckpt", name, "gives values that are not finite numbers")


class Predictor(Protocol):
    """A model that was opened. Calls from several threads at once are allowed.

    Attributes:
        info: what its file says.
        device: where it computes: `cpu`, `cuda`, ...
    """

    info: ModelInfo
    device: str

    def __call__(self, images: Array, masks: Array) -> Array:
        """Return the prediction.

        Args:
            images: `(B, 3, H, W)` in [0, 1], of any size, 0 in the hole.
            masks: `(B, 1, H, W)`, 1 = hole.

        Returns:
            `(B, 3, H, W)` in [0, 1], the whole image.
        """


@dataclass(frozen=True)
class Convention:
    """What an ONNX file of another project does not say about its values; see `open_model`.

    Raises:
        WSSLError: no such convention.
    """

    mask: Polarity | None = None
    range: Range | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("mask", ("hole", "known")), ("range", tuple(RANGES))):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise WSSLError(name, value, f"is not one of {', '.join(known)}")
        if self.size is not None and not 32 <= self.size <= MAX_SIDE:
            raise WSSLError("size", self.size, f"must be from 32 to {MAX_SIDE}")

    def refuse(self) -> None:
        """Raise `WSSLError` if anything is given for a file that says it itself."""
        for name, value in vars(self).items():
            if value is not None:
                raise WSSLError(name, value, "is for ONNX files of other projects", "omit it")


def find_model(ckpt: str | Path | None) -> Path:
    """Return the file or folder of a model; the shipped one for None.

    Raises:
        WSSLError: there is no such file, it cannot be read, or it is too large for a model.
    """
    path = SHIPPED if ckpt is None else Path(ckpt)
    if ckpt is None and not path.is_file():
        raise WSSLError("ckpt", None, "no model is shipped with this installation", "name yours with ckpt=FILE")
    check_readable(path, "ckpt", f"give {KINDS}")
    if not (path.is_file() or path.is_dir()):
        raise WSSLError("ckpt", path, "is neither a file nor a folder", f"give {KINDS}")
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise WSSLError("ckpt", path, f"is larger than {MAX_BYTES / 1e9:.1f} GB, which no inpainting model is")
    return path


def is_shipped(path: Path) -> bool:
    """Return whether a file is the shipped model, or a copy of it: the licence of its weights goes with them."""
    return SHIPPED.is_file() and filecmp.cmp(path, SHIPPED, shallow=False)


def parse_device(name: str) -> tuple[str, str]:
    """Return the kind of a device (`auto`, `cpu`, `cuda` or `mps`) and its number, which may be empty.

    Raises:
        WSSLError: no such name.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "gpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise WSSLError("device", name, "is not one of auto, cpu, cuda, cuda:N, mps")
    return "cuda" if kind == "gpu" else kind, number
