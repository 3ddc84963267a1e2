"""A checkpoint or a safetensors file, run by PyTorch."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wssl_pl.errors import UsageError
from wssl_pl.inference.weights import read_module


class TorchBackend:
    """See :class:`wssl_pl.inference.backends.Backend`.

    Args:
        path: `.ckpt`, `.safetensors`, or a folder with `model.safetensors` and `config.json`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `gpu` or `mps`.
        threads: threads of a call on a CPU. PyTorch keeps one number for the whole process: it is set there.

    Raises:
        UsageError: the file is not a model of ours, or there is no such device.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        self._device = find_device(device)
        self.module, self.info = read_module(path)
        self.module.to(self._device).eval().requires_grad_(False)
        self.device = str(self._device)
        if threads is not None:
            torch.set_num_threads(threads)

    def __call__(self, images: NDArray[np.float32], masks: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :class:`wssl_pl.inference.backends.Backend`."""
        with torch.inference_mode():
            output = self.module(torch.from_numpy(images).to(self._device), torch.from_numpy(masks).to(self._device))
            result: NDArray[np.float32] = output.float().cpu().numpy()
            return result


def find_device(name: str) -> torch.device:
    """The device of a name: `auto`, `cpu`, `gpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        UsageError: no such name, or no such device here.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "gpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"device={name} is not one of auto, cpu, cuda, cuda:N, mps")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind in ("gpu", "cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UsageError(f"device={name}: there is no CUDA device here; device=cpu works everywhere")
        if number and int(number) >= count:
            raise UsageError(f"device={name}: there are {count} CUDA devices here, counted from 0")
        return torch.device("cuda", int(number)) if number else torch.device("cuda")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device={name}: there is no MPS device here; device=cpu works everywhere")
    return torch.device(kind)
