"""The Python interface: a trained model, called with images and masks."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.errors import WSSLError
from wssl_pl.inference.arrays import parse
from wssl_pl.inference.engine import Progress, Tiling, fill_images, parts, windows
from wssl_pl.inference.photo import Photo
from wssl_pl.inference.restore import restore_images
from wssl_pl.inference.tiles import Box
from wssl_pl.models import HEADS, ModelInfo, Predictor, open_model
from wssl_pl.models.info import Precision

if TYPE_CHECKING:
    from wssl_pl.inference.diagnosis import Diagnosis


class Inpainter:
    """Fills the holes of images of any size; the pixels outside the holes stay as they are, bit by bit.

    May be called from several threads at once.

    Args:
        predictor: a model of `wssl_pl.models.open_model`.
        tiling: sizes of tiles and margins; default: those that suit the model.

    Example:
        >>> from wssl_pl import Inpainter
        >>> inpainter = Inpainter.from_checkpoint(device="cpu")   # the shipped model
        >>> image = np.full((40, 50, 3), 128, np.uint8)
        >>> mask = np.zeros((40, 50), bool)
        >>> mask[10:20, 10:20] = True
        >>> inpainter(image, mask).shape
        (40, 50, 3)
    """

    def __init__(self, predictor: Predictor, tiling: Tiling | None = None) -> None:
        self.predictor = predictor
        self.tiling = tiling or Tiling.of(predictor.info)

    @classmethod
    def from_checkpoint(
        cls, ckpt: str | Path | None = None, device: str = "auto", threads: int | None = None,
        precision: Precision = "32-true", **convention: Any,
    ) -> "Inpainter":  # fmt: skip
        """Open a model file, without running code that it may hold.

        Args:
            ckpt: any model file; None for the shipped model.
            device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:N` or `mps`.
            threads: threads of one call on a CPU; default: the library's choice. PyTorch has one such number for the
                whole process.
            precision: `32-true`, `bf16-mixed`, or `auto`: bfloat16 on a CPU where it is measured to be faster.
            convention: `mask`, `range` and `size` of an ONNX file of another project, see `open_model`.

        Raises:
            WSSLError: the file cannot be used, a package is missing, or there is no such device.
        """
        return cls(open_model(ckpt, device, threads, precision=precision, **convention))

    @classmethod
    def from_method(cls, name: str) -> "Inpainter":
        """Use a classical method in place of a model: better than a network on plain backgrounds, and without PyTorch.

        Args:
            name: `telea`, `navier_stokes`, `biharmonic`, `fsr_fast` or `fsr_best`. All but `biharmonic` compute with 8
                bits a channel.

        Raises:
            WSSLError: no such method, or its package is not installed.
        """
        from wssl_pl.inference.classical import ClassicalPredictor

        return cls(ClassicalPredictor(name), Tiling.of_classical())

    @property
    def info(self) -> ModelInfo:
        """What the model's file says about it: `info.name`, `info.hyper_parameters`, `info.training`."""
        return self.predictor.info

    @property
    def device(self) -> str:
        """Where it computes: `cpu`, `cuda`, ..."""
        return self.predictor.device

    @property
    def precision(self) -> str:
        """In which precision it computes: `32-true`, `bf16-mixed` or `16-mixed`."""
        return getattr(self.predictor, "precision", "32-true")

    def __call__(self, image: Any, mask: Any, progress: Progress | None = None, *, feather: int = 0) -> Any:
        """Return the image with its hole filled.

        Args:
            image: a PIL image; an array `(H, W, 3)`, `(H, W)` or `(B, H, W, 3)`, uint8, uint16 or float in [0, 1]; a
                tensor `(3, H, W)` or `(B, 3, H, W)`, uint8 or float in [0, 1]; or a list of these. Alpha, as a fourth
                channel, stays as it is; the model does not see the colours of wholly transparent pixels.
            mask: 1, True or white is hole; of the same kinds, `(H, W)`, one for all images or one each: bool, whole
                numbers (0 and 1, or dark and bright) or float in [0, 1].
            progress: called with (pixels of holes done, of how many); what it raises ends the work.
            feather: pixels around the hole that are filled too and blended with what was there; the fill's weight falls
                from 1 at the hole to 0.

        Returns:
            the same kind, shape, type and device as `image`. A PIL image with a palette becomes RGB.

        Raises:
            WSSLError: a kind, shape or value that cannot be used, image and mask of different sizes, a mask that is
                empty or full, or `feather` that leaves no known pixel.
        """
        batch = parse(image, mask)
        filled = fill_images(
            batch.images, batch.masks, self.predictor, self.tiling, progress, False, feather, batch.invisible
        )
        return batch.rebuild(filled)

    def restore(self, image: Any, mask: Any = None, progress: Progress | None = None) -> Any:
        """Return the image with the damages undone that the model was trained to undo, and its hole filled.

        Args:
            image: as for a call.
            mask: as for a call; None if nothing is a hole.
            progress: as for a call, of all pixels and those of holes.

        Returns:
            the same kind, shape, type and device as `image`. All colours may change; alpha does not.

        Raises:
            WSSLError: as for a call; or the model was not trained with `restore`.
        """
        batch = parse(image, mask)
        return batch.rebuild(
            restore_images(batch.images, batch.masks, self.predictor, self.tiling, progress, batch.invisible)
        )

    def diagnose(self, image: Any) -> "Diagnosis | list[Diagnosis]":
        """Return what the model's heads see in an image, or in each of several: how it was turned, faded or blurred.

        Args:
            image: as for a call; of any size. Or the path of a photo, which is read as `wssl diagnose` reads it.

        Raises:
            WSSLError: a kind, shape or value that cannot be used, or a model without heads: not trained with
                `task_loss`, or an ONNX file. For a pretext checkpoint there is `inference.diagnosis.Diagnoser`.
        """
        from wssl_pl.inference.classical import ClassicalPredictor
        from wssl_pl.inference.diagnosis import Diagnoser

        heads: Any = getattr(self.predictor, "heads", None)
        if heads is None:
            classical = isinstance(self.predictor, ClassicalPredictor)
            why = "has no heads" if classical else "is an ONNX file, which holds no heads"
            raise WSSLError("ckpt", self.info.name, why, HEADS)
        diagnoser = Diagnoser(heads)
        return diagnoser.read(image) if isinstance(image, Path) else diagnoser(image)

    def fill(
        self,
        photo: Photo,
        mask: NDArray[np.bool_],
        progress: Progress | None = None,
        in_place: bool = False,
        feather: int = 0,
    ) -> Photo:
        """Return a photo with its hole filled, and opaque there.

        Args:
            photo: of `wssl_pl.inference.photo.read_photo`.
            mask: `(H, W)`, True in the hole.
            progress: called with (pixels of the hole done, of how many).
            in_place: write into the photo's own pixels, which takes half the memory.
            feather: as of a call.

        Raises:
            WSSLError: `feather` leaves no known pixel.
        """
        (pixels,) = fill_images(
            [photo.pixels], [mask], self.predictor, self.tiling, progress, in_place, feather, [photo.invisible]
        )
        return replace(photo.opaque_in(mask), pixels=pixels)

    def holes(self, mask: NDArray[np.bool_], invisible: NDArray[np.bool_] | None = None) -> int:
        """Return how many pixels the model fills: those of a hole, and invisible ones around it.

        Args:
            mask: as of `fill`.
            invisible: of the photo.
        """
        return sum(int(np.count_nonzero(hole)) for _, hole in parts(mask, invisible, self.tiling))

    def windows(
        self, mask: NDArray[np.bool_], invisible: NDArray[np.bool_] | None = None
    ) -> tuple[list[Box], list[Box]]:
        """Return the parts of a photo that the model looks at to fill a hole: at full size, and reduced for deep holes.

        Args:
            mask: as of `fill`.
            invisible: of the photo.
        """
        return windows(mask, self.tiling, invisible)

    def restore_photo(self, photo: Photo, mask: NDArray[np.bool_], progress: Progress | None = None) -> Photo:
        """Return a photo with its damages undone and its hole filled and opaque; see `restore`.

        Args:
            photo: as of `fill`.
            mask: `(H, W)`, True in the hole; may be empty.
            progress: as of `restore`.
        """
        (pixels,) = restore_images([photo.pixels], [mask], self.predictor, self.tiling, progress, [photo.invisible])
        return replace(photo.opaque_in(mask), pixels=pixels)
