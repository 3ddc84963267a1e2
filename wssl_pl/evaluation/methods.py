"""Methods that fill holes: the classical ones and trained models, all called alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.classical import fill_classically, find_method
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.models import open_model
from wssl_pl.models.info import Precision
from wssl_pl.modules import read_checkpoint


class Method(Protocol):
    """Fills holes.

    Attributes:
        name: what reports call it.
        notes: what a reader of its metrics has to know.
    """

    name: str
    notes: list[str]

    def __call__(self, names: Sequence[str], images: Tensor, masks: Tensor) -> Tensor:
        """Return the whole images.

        Args:
            names: of the pairs.
            images: `(B, 3, H, W)` float32 in [0, 1], 0 in the hole, so that no method sees it.
            masks: `(B, 1, H, W)` float32, 1 = hole.

        Returns:
            `(B, 3, H, W)` in [0, 1].
        """

    def describe(self) -> dict[str, Any]:
        """Return what a result keeps of it, in plain types."""


class Classical:
    """A method without learning, one image at a time; known pixels stay, so that raw and composite are the same.

    Args:
        name: `mean`, `telea`, `navier_stokes`, `biharmonic`, `fsr_fast` or `fsr_best`.

    Raises:
        WSSLError: no such method, or its package is not installed.
    """

    def __init__(self, name: str) -> None:
        self.name, self.fill = name, find_method(name)
        self.notes: list[str] = []

    def __call__(self, names: Sequence[str], images: Tensor, masks: Tensor) -> Tensor:
        """See `Method`."""
        pairs = zip(images.permute(0, 2, 3, 1).cpu().numpy(), masks[:, 0].cpu().numpy() > 0.5, strict=True)
        filled = [fill_classically(self.fill, image, mask) for image, mask in pairs]
        return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2)

    def describe(self) -> dict[str, Any]:
        """See `Method`."""
        return {"method": self.name}


SETTINGS = ("width", "norm", "loss", "freeze_layers", "restore")  # of a model, that a result keeps


class Model:
    """A trained model of any kind of model file.

    Args:
        ckpt: the file or exported folder; None for the shipped model.
        device: where it computes.
        precision: `32-true`, or for a model that PyTorch runs `bf16-mixed` or `16-mixed`.
        convention: `mask`, `range` and `size` of an ONNX file of another project, see `open_model`.

    Raises:
        WSSLError: not an inpainting model, or no such precision.
    """

    def __init__(
        self, ckpt: str | Path | None, device: torch.device, precision: Precision = "32-true", **convention: Any
    ) -> None:
        self.predictor: Any = open_model(ckpt, str(device), oracle=True, precision=precision, **convention)
        self._strengths: dict[str, Mapping[str, float]] | None = None  # of each damage, by the pair's name
        self.device, self.precision = device, precision
        self.name = self.predictor.info.name if ckpt is None else "/".join(Path(ckpt).parts[-2:])
        self.is_oracle = bool(self.predictor.info.hyper_parameters.get("strength_channels"))
        self.notes = [f"{self.name} is an oracle: it is given the strengths of the damages"] * self.is_oracle

    def learn_strengths(self, strengths: Mapping[str, Mapping[str, float]], damages: Sequence[str]) -> None:
        """Keep the strengths of the inputs' damages, if the model is an oracle.

        Args:
            strengths: of each damage, by the pair's name.
            damages: their names.

        Raises:
            WSSLError: it was trained with other damages.
        """
        if not self.is_oracle:
            return
        trained = list(self.predictor.module.damages.tasks)
        if set(trained) != set(damages):
            needed, found = ", ".join(trained), ", ".join(damages) or "none"
            reason = f"needs the strengths of {needed}, the pairs have those of {found}"
            raise WSSLError("ckpt", self.name, reason, f"write them with `wssl pairs restore={','.join(trained)}`")
        self._strengths = dict(strengths)

    def __call__(self, names: Sequence[str], images: Tensor, masks: Tensor) -> Tensor:
        """See `Method`; the raw output of the network."""
        given: list[Any] = [images.cpu().numpy(), masks.cpu().numpy()]
        if self._strengths is not None:
            of_pairs = [self._strengths[name] for name in names]
            given.append({damage: np.array([pair[damage] for pair in of_pairs], np.float32) for damage in of_pairs[0]})
        return torch.from_numpy(self.predictor(*given))

    def describe(self) -> dict[str, Any]:
        """See `Method`."""
        info = self.predictor.info
        settings = {key: value for key in SETTINGS if (value := info.hyper_parameters.get(key)) is not None}
        if isinstance(module := getattr(self.predictor, "module", None), nn.Module):
            settings["parameters"] = sum(parameter.numel() for parameter in module.parameters())
        if info.stage != "downstream":
            settings["stage"] = info.stage
        return {"ckpt": info.name, "precision": self.precision, "device": self.predictor.device} | settings


class Samples(Model):
    """The best of many samples of a PIC model, or the nearest to the truth: an oracle.

    Args:
        ckpt: the `.ckpt` of a training; only this file has the discriminator, which scores.
        samples: how many.
        truth: the pairs, for the oracle; None for the best by the score.
        device: where it computes.
        precision: as of `Model`.

    Raises:
        WSSLError: not such a model, or it has no discriminator.
    """

    def __init__(
        self,
        ckpt: str | Path | None,
        samples: int,
        truth: Pairs | None,
        device: torch.device,
        precision: Precision = "32-true",
    ) -> None:
        super().__init__(ckpt, device, precision)
        option = "best_of" if truth is None else "nearest_of"
        if self.predictor.info.stage != "pic" or not hasattr(self.predictor, "module"):
            reason = "only PIC makes several samples of an image, and an ONNX file makes one"
            raise WSSLError(option, samples, reason, "give ckpt= of a training with stage=pic, or omit it")
        self.samples, self._truth = samples, truth
        if truth is not None:
            self._pairs = {pair.name: pair for pair in truth.pairs}
            self.name += f", nearest of {samples} (oracle)"
            self.notes.append(f"{self.name} is an oracle: it picks the sample that is nearest to the truth")
            return
        self.name += f", best of {samples} by score"
        if Path(ckpt or "").suffix == ".ckpt":
            self.predictor.module.load_beside(read_checkpoint(str(ckpt)))
        self.predictor.module.check_scores(samples)

    def __call__(self, names: Sequence[str], images: Tensor, masks: Tensor) -> Tensor:
        """See `Method`."""
        module, given = self.predictor.module, [each.to(self.device) for each in (images, masks)]
        with torch.inference_mode(), self.predictor.autocast():
            if self._truth is None:
                output: Tensor = module.best_of(*given, self.samples)
            else:
                truth = self._truth.read([self._pairs[name] for name in names])[0].to(self.device) / 255.0
                output = module.nearest_of(*given, truth, self.samples)
            return output.float().cpu()
