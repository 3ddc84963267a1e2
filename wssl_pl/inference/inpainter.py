"""The Python interface: a trained model, called with pictures and masks."""

from pathlib import Path
from typing import Any

from wssl_pl.inference.arrays import take_apart
from wssl_pl.inference.backends import Backend, ModelInfo, open_backend
from wssl_pl.inference.engine import Progress, Scheme, fill_all


class Inpainter:
    """Fills the holes of pictures of any size; the pixels outside the holes come back as they were, bit by bit.

    May be called from several threads at once.

    Args:
        backend: a loaded model.
        scheme: sizes of tiles and margins; those that suit the model if left out.

    Example:
        >>> from wssl_pl.inference import Inpainter
        >>> inpainter = Inpainter.from_checkpoint("best.ckpt")    # doctest: +SKIP
        >>> filled = inpainter(photo, mask)                       # doctest: +SKIP
    """

    def __init__(self, backend: Backend, scheme: Scheme | None = None) -> None:
        self.backend = backend
        self.scheme = scheme or Scheme.of(backend.info)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path | None = None, device: str = "auto", threads: int | None = None
    ) -> "Inpainter":
        """Loads a model; a file that holds code is refused, not run.

        Args:
            path: the `.ckpt` of a downstream run, a `.safetensors` file, a folder of `wssl export safetensors`, or the
                `.onnx` file of `wssl export onnx`, which needs no PyTorch; None for the shipped model.
            device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:N` or `mps`.
            threads: threads of one call on a CPU; left out, the library's choice. PyTorch has one such number for the
                whole process.

        Raises:
            UsageError: the file cannot be used, a package is missing, or there is no such device.
        """
        return cls(open_backend(path, device, threads))

    @property
    def info(self) -> ModelInfo:
        """What the model's file tells about it: `info.name`, `info.hyper_parameters`, `info.training`."""
        return self.backend.info

    @property
    def device(self) -> str:
        """Where it computes: `cpu`, `cuda`, ..."""
        return self.backend.device

    def __call__(self, image: Any, mask: Any, progress: Progress | None = None) -> Any:
        """The picture with its hole filled.

        Args:
            image: a PIL image; an array `(H, W, 3)`, `(H, W)` or `(B, H, W, 3)`, uint8, uint16 or float in [0, 1]; a
                tensor `(3, H, W)` or `(B, 3, H, W)`, uint8 or float in [0, 1]; or a list of these. Alpha, as a fourth
                channel, comes back as it was.
            mask: 1, True or white is hole; of the same kinds, `(H, W)`, one for all pictures or one each: bool, whole
                numbers (0 and 1, or dark and bright) or float in [0, 1].
            progress: called with (pixels of hole done, of how many); what it raises ends the work.

        Returns:
            the same kind, shape, type and device as `image`. A PIL image with a palette comes back as RGB.

        Raises:
            UsageError: a kind, shape or value that cannot be used, image and mask of different sizes, or a mask that
                is empty or full.
        """
        batch = take_apart(image, mask)
        return batch.rebuild(fill_all(batch.pictures, batch.holes, self.backend, self.scheme, progress))
