"""The models that the page offers: found on disk, known to visitors by name alone, loaded when chosen."""

import functools
import threading
from collections.abc import Iterable
from pathlib import Path

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.classical import missing_package
from wssl_pl.inference import Inpainter
from wssl_pl.inference.classical import ClassicalPredictor
from wssl_pl.inference.tiles import Box
from wssl_pl.models import info
from wssl_pl.models.weights import read_info

SHIPPED_NAME = "shipped model"
LOADED = 2  # models in memory at once
METHODS = {"Telea": "telea", "Navier-Stokes": "navier_stokes", "biharmonic": "biharmonic"}
# Millions of pixels of a hole that take a classical method about ten seconds, without any news of its progress.
LARGEST = {"telea": 2.0, "navier_stokes": 2.0, "biharmonic": 0.1}
WIDEST = 12.0  # millions of pixels of what such a method looks at once, with 40 bytes each


class Models:
    """Names and files of models. May be called from several threads at once.

    Args:
        ckpt: the model that is offered first; default: the shipped one.
        folder: a folder tree whose models are offered too; default: `runs`, if there is such a folder.
        device: where they compute, as for `Inpainter.from_checkpoint`.

    Raises:
        WSSLError: there is no model at all, or none in the folder that was named.
    """

    def __init__(self, ckpt: Path | None = None, folder: Path | None = None, device: str = "auto") -> None:
        self.ckpt, self.folder, self.device = ckpt, folder or Path("runs"), device
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._paths: dict[str, Path] = {}
        # By the time of the last change, so that a file that was replaced is read again.
        self._fits = functools.lru_cache(maxsize=None)(lambda path, time: is_inpainting_model(path))
        self._load = functools.lru_cache(LOADED)(
            lambda path, time: Inpainter.from_checkpoint(path, self.device, precision="auto")
        )
        names = self.names()
        if folder and not any(path.is_relative_to(folder) for path in self._paths.values()):
            reason = "holds no inpainting model: no best.ckpt, .safetensors or .onnx file of one"
            raise WSSLError("ckpts", folder, reason)
        if not names:
            raise WSSLError(
                "ckpt", None, "no model is shipped with this installation", "name yours with ckpt=FILE or ckpts=DIR"
            )

    def names(self) -> list[str]:
        """Return the names of all models that are on the disk now, the default one first."""
        with self._lock:
            # Names that distinguish the models and say nothing else about the disk.
            paths = {"/".join(self.ckpt.parts[-2:]): self.ckpt} if self.ckpt else {}
            if info.SHIPPED.is_file():
                paths[SHIPPED_NAME] = info.SHIPPED
            known = {path.resolve() for path in paths.values()}
            for path in find_models(self.folder):
                if path.resolve() not in known and self._fits(path, _time(path)):
                    name = path.relative_to(self.folder).as_posix()
                    paths[f"{self.folder.name}/{name}" if name in paths else name] = path
            self._paths = paths
            return list(paths)

    def choices(self) -> list[str]:
        """Return the names of all models, and after them those of the classical methods that can be used here."""
        names = self.names()
        return names + [name for name, method in METHODS.items() if name not in names and not missing_package(method)]

    def get(self, name: str) -> Inpainter:
        """Return the model or the classical method of a name, loaded; the default model for an empty name.

        Raises:
            WSSLError: no such name, or its file cannot be used.
        """
        with self._lock:
            # Visitors send names, never paths: what is not in the table is not opened.
            name = str(name or next(iter(self._paths)))
            path = self._paths.get(name)
            if path is None and name in METHODS:
                return Inpainter.from_method(METHODS[name])
            if path is None:
                raise WSSLError(None, None, f"there is no model {name[:80]!r}", "choose one of the list")
        with self._loading:  # while others list the models
            return self._load(path, _time(path))


def check_hole(inpainter: Inpainter, pixels: int, windows: Iterable[Box]) -> None:
    """Raise `WSSLError` for a hole of so many pixels that takes a classical method too long, or too much memory."""
    if not isinstance(inpainter.predictor, ClassicalPredictor):
        return
    name = inpainter.info.name
    most = LARGEST[name]
    hole, seen = pixels / 1e6, max((box.area for box in windows), default=0) / 1e6
    if hole > most or seen > WIDEST:
        reason = f"the hole is too large for {name}: {hole:.2g} million pixels, {seen:.2g} with what is between them"
        raise WSSLError(
            None, None, reason, f"paint at most {most:g}, in one place and with a narrow soft edge, or choose a model"
        )


def find_models(folder: Path) -> list[Path]:
    """Return every `best.ckpt`, `.safetensors` and `.onnx` file in a folder tree, the newest first."""
    found = [
        path
        for path in folder.rglob("*")
        if (path.name == "best.ckpt" or path.suffix.lower() in (".safetensors", ".onnx")) and path.is_file()
    ]
    return sorted(found, key=lambda path: (-_time(path), path))


def is_inpainting_model(path: Path) -> bool:
    """Return whether a file says that it is an inpainting model, without loading it; of an ONNX file that is seen then.

    Nothing that the file may hold is run.
    """
    try:
        return path.suffix.lower() == ".onnx" or bool(read_info(path))
    except WSSLError:
        return False


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
