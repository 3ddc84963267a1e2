"""The pretext stage: one encoder, one head per weighted task."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from wssl_pl.errors import UsageError
from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.upgrad import UPGrad
from wssl_pl.networks import TaskHead, UNetEncoder
from wssl_pl.tasks import FixedWeights, UncertaintyWeights, make_tasks, normalise_weights


class PretextModule(WSSLModule):
    """Learns to tell how images were changed: a weighted sum of one cross-entropy per task.

    Every active task changes the same image, each with a label of its own for each sample.

    Args:
        tasks: one or more of rotation, saturation, sharpness.
        weights: one positive number per task, scaled to sum 1; equal ones if left out.
        weighting: `fixed` takes the weights as given; `uncertainty` learns them (Kendall, Gal and Cipolla 2018);
            `upgrad` combines the tasks' gradients so that no step harms a task (TorchJD; on one device).
        levels: levels by task, e.g. `--model.levels.sharpness=[0,0.5,1]`; the paper's four if left out.
        width: feature maps of the first encoder stage (64 to 1024 over five stages in the paper).
        norm: normalisation after each convolution; none in the paper.
        pretext_holes: the encoder sees the changed images with the data's masks set to 0, as it will downstream.
        mask_channel: with `pretext_holes`, it sees the mask as a fourth channel too, 1 = hole.
        lr: learning rate of Adam.
        lr_schedule: `constant` as in the paper, or `cosine`, down to 0 at the run's end.
        compile: compile the encoder with torch.compile.
    """

    stage = "pretext"
    monitor = "val/accuracy"

    def __init__(
        self,
        tasks: list[str] = ["rotation", "saturation", "sharpness"],  # noqa: B006  (read by the command line, never changed)
        weights: list[float] | None = None,
        weighting: Literal["fixed", "uncertainty", "upgrad"] = "fixed",
        levels: dict[str, list[float]] | None = None,
        width: int = 64,
        norm: Literal["none", "batch", "group", "instance"] = "none",
        pretext_holes: bool = False,
        mask_channel: bool = False,
        lr: float = 1e-4,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.check_lr(lr)
        if width < 1:
            raise UsageError(f"model.width={width} must be at least 1")
        if weights is not None and weighting != "fixed":
            raise UsageError(f"weights={weights}: weighting={weighting} finds its own; leave one of the two out")
        if mask_channel and not pretext_holes:
            raise UsageError("model.mask_channel=true: nothing is hidden; give model.pretext_holes=true too")
        if compile and weighting == "upgrad":
            raise UsageError(
                "model.compile=true: a compiled encoder is differentiated once only, weighting=upgrad asks more"
            )
        self.needs_masks = pretext_holes
        made = make_tasks(tasks, levels)
        classes = {name: len(task.levels) for name, task in made.items()}
        # A ModuleDict, so that each task's levels travel to the device with the networks.
        self.tasks = _by_name(made)
        fixed = normalise_weights(tasks, weights)
        self.weighting = UncertaintyWeights(made) if weighting == "uncertainty" else FixedWeights(fixed)
        self.upgrad = UPGrad() if weighting == "upgrad" else None
        self.automatic_optimization = self.upgrad is None
        self.encoder = UNetEncoder(width, norm, in_channels=4 if mask_channel else 3)
        self.heads = _by_name({name: TaskHead(self.encoder.out_channels, count) for name, count in classes.items()})
        self.val_confusion = _by_name(
            {name: MulticlassConfusionMatrix(count, validate_args=False) for name, count in classes.items()}
        )
        self.val_losses = _by_name({name: MeanMetric() for name in classes})
        self.finish_networks()

    def networks(self) -> list[nn.Module]:
        """The encoder."""
        return [self.encoder]

    def check_trainer(self, trainer: Trainer) -> None:
        """Raises `UsageError` for a trainer with which the weighting does not work."""
        if self.upgrad is not None:
            self.upgrad.check_trainer(trainer)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The networks, and the learned weights with their own learning rate."""
        networks = {"params": [*self.encoder.parameters(), *self.heads.parameters()]}
        learned = list(self.weighting.parameters())
        return [networks, {"params": learned, "lr": UncertaintyWeights.LR}] if learned else [networks]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits `(B, levels)`, float32, by task, of images `(B, 3, H, W)` in [0, 1].

        With `mask_channel` the images have four channels, as `with_holes` gives them.
        """
        features, _ = self.encoder(images)
        if self.upgrad is not None:
            self.upgrad.features = features
        return {name: head(features).float() for name, head in self.heads.items()}

    def transform(self, images: Tensor, uniform: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Changes the images by every active task.

        Args:
            images: `(B, 3, S, S)` in [0, 1].
            uniform: `(B, K)` uniform random numbers in [0, 1), at least one column per task.

        Returns:
            the changed images `(B, 3, S, S)`, and the labels `(B,)` by task.
        """
        labels = {name: task.labels(uniform[:, column]) for column, (name, task) in enumerate(self.tasks.items())}
        for name, task in self.tasks.items():
            images = task(images, labels[name])
        return images, labels

    def _losses(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        images, labels = self.transform(batch["image"], batch["random"])
        if self.hparams["pretext_holes"]:
            images = self.with_holes(images, batch["mask"])
        logits = self(images.contiguous(memory_format=torch.channels_last))
        return {name: F.cross_entropy(logits[name], labels[name]) for name in logits}, logits, labels

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The weighted loss of one batch."""
        losses, logits, labels = self._losses(batch)
        loss = self.weighting(losses)
        self.log("train/loss", loss, prog_bar=True)
        for name in losses:
            self.log(f"train/loss/{name}", losses[name])
            accuracy = (logits[name].detach().argmax(dim=1) == labels[name]).float().mean()
            self.log(f"train/accuracy/{name}", accuracy)
        weights = self.weighting.learned() if self.upgrad is None else self._descend(losses)
        for name, weight in weights.items():
            self.log(f"train/weight/{name}", weight)
        return loss

    def _descend(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Makes a step of UPGrad; returns the weights that the tasks' gradients had in it."""
        assert self.upgrad is not None
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        optimizer.zero_grad()
        own = [self.heads[name].parameters() for name in losses]
        weights = self.upgrad.backward(losses, self.encoder.parameters(), own)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        return weights

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds one batch to the figures of every task."""
        losses, logits, labels = self._losses(batch)
        for name in losses:
            self.val_losses[name].update(losses[name], weight=len(labels[name]))
            self.val_confusion[name].update(logits[name], labels[name])

    def on_validation_epoch_end(self) -> None:
        """Logs loss and accuracy per task and their means; the confusion matrices stay for the callback."""
        losses = {name: metric.compute() for name, metric in self.val_losses.items()}
        self.confusion = {name: metric.compute() for name, metric in self.val_confusion.items()}
        accuracies = {name: matrix.diag().sum() / matrix.sum() for name, matrix in self.confusion.items()}
        figures: dict[str, Any] = {f"val/loss/{name}": loss for name, loss in losses.items()}
        figures |= {f"val/accuracy/{name}": accuracy for name, accuracy in accuracies.items()}
        self.log_dict(figures)
        self.log("val/loss", self.weighting(losses), prog_bar=True)
        self.log("val/accuracy", torch.stack(list(accuracies.values())).mean(), prog_bar=True)
        for metric in (*self.val_losses.values(), *self.val_confusion.values()):
            metric.reset()


def _by_name(modules: Mapping[str, nn.Module]) -> Any:
    """A ModuleDict, typed loosely: PyTorch's own types allow a tensor wherever a module is looked up."""
    return nn.ModuleDict(modules)
