"""The models that the page offers: found on disk, known to visitors by name alone, loaded when chosen."""

import pickle
import threading
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from wssl_pl.errors import UsageError
from wssl_pl.inference import Inpainter
from wssl_pl.inference.backends import SHIPPED

SHIPPED_NAME = "shipped model"
LOADED = 2  # models in memory at once


class Models:
    """Names and files of models. May be called from several threads at once.

    Args:
        ckpt: the model that is offered first; the shipped one if left out.
        folder: a folder tree whose models are offered too; those of `runs` if left out and there is such a folder.
        device: where they compute, as for `Inpainter.from_checkpoint`.

    Raises:
        UsageError: there is no model at all, or none in the folder that was named.
    """

    def __init__(self, ckpt: Path | None = None, folder: Path | None = None, device: str = "auto") -> None:
        self.ckpt, self.folder, self.device = ckpt, folder or Path("runs"), device
        self._lock = threading.Lock()
        self._kinds: dict[tuple[Path, int], bool] = {}
        self._loaded: OrderedDict[tuple[Path, int], Inpainter] = OrderedDict()
        self._paths: dict[str, Path] = {}
        self._found = 0
        names = self.names()
        if folder and not self._found:
            raise UsageError(
                f"ckpts={folder} holds no inpainting model: no best.ckpt, .safetensors or .onnx file of one"
            )
        if not names:
            raise UsageError("no model is shipped with this installation: name yours with ckpt=FILE or ckpts=DIR")

    def names(self) -> list[str]:
        """The names of all models, the one that is offered first in front; looks at the disk anew."""
        with self._lock:
            # Names that tell models apart and nothing else of the disk.
            paths = {"/".join(self.ckpt.parts[-2:]): self.ckpt} if self.ckpt else {}
            if SHIPPED.is_file():
                paths[SHIPPED_NAME] = SHIPPED
            known = {path.resolve() for path in paths.values()}
            found = [path for path in find_models(self.folder) if self._fits(path)]
            self._found = len(found)
            for path in found:
                if path.resolve() not in known:
                    name = path.relative_to(self.folder).as_posix()
                    paths[f"{self.folder.name}/{name}" if name in paths else name] = path
            self._paths = paths
            return list(paths)

    def get(self, name: str) -> Inpainter:
        """The model of a name, loaded; the one that is offered first for an empty name.

        Raises:
            UsageError: no such name, or its file cannot be used.
        """
        with self._lock:
            # Visitors send names, never paths: what is not in the table is not opened.
            name = str(name or next(iter(self._paths)))
            path = self._paths.get(name)
            if path is None:
                raise UsageError(f"there is no model {name[:80]!r}: choose one of the list")
            key = path, _time(path)
            if key not in self._loaded:
                self._loaded[key] = Inpainter.from_checkpoint(path, self.device)
            self._loaded.move_to_end(key)
            while len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)
            return self._loaded[key]

    def get_for_visitor(self, name: str) -> Inpainter:
        """The same; errors do not tell where models lie.

        Raises:
            UsageError: see :meth:`get`.
        """
        try:
            return self.get(name)
        except UsageError as error:
            message = str(error)
            for known, path in self._paths.items():
                message = message.replace(str(path), known)
            raise UsageError(message) from None

    def _fits(self, path: Path) -> bool:
        key = path, _time(path)
        if key not in self._kinds:
            self._kinds[key] = is_inpainting_model(path)
        return self._kinds[key]


def find_models(folder: Path) -> list[Path]:
    """Every `best.ckpt`, `.safetensors` and `.onnx` file in a folder tree, the newest first."""
    found = [
        path
        for path in folder.rglob("*")
        if (path.name == "best.ckpt" or path.suffix.lower() in (".safetensors", ".onnx")) and path.is_file()
    ]
    return sorted(found, key=lambda path: (-_time(path), path))


def is_inpainting_model(path: Path) -> bool:
    """Whether a file says that it is an inpainting model of ours, as far as that is seen without loading it.

    Nothing that the file may hold is run.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".onnx":
            return True  # what it is shows when it is loaded
        if suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return (file.metadata() or {}).get("stage") == "downstream"
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return isinstance(checkpoint, dict) and checkpoint.get("stage") == "downstream"
    except (
        pickle.UnpicklingError,
        SafetensorError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        OSError,
    ):
        return False


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
