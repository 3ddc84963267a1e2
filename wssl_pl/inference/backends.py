"""What computes: PyTorch or onnxruntime, called alike."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wssl_pl.errors import UsageError

SHIPPED = Path(__file__).parent / "model" / "wssl-w16.safetensors"
SHIPPED_LICENSE = "for non-commercial research only"  # the Apache License covers the code alone
DEFAULT_SIDE, DEFAULT_WIDTH = 224, 64  # the paper's, of a file that does not tell


@dataclass(frozen=True)
class ModelInfo:
    """What a model file tells about its model.

    Attributes:
        name: what messages call it.
        hyper_parameters: the settings of the module that was saved.
        training: settings of its data, `image_size` among them where the file tells it.
    """

    name: str
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def side(self) -> int:
        """The side, in pixels, of the pictures that it was trained on."""
        side = self.training.get("image_size", DEFAULT_SIDE)
        return side if isinstance(side, int) and side > 0 else DEFAULT_SIDE

    @property
    def width(self) -> int:
        """Feature maps of the network's first stage; the paper's 64 if the file does not tell."""
        width = self.hyper_parameters.get("width", DEFAULT_WIDTH)
        return width if isinstance(width, int) and width > 0 else DEFAULT_WIDTH


class Backend(Protocol):
    """A loaded model. Calls from several threads at once are allowed.

    Attributes:
        info: what its file told.
        device: where it computes, in words.
    """

    info: ModelInfo
    device: str

    def __call__(self, images: NDArray[np.float32], masks: NDArray[np.float32]) -> NDArray[np.float32]:
        """The raw output.

        Args:
            images: `(B, 3, H, W)` in [0, 1], 0 in the hole; `H` and `W` divide by 32.
            masks: `(B, 1, H, W)`, 1 = hole.

        Returns:
            `(B, 3, H, W)` in [0, 1].
        """


def find_model(path: str | Path | None) -> Path:
    """The file or folder of a model; the shipped one for None.

    Raises:
        UsageError: it is not there.
    """
    if path is None:
        if not SHIPPED.is_file():
            raise UsageError("no model is shipped with this installation: name yours with ckpt=FILE")
        return SHIPPED
    if not Path(path).exists():
        raise UsageError(f"ckpt={path} does not exist: give a .ckpt, .safetensors or .onnx file, or an exported folder")
    return Path(path)


def open_backend(path: str | Path | None, device: str = "auto", threads: int | None = None) -> Backend:
    """Loads a model file without running anything that it may hold.

    Args:
        path: `.ckpt` of a downstream run, `.safetensors`, a folder with `model.safetensors` and `config.json`, or
            `.onnx`; None for the shipped model.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `gpu` or `mps`.
        threads: threads of one call on a CPU; left out, those of the whole machine.

    Raises:
        UsageError: no such file, not a model, a package is missing, or there is no such device.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads}: it must be at least 1")
    path = find_model(path)
    if path.suffix.lower() == ".onnx":
        from wssl_pl.inference.onnx_backend import OnnxBackend

        return OnnxBackend(path, device, threads)
    from wssl_pl.inference.torch_backend import TorchBackend

    return TorchBackend(path, device, threads)
