"""Options that several commands share: a command has them all by one parameter of such a class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    import torch

    from wssl_pl.evaluation.evaluate import Settings


def import_own(encoder: str | None, tasks: Sequence[str] | None = None) -> None:
    """Import an encoder and tasks that the user typed, so that a model file with their class paths opens.

    Args:
        encoder: class path of the encoder, None: there is none.
        tasks: class paths of the tasks.

    Raises:
        WSSLError: one of them cannot be imported, or is no encoder or task.
    """
    if encoder is not None:
        from wssl_pl.modules.encoder import import_encoder  # PyTorch and Lightning, which ONNX files do not need

        import_encoder(encoder)
    for name in tasks or ():
        from wssl_pl.tasks import import_task

        import_task(name)


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The model file that a command opens.

    Args:
        ckpt: .ckpt, .safetensors or .onnx file or exported folder; default: the shipped model
        encoder: class path of your own encoder, if the model has one; it is imported
        tasks: class paths of your own tasks, if the model has some; they are imported
    """

    ckpt: Path | None = None
    encoder: str | None = None
    tasks: list[str] | None = None

    def import_own(self) -> None:
        """Import what is the user's own."""
        import_own(self.encoder, self.tasks)


@dataclass(frozen=True, kw_only=True)
class AnyModelFile(ModelFile):
    """The same for a command that also takes ONNX files of other projects.

    Args:
        range: of an ONNX file of another project: the values of its float images; default: by its inputs
        size: of such a file that takes any size: the side at which it is used
    """

    range: Literal["0-1", "-1-1", "0-255"] | None = None
    size: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Where and how a model computes.

    Args:
        accelerator: where a model runs
        precision: the model's
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    def device(self) -> "torch.device":
        """Return the device.

        Raises:
            WSSLError: there is no such device here.
        """
        from wssl_pl.models.weights import find_device

        return find_device(self.accelerator, "accelerator")


@dataclass(frozen=True, kw_only=True)
class Measuring(Computing):
    """How images are measured.

    Args:
        batch_size: pairs in memory at once
        lpips_weights: torchvision's AlexNet or VGG16; default: from WSSL_WEIGHTS or torch hub's cache; none: no LPIPS
        inception_weights: torch-fidelity's Inception, for FID; the same default; none: no FID
        seed: seed of the bootstrap intervals
    """

    batch_size: PositiveInt = 16
    lpips_weights: str | None = None
    inception_weights: str | None = None
    seed: NonNegativeInt = 0

    def settings(self, limit: int | None = None) -> "Settings":
        """Return the evaluator's settings for the first `limit` pairs, or for all."""
        from wssl_pl.evaluation.evaluate import Settings

        return Settings(limit, self.batch_size, self.device(), self.lpips_weights, self.inception_weights, self.seed)
