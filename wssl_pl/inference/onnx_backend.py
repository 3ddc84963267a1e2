"""An ONNX file, run by onnxruntime, without PyTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.devices import usable_cores
from wssl_pl.errors import UsageError
from wssl_pl.inference.backends import ModelInfo


class OnnxBackend:
    """See :class:`wssl_pl.inference.backends.Backend`.

    Args:
        path: a file of `wssl export onnx`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: threads of a call on a CPU; left out, the cores that this process may use.

    Raises:
        UsageError: onnxruntime is missing, the file is not such a file, or there is no such device.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            raise UsageError(f"ckpt={path} needs onnxruntime: pip install 'wssl-pl[onnx]'") from None
        providers = _providers(device, ort.get_available_providers())
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors alone; they come as exceptions too
        options.intra_op_num_threads = threads or usable_cores()
        try:
            self.session = ort.InferenceSession(path.read_bytes(), options, providers=providers)
        except Exception as error:
            # onnxruntime has an exception of its own for each status; all of them mean a bad file.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(f"ckpt={path} is not an ONNX model that onnxruntime loads: {lines[0][:200]}") from None
        inputs = [node.name for node in self.session.get_inputs()]
        if inputs != ["image", "mask"] or len(self.session.get_outputs()) != 1:
            raise UsageError(
                f"ckpt={path} is not an inpainting model of `wssl export onnx`: its inputs are {', '.join(inputs)}, "
                "instead of image, mask"
            )
        stored = self.session.get_modelmeta().custom_metadata_map
        try:
            settings, training = json.loads(stored["hyper_parameters"]), json.loads(stored["training"])
        except (KeyError, ValueError):
            raise UsageError(f"ckpt={path} lacks the metadata that `wssl export onnx` writes") from None
        self.info = ModelInfo(str(path), settings, training)
        if len(self.session.get_providers()) < len(providers):
            raise UsageError(f"device={device}: onnxruntime could not start on CUDA; device=cpu works everywhere")
        self.device = "cuda" if "CUDAExecutionProvider" in self.session.get_providers() else "cpu"

    def __call__(self, images: NDArray[np.float32], masks: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :class:`wssl_pl.inference.backends.Backend`."""
        output: NDArray[np.float32] = self.session.run(None, {"image": images, "mask": masks})[0]
        return output


def _providers(device: str, available: list[str]) -> list[Any]:
    """onnxruntime's providers for a device."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "gpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"device={device} is not one of auto, cpu, cuda, cuda:N, mps")
    if kind == "mps":
        raise UsageError(f"device={device}: ONNX models run on cpu and cuda")
    has_cuda = "CUDAExecutionProvider" in available
    if kind in ("gpu", "cuda") and not has_cuda:
        raise UsageError(f"device={device}: this onnxruntime has no CUDA provider; device=cpu works everywhere")
    if kind != "cpu" and has_cuda:
        return [("CUDAExecutionProvider", {"device_id": number or "0"}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
