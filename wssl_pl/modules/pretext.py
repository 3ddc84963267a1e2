"""The pretext stage: one encoder, one head per weighted task."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import Metric

from wssl_pl.callbacks import OnlineProbe
from wssl_pl.data.crop import trim
from wssl_pl.data.dataset import RANDOM_NUMBERS
from wssl_pl.errors import UsageError
from wssl_pl.metrics import Mean
from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.upgrad import UPGrad
from wssl_pl.networks import UNetEncoder, initialise
from wssl_pl.tasks import Classification, FixedWeights, UncertaintyWeights, make_tasks, normalise_weights, task_names


class Tally(Metric):
    """Adds up the tallies of a task, over batches and processes."""

    total: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(shape), dist_reduce_fx="sum")

    def update(self, tally: Tensor) -> None:
        """Adds one."""
        # With trainer.precision=bf16-true the state starts in bfloat16, which holds no count above 256.
        self.total = self.total.float() + tally

    def compute(self) -> Tensor:
        """The sum."""
        return self.total


class PretextModule(WSSLModule):
    """Learns to answer what was done to images: a weighted sum of one loss per task.

    Every active task changes the same image, each with random numbers of its own for each sample. The best checkpoint
    is that of the highest mean of the tasks' scores, `val/score`: accuracies, and R² for `masked` and `autoencoder`.

    Args:
        tasks: one or more of rotation, saturation, sharpness, masked, autoencoder, and class paths of your own tasks
            (`mypackage.Brightness`).
        weights: one positive number per task, scaled to sum 1; equal ones if left out.
        weighting: `fixed` takes the weights as given; `uncertainty` learns them (Kendall, Gal and Cipolla 2018);
            `upgrad` combines the tasks' gradients so that no step harms a task (TorchJD; on one device).
        levels: levels by task, e.g. `--model.levels.sharpness=[0,0.5,1]`; the paper's four if left out. Those of
            masked are the smallest and the largest hidden share.
        width: feature maps of the first encoder stage (64 to 1024 over five stages in the paper).
        norm: normalisation after each convolution; none in the paper.
        pretext_holes: the encoder sees the changed images with the holes of the data's masks, as it will downstream.
        mask_channel: the encoder sees as a fourth channel what is hidden, 1 = hidden, by `pretext_holes` or `masked`.
        fill: what the encoder sees in a hole, by `pretext_holes` or `masked`: a value in [0, 1], or `mean`, the image's
            mean colour outside the hole. The downstream stage takes it over.
        init: initialisation of what is new: `he` (He-normal, zero biases; Ronneberger et al. 2015), `xavier` (uniform,
            Keras's default), or `pytorch` (PyTorch's default; a network without normalisation does not train with it).
        lr: learning rate.
        lr_schedule: `constant` as in the paper, or `cosine`, down to 0 at the run's end.
        warmup_steps: optimiser steps over which the learning rate first rises linearly; a cosine starts after them.
        optimizer: `adam` as in the paper, or `adamw` (Loshchilov and Hutter 2019).
        weight_decay: with `adam` an L2 penalty, added to the gradients; with `adamw` the decoupled decay.
        betas: of the optimiser: decay of the averages of gradients and of their squares.
        eps: of the optimiser, PyTorch's 1e-8. TensorFlow's Adam, with which the paper trained, has 1e-7.
        probe_steps: steps of the online probe at every validation, e.g. 200: how well a small decoder inpaints from the
            encoder's features (`val/probe_psnr`), and their effective rank (`val/rankme`). 0: no probe.
        ema: decay of an exponential moving average of the weights, such as 0.999, which is then validated and saved as
            the model; none if omitted.
        compile: compile the encoder with torch.compile.
    """

    stage = "pretext"
    monitor = "val/score"
    smallest_image = 32  # the encoder halves the sides five times

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
        fill: float | Literal["mean"] = 0.0,
        init: Literal["he", "xavier", "pytorch"] = "he",
        lr: float = 1e-4,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        warmup_steps: int = 0,
        optimizer: Literal["adam", "adamw"] = "adam",
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        probe_steps: int = 0,
        ema: float | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.check_settings()
        if width < 1:
            raise UsageError(f"model.width={width} must be at least 1")
        if weights is not None and weighting != "fixed":
            raise UsageError(f"weights={weights}: weighting={weighting} finds its own; leave one of the two out")
        if compile and weighting == "upgrad":
            raise UsageError(
                "model.compile=true does not go with weighting=upgrad, which differentiates more than once"
            )
        made = make_tasks(tasks, levels)
        if (wanted := sum(task.numbers for task in made.values())) > RANDOM_NUMBERS:
            raise UsageError(f"tasks={tasks} take {wanted} random numbers per sample, there are {RANDOM_NUMBERS}")
        if mask_channel and not pretext_holes and not any(task.hides for task in made.values()):
            raise UsageError("model.mask_channel=true: nothing is hidden; give pretext_holes=true or the task masked")
        if probe_steps < 0:
            raise UsageError(f"model.probe_steps={probe_steps}: must be at least 0, which is no probe")
        self.needs_masks = pretext_holes or probe_steps > 0
        self.crop_margin = sum(task.margin for task in made.values())
        # A ModuleDict, so that each task's levels travel to the device with the networks.
        self.tasks = _by_name(made)
        fixed = normalise_weights(task_names(tasks), weights)
        self.weighting = UncertaintyWeights(made) if weighting == "uncertainty" else FixedWeights(fixed)
        self.upgrad = UPGrad() if weighting == "upgrad" else None
        self.automatic_optimization = self.upgrad is None
        self.encoder = UNetEncoder(width, norm, in_channels=4 if mask_channel else 3)
        self.heads = _by_name({name: task.head(self.encoder.out_channels) for name, task in made.items()})
        if init != "he":
            initialise(self.encoder, init)
            initialise(self.heads, init)
        self.val_tallies = _by_name({name: Tally(task.tally_shape) for name, task in made.items()})
        self.val_losses = _by_name({name: Mean() for name in made})
        self.guessing: list[str] = []  # the tasks whose head knew nothing at the last validation
        self.finish_networks()

    def configure_callbacks(self) -> list[Callback]:
        """Return those of both stages, and the online probe, if it is on."""
        steps = self.hparams["probe_steps"]
        return [*super().configure_callbacks(), *([OnlineProbe(steps)] if steps else [])]

    def networks(self) -> list[nn.Module]:
        """The encoder."""
        return [self.encoder]

    def check_trainer(self, trainer: Trainer) -> None:
        """Raises `UsageError` for a trainer with which the weighting does not work."""
        super().check_trainer(trainer)
        if self.upgrad is not None:
            self.upgrad.check_trainer(trainer)

    def remarks(self) -> list[str]:
        """Names the heads that have not learned."""
        if not self.guessing:
            return []
        remedy = "train longer" + (", or take --model.norm=batch" if self.hparams["norm"] == "none" else "")
        return [f"No better than guessing: {', '.join(self.guessing)}; {remedy}"]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The networks, and the learned weights with their own learning rate."""
        networks = {"params": [*self.encoder.parameters(), *self.heads.parameters()]}
        learned = list(self.weighting.parameters())
        # A decay would draw the log-variances to 0, that is to equal weights.
        own = {"params": learned, "lr": UncertaintyWeights.LR, "weight_decay": 0.0}
        return [networks, own] if learned else [networks]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The heads' outputs, float32, by task, of images `(B, 3, H, W)` in [0, 1] or as `see` gives them.

        Of a classification these are logits `(B, levels)`.
        """
        features, _ = self.encoder(self.as_input(images))
        if self.upgrad is not None and features.requires_grad:
            self.upgrad.features = features
        return {name: head(features).float() for name, head in self.heads.items()}

    def draw(self, uniform: Tensor) -> dict[str, Tensor]:
        """What happens to each sample by task, from uniform numbers `(B, RANDOM_NUMBERS)` in [0, 1)."""
        drawn, first = {}, 0
        for name, task in self.tasks.items():
            drawn[name] = task.draw(uniform[:, first : first + task.numbers])
            first += task.numbers
        return drawn

    def transform(self, images: Tensor, uniform: Tensor, margin: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Changes the images by every active task.

        Args:
            images: `(B, 3, S + 2 * margin, S + 2 * margin)` in [0, 1].
            uniform: `(B, K)` uniform random numbers in [0, 1), as many columns as the tasks take.
            margin: pixels on every side that are there for the tasks' filters alone and are cut off afterwards.

        Returns:
            the changed images `(B, 3, S, S)`, and the targets by task: labels `(B,)` of a classification.
        """
        drawn, targets = self.draw(uniform), {}
        for name, task in self.tasks.items():
            targets[name] = task.target(trim(images, margin), drawn[name])
            images = task(images, drawn[name])
            # Cut after each filter, so that none ever reads what the one before it made of a border.
            used = min(margin, task.margin)
            images, margin = trim(images, used), margin - used
        return trim(images, margin), targets

    def see(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What the encoder sees of a batch, `(B, 3, S, S)` or with `mask_channel` `(B, 4, S, S)`, and the targets."""
        image = batch.get("image_with_margin", batch["image"])
        images, targets = self.transform(image, batch["random"], (image.shape[-1] - batch["image"].shape[-1]) // 2)
        # The task `masked` has set its patches to 0 already.
        hides = any(task.hides for task in self.tasks.values())
        if self.hparams["pretext_holes"] or self.hparams["mask_channel"] or (hides and self.hparams["fill"] != 0.0):
            images = self.with_holes(images, self._hidden(batch))
        return images, targets

    def _hidden(self, batch: dict[str, Tensor]) -> Tensor:
        """`(B, 1, S, S)`, 1 where the data's masks or a task hide the image."""
        images, drawn = batch["image"], self.draw(batch["random"])
        hidden = [task.hidden(images, drawn[name]).float() for name, task in self.tasks.items() if task.hides]
        holes = [batch["mask"]] if self.hparams["pretext_holes"] else []
        return torch.cat([*hidden, *holes], dim=1).amax(dim=1, keepdim=True)

    def _losses(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses and the tallies by task."""
        seen, targets = self.see(batch)
        outputs = self(seen)
        losses = {name: task.loss(outputs[name], targets[name]) for name, task in self.tasks.items()}
        with torch.no_grad():
            tallies = {name: task.tally(outputs[name], targets[name]) for name, task in self.tasks.items()}
        return losses, tallies

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The weighted loss of one batch."""
        losses, tallies = self._losses(batch)
        loss: Tensor = self.weighting(losses)
        self.log("train/loss", loss, prog_bar=True)
        for name, task in self.tasks.items():
            self.log(f"train/loss/{name}", losses[name])
            self.log(f"train/{task.score_name}/{name}", task.score(tallies[name]))
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
        losses, tallies = self._losses(batch)
        for name in losses:
            self.val_losses[name].update(losses[name], count=len(batch["image"]))
            self.val_tallies[name].update(tallies[name])

    def on_validation_epoch_end(self) -> None:
        """Log loss and score per task and their means; the confusion matrices stay for the callback."""
        self._log_metrics("val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the metrics of every task."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the same metrics as validation does, under `test/`."""
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        losses = {name: metric.compute() for name, metric in self.val_losses.items()}
        tallies = {name: metric.compute() for name, metric in self.val_tallies.items()}
        self.confusion = {name: tallies[name] for name, task in self.tasks.items() if isinstance(task, Classification)}
        figures: dict[str, Any] = {f"{split}/loss/{name}": loss for name, loss in losses.items()}
        scores = {name: task.score(tallies[name]) for name, task in self.tasks.items()}
        figures |= {f"{split}/{task.score_name}/{name}": scores[name] for name, task in self.tasks.items()}
        # Of all processes already: averaging equal values does no harm, and Lightning warns without it.
        self.log_dict(figures, sync_dist=True)
        self.log(f"{split}/loss", self.weighting(losses), prog_bar=True, sync_dist=True)
        self.log(f"{split}/score", torch.stack(list(scores.values())).mean(), prog_bar=True, sync_dist=True)
        self.guessing = [name for name, task in self.tasks.items() if bool(task.guesses(tallies[name]))]
        for metric in (*self.val_losses.values(), *self.val_tallies.values()):
            metric.reset()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """Return what the heads predict for one batch.

        Returns:
            `index` `(B,)`, the images' numbers in the split; `outputs` by task, the probabilities `(B, levels)` of a
            classification, the reconstruction `(B, 3, H / 4, W / 4)` in [0, 1] of `masked` and `autoencoder`; and
            `targets` by task, labels `(B,)` or the images to reconstruct `(B, 3, H, W)`.
        """
        images, targets = self.see(batch)
        outputs = self(images)
        outputs = {name: task.predict(outputs[name]) for name, task in self.tasks.items()}
        return {"index": batch["index"], "outputs": outputs, "targets": targets}


def _by_name(modules: Mapping[str, nn.Module]) -> Any:
    """A ModuleDict, typed loosely: PyTorch's own types allow a tensor wherever a module is looked up."""
    return nn.ModuleDict(modules)
