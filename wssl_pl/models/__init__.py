"""The opener of model files: `.ckpt`, `.safetensors`, `.onnx`, an exported folder, or the shipped model.

PyTorch is imported only for a model that it runs: an ONNX file needs onnxruntime alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from wssl_pl.errors import WSSLError
from wssl_pl.models.info import (
    HEADS,
    SHIPPED_LICENSE,
    Convention,
    ModelInfo,
    Polarity,
    Precision,
    Predictor,
    Range,
    find_model,
)

if TYPE_CHECKING:
    from wssl_pl.models.weights import Heads

__all__ = ["HEADS", "SHIPPED_LICENSE", "ModelInfo", "Predictor", "find_model", "open_heads", "open_model"]


def open_model(
    ckpt: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    *,
    mask: Polarity | None = None,
    range: Range | None = None,
    size: int | None = None,
    oracle: bool = False,
    precision: Precision = "32-true",
) -> Predictor:
    """Open a model file, without running code that it may hold.

    Args:
        ckpt: `.ckpt` of a downstream run, `.safetensors`, a folder with `model.safetensors` and `config.json`, or an
            `.onnx` file, of this project or of another one; None for the shipped model.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:N`, `gpu` or `mps`.
        threads: threads of one call on a CPU; default: all cores. PyTorch has one such number for the whole process.
        mask: of an ONNX file of another project: whether its mask is 1 in the `hole` or where the image is `known`;
            default: `known` for uint8 masks and one input of 4 channels (MI-GAN), else `hole` (LaMa).
        range: of such a file: the range of its float images; default: `-1-1` for one input of 4 channels, else `0-1`.
            That float outputs are in [0, 255] is recognised.
        size: of such a file that accepts any size: the side, in pixels, at which it is used; default: 512 or less.
        oracle: accept a model of `strength_channels`, which is called with the strengths of the damages too.
        precision: of a model that PyTorch runs: `32-true`, `bf16-mixed`, `16-mixed`; or `auto`: bfloat16 on a CPU where
            it is measured to be faster, else float32.

    Raises:
        WSSLError: no such file, not a model, a package is missing, there is no such device or precision, or an ONNX
            file should compute in another precision than its own.

    Example:
        >>> open_model().info.side
        256
    """
    if threads is not None and threads < 1:
        raise WSSLError("threads", threads, "must be at least 1")
    if precision not in get_args(Precision):
        raise WSSLError("precision", precision, f"is not one of {', '.join(get_args(Precision))}")
    path, convention = find_model(ckpt), Convention(mask, range, size)
    if path.suffix.lower() == ".onnx":
        from wssl_pl.models.onnx import open_onnx

        if precision not in ("auto", "32-true"):
            raise WSSLError("precision", precision, "an ONNX model computes in its own precision", "give 32-true")
        return open_onnx(path, device, threads, convention)
    convention.refuse()
    from wssl_pl.models.weights import TorchPredictor

    return TorchPredictor(path, device, threads, oracle=oracle, precision=precision)


def open_heads(ckpt: str | Path, device: str = "auto") -> "Heads":
    """Open the heads of a model file, without running code that it may hold.

    Args:
        ckpt: `.ckpt` of a pretext run, or a `.ckpt`, `.safetensors` or exported folder of a downstream model that was
            trained with `task_loss`.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:N`, `gpu` or `mps`.

    Raises:
        WSSLError: no such file, not a model, a model without heads, or there is no such device.
    """
    path = find_model(ckpt)
    if path.suffix.lower() == ".onnx":
        raise WSSLError("ckpt", path, "is an ONNX file, which holds no heads", HEADS)
    from wssl_pl.models.weights import Heads, find_device, read_heads

    found = find_device(device)
    return Heads(*read_heads(path), found)
