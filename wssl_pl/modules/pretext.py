"""The pretext stage: one encoder, one head per weighted task."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from wssl_pl.callbacks import OnlineProbe, side_by_side
from wssl_pl.data.dataset import RANDOM_NUMBERS
from wssl_pl.errors import WSSLError
from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.encoder import encoder_path, make_decoder, make_encoder
from wssl_pl.modules.heads import (
    Answers,
    Drawn,
    TaskMetrics,
    calibrated,
    change_images,
    check_same_tasks,
    check_temperatures,
    has_restoration,
    named_metrics,
    sources,
    unchanged_fraction,
)
from wssl_pl.modules.upgrad import UPGrad
from wssl_pl.networks import WIDTH, UNetDecoder, crop_to, initialise, pad_to_multiple
from wssl_pl.tasks import (
    Classification,
    Damage,
    FixedWeights,
    PretextTask,
    UncertaintyWeights,
    make_tasks,
    normalise_weights,
    task_names,
)


class PretextModule(WSSLModule):
    """Trains an encoder to recognise what was done to images: a weighted sum of one loss per task.

    Every active task changes the same image, each with random numbers of its own for each sample. The best checkpoint
    is that of the highest mean of the tasks' scores, `val/score`: accuracies, and R² of reconstructions.

    Args:
        tasks: one or more of rotation, saturation, sharpness, contrast, blur, noise, jpeg, masked, autoencoder,
            restoration, and class paths of your own tasks (`mypackage.Brightness`).
        weights: one positive number per task, scaled to sum 1; default: equal ones.
        weighting: `fixed` takes the weights as given; `uncertainty` learns them (Kendall, Gal and Cipolla 2018);
            `upgrad` combines the tasks' gradients so that no step harms a task (TorchJD; on one device).
        levels: levels by task, e.g. `--model.levels.sharpness=[0,0.5,1]`; default: the paper's four. Those of
            masked are the smallest and the largest masked fraction.
        encoder: class path of an encoder of your own (`mypackage.MyEncoder`); default: the paper's U-Net encoder.
        width: feature maps of the first encoder stage (64 to 1024 over five stages in the paper).
        norm: normalisation after each convolution; none in the paper.
        block: the convolutions of a stage: `plain` as in the paper, `residual`, or `gated` (gated convolutions).
        decoder: train the downstream stage's decoder too, with its skips: tasks that reconstruct the image do it in
            full size with it, on that stage's default loss, in place of their small heads; `reuse=all` takes
            it over downstream.
        heads: the features that classifications read: of the `encoder`; of the `decoder`, the last stage's, as in DCPT
            (Hu et al. 2025); or `both`.
        pretext_holes: the changed images have holes of the data's masks, as downstream.
        mask_channel: the encoder gets the mask of `pretext_holes` or `masked` as a fourth channel, 1 = hole.
        fill: the encoder's input in a hole: a value in [0, 1], `mean` (the mean colour outside) or `smooth`
            (interpolated). The downstream stage uses the same.
        init: initialisation of what is new: `he` (He-normal), `xavier` (Keras's) or `pytorch` (with `norm` only).
        probe_steps: steps of the online probe at every validation, e.g. 200: how well a small decoder inpaints from the
            encoder's features (`val/probe_psnr`), and their effective rank (`val/rankme`). 0: no probe.
        temperatures: by task, of the head's logits, for calibrated probabilities; every validation finds them.
        training: learning rate, schedule, optimiser, `ema` and `compile`: see `WSSLModule`.
    """

    stage = "pretext"
    max_epochs = 40
    monitor = "val/score"
    smallest_image = 32  # the encoder halves the sides five times

    def __init__(
        self,
        tasks: list[str] = ["rotation", "saturation", "sharpness"],  # noqa: B006  (read by the command line, never changed)
        weights: list[float] | None = None,
        weighting: Literal["fixed", "uncertainty", "upgrad"] = "fixed",
        levels: dict[str, list[float]] | None = None,
        encoder: str | None = None,
        width: int = WIDTH,
        norm: Literal["none", "batch", "group", "instance"] = "none",
        block: Literal["plain", "residual", "gated"] = "plain",
        decoder: bool = False,
        heads: Literal["encoder", "decoder", "both"] = "encoder",
        pretext_holes: bool = False,
        mask_channel: bool = False,
        fill: float | Literal["mean", "smooth"] = 0.0,
        init: Literal["he", "xavier", "pytorch"] = "he",
        probe_steps: int = 0,
        temperatures: dict[str, float] | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.hparams.update(encoder=encoder_path(encoder))
        self.set_inputs(fill, mask_channel)
        check_temperatures(temperatures)
        found = make_tasks(tasks, levels)
        if weights is not None and weighting != "fixed":
            raise WSSLError("weights", weights, f"weighting={weighting} finds its own", "omit one of the two")
        if self.compiles and weighting == "upgrad":
            raise WSSLError("compile", True, "weighting=upgrad differentiates more than once", "omit one of the two")
        if (wanted := sum(task.numbers for task in found.values())) > RANDOM_NUMBERS:
            raise WSSLError("tasks", tasks, f"take {wanted} random numbers per sample, there are {RANDOM_NUMBERS}")
        if mask_channel and not pretext_holes and not any(task.masks_input for task in found.values()):
            remedy = "give pretext_holes=true or the task masked"
            raise WSSLError("mask_channel", True, "nothing is masked", remedy)
        if probe_steps < 0:
            raise WSSLError("probe_steps", probe_steps, "must be at least 0, which is no probe")
        for name, value, default in (("norm", norm, "none"), ("block", block, "plain")):
            if encoder is not None and value != default:
                raise WSSLError(name, value, f"encoder={encoder_path(encoder)} has its own", f"omit {name}")
        self.pretext_holes, self.probe_steps, self.norm = pretext_holes, probe_steps, norm
        self.needs_masks = pretext_holes or probe_steps > 0
        self.crop_margin = sum(task.margin for task in found.values())
        # A ModuleDict, so that each task's levels move to the device with the networks.
        self.tasks = _by_name(found)
        fixed = normalise_weights(task_names(tasks), weights)
        self.weighting = UncertaintyWeights(found) if weighting == "uncertainty" else FixedWeights(fixed)
        self.upgrad = UPGrad() if weighting == "upgrad" else None
        self.automatic_optimization = self.upgrad is None
        self.encoder = make_encoder(encoder, width, norm, mask_channel, block)
        self._check_decoder(decoder, heads, weighting, found)
        channels = self.encoder.out_channels
        width_of = {"encoder": channels[-1]}
        made: UNetDecoder | None = None
        if decoder:
            made = make_decoder(channels, norm, block, encoder)
            width_of |= {"decoder": made.last_channels, "both": channels[-1] + made.last_channels}
        self.read_by_heads = heads
        self.heads = _by_name(
            {name: task.head(width_of[heads]) for name, task in found.items() if not (decoder and task.reconstructs)}
        )
        self.decoder = made
        if init != "he":
            for network in (self.heads, self.decoder, None if encoder else self.encoder):
                if network is not None:
                    initialise(network, init)
        self.val_tasks = TaskMetrics(found)
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def _check_decoder(decoder: bool, heads: str, weighting: str, tasks: Mapping[str, PretextTask]) -> None:
        """Raise `WSSLError` for settings of decoder and heads that contradict each other."""
        reconstruct = [name for name, task in tasks.items() if task.reconstructs]
        if heads != "encoder" and not decoder:
            raise WSSLError("heads", heads, "there is no decoder", "give decoder=true")
        if decoder and not reconstruct:
            # Its last convolution would never be trained, and reuse=all would take it over.
            raise WSSLError("decoder", True, f"none of the tasks {list(tasks)} reconstructs", "add the task masked")
        if heads != "encoder" and len(reconstruct) == len(tasks):
            raise WSSLError("heads", heads, f"none of the tasks {list(tasks)} is a classification", "omit it")
        if decoder and weighting == "upgrad":
            reason = "upgrad combines the gradients at the encoder's last features, which the skips go around"
            raise WSSLError("decoder", True, reason, "give weighting=fixed or uncertainty")

    def configure_callbacks(self) -> list[Callback]:
        """Return those of both stages, and the online probe, if it is on."""
        probe = [OnlineProbe(self.probe_steps)] if self.probe_steps else []
        return [*super().configure_callbacks(), *probe]

    def networks(self) -> list[nn.Module]:
        """Return the encoder."""
        return [self.encoder]

    def check_trainer(self, trainer: Trainer) -> None:
        """Raise `WSSLError` for a trainer with which the weighting does not work."""
        super().check_trainer(trainer)
        if self.upgrad is not None:
            self.upgrad.check_trainer(trainer)

    def check_resumed(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another `weighting` too: other parameters, or with `upgrad` steps that Lightning counts apart."""
        now = self.hparams["weighting"]
        if (before := checkpoint.get("hyper_parameters", {}).get("weighting", now)) != now:
            raise WSSLError("weighting", now, f"the resumed run has weighting={before}", "omit it, or start a new run")
        super().check_resumed(checkpoint)
        check_same_tasks(self.tasks, self.hparams, checkpoint.get("hyper_parameters", {}))

    def remarks(self) -> list[str]:
        """Name the heads that have not learned."""
        if not (at_chance := self.val_tasks.at_chance(self.tasks)):
            return []
        has_norm = self.norm != "none" or self.hparams["encoder"] is not None
        remedies = ["train longer", "lower --model.lr", *([] if has_norm else ["use --model.norm=batch"])]
        # The edges of black holes hide how sharp the rest is (docs/where.md).
        black = self.pretext_holes and self.fill == 0.0 and "sharpness" in at_chance
        remedies += ["fill the holes by --model.fill=smooth --model.mask_channel=true"] if black else []
        return [f"Still at chance: {', '.join(at_chance)}; {', or '.join(remedies)}"]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the networks, and the learned weights with their own learning rate."""
        decoder = [] if self.decoder is None else self.decoder.parameters()
        networks = {"params": [*self.encoder.parameters(), *decoder, *self.heads.parameters()]}
        learned = list(self.weighting.parameters())
        # A decay would pull the log-variances to 0, that is to equal weights.
        own = {"params": learned, "lr": UncertaintyWeights.LR, "weight_decay": 0.0}
        return [networks, own] if learned else [networks]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the heads' outputs, float32, by task, of images `(B, 3, H, W)` in [0, 1] or of `prepare_inputs`.

        Of a classification these are logits `(B, levels)`.
        """
        return self.outputs(images)[0]

    def outputs(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the heads' outputs as `forward` does, and the encoder's last features."""
        if self.decoder is None:
            features, _ = self.encoder(self.as_input(images))
            return {name: head(features).float() for name, head in self.heads.items()}, features
        features, skips = self.encoder(self.as_input(pad_to_multiple(images)))
        decoded = self.decoder.features(features, skips)
        read = {"encoder": [features], "decoder": [decoded], "both": [features, decoded]}[self.read_by_heads]
        # The heads take means over all positions: here of features of two sizes.
        means = torch.cat([part.mean(dim=(2, 3), keepdim=True) for part in read], dim=1)
        outputs = {name: head(means).float() for name, head in self.heads.items()}
        image = crop_to(self.decoder.project(decoded), *images.shape[-2:]).float()
        return {name: outputs.get(name, image) for name in self.tasks}, features

    @property
    def heads_see_holes(self) -> bool:
        """Whether the heads were trained on images with holes."""
        return self.pretext_holes or any(task.masks_input for task in self.tasks.values())

    @property
    def unchanged_fractions(self) -> dict[str, float]:
        """The fraction of the training's images that each classification has left as they are."""
        tasks = [task for task in self.tasks.values() if isinstance(task, Classification)]
        any_strength = has_restoration(self.tasks)
        drawn = {task: task.strength if any_strength and isinstance(task, Damage) else None for task in tasks}
        return {task.name: unchanged_fraction(task, strength) for task, strength in drawn.items()}

    def probabilities(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Return the calibrated probabilities `(B, levels)` of each classification.

        Args:
            images: `(B, 3, H, W)` in [0, 1].
            masks: `(B, 1, H, W)`, 1 = hole, if the heads were trained on images with holes.
        """
        inputs = self.with_holes(images, masks if self.heads_see_holes else torch.zeros_like(masks))
        return calibrated(self.tasks, self(inputs), self.hparams["temperatures"])

    def transform(self, images: Tensor, uniform: Tensor, margin: int = 0) -> tuple[Tensor, Drawn]:
        """Change the images by every active task.

        Args:
            images: `(B, 3, S + 2 * margin, S + 2 * margin)` in [0, 1].
            uniform: `(B, K)` uniform random numbers in [0, 1), as many columns as the tasks take.
            margin: pixels on every side that are there for the tasks' filters alone and are cut off afterwards.

        Returns:
            the changed images `(B, 3, S, S)`, and what was drawn for them.
        """
        return change_images(self.tasks, images, uniform, margin)

    def prepare_inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the encoder's input for a batch, `(B, 3 or 4, S, S)`, and the targets by task."""
        images, drawn = self.transform(*sources(batch))
        # A task that masks has set the pixels to 0 already.
        if self.pretext_holes or self.mask_channel or (drawn.mask is not None and self.fill != 0.0):
            masks = [] if drawn.mask is None else [drawn.mask.float()]
            masks += [batch["mask"]] if self.pretext_holes else []
            images = self.with_holes(images, torch.cat(masks, dim=1).amax(dim=1, keepdim=True))
        return images, drawn.targets

    def _answers(self, batch: dict[str, Tensor]) -> tuple[Answers, Tensor]:
        """Return the losses and states of one batch, and the encoder's features."""
        images, targets = self.prepare_inputs(batch)
        outputs, features = self.outputs(images)
        return Answers.of(self.tasks, outputs, targets), features

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the weighted loss of one batch."""
        answers, features = self._answers(batch)
        losses = answers.losses
        loss: Tensor = self.weighting(losses)
        self.log("train/loss", loss, prog_bar=True)
        for name, value in named_metrics("train", self.tasks, losses, answers.states).items():
            self.log(name, value)
        weights = self.weighting.learned() if self.upgrad is None else self._step_upgrad(self.upgrad, losses, features)
        for name, weight in weights.items():
            self.log(f"train/weight/{name}", weight)
        return loss

    def _step_upgrad(self, upgrad: UPGrad, losses: dict[str, Tensor], features: Tensor) -> dict[str, Tensor]:
        """Make a step of UPGrad; return the weights that the tasks' gradients had in it."""
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        optimizer.zero_grad()
        own = [self.heads[name].parameters() for name in losses]
        weights = upgrad.backward(losses, features, self.encoder.parameters(), own)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        return weights

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the metrics of every task."""
        self.val_tasks.update(self.tasks, self._answers(batch)[0], count=len(batch["image"]))

    def log_metrics(self, split: str) -> None:
        """Log loss and score per task and their means."""
        losses, states = self.val_tasks.compute()
        self.keep_temperatures(split, self.val_tasks)
        # Of all processes already: averaging equal values does no harm, and Lightning warns without it.
        self.log_dict(named_metrics(split, self.tasks, losses, states), sync_dist=True)
        self.log(f"{split}/loss", self.weighting(losses), prog_bar=True, sync_dist=True)
        scores = [task.score(states[name]) for name, task in self.tasks.items()]
        self.log(f"{split}/score", torch.stack(scores).mean(), prog_bar=True, sync_dist=True)

    def validation_figures(self, title: str) -> dict[str, Any]:
        """Return the tasks' figures of the last validation by tag."""
        return self.val_tasks.figures(self.tasks, title)

    def validation_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return, by tag, the encoder's input, the reconstruction and the truth of the tasks that reconstruct."""
        images, targets = self.prepare_inputs(batch)
        drawn = {name: self.tasks[name].image(output) for name, output in self(images).items()}
        size = images.shape[-2:]
        return {
            f"val/images/{name}": side_by_side([images[:, :3], F.interpolate(image, size=size), targets[name]])
            for name, image in drawn.items()
            if image is not None
        }

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """Return what the heads predict for one batch.

        Returns:
            `index` `(B,)`, the images' numbers in the split; `outputs` by task, the probabilities `(B, levels)` of a
            classification, the reconstruction `(B, 3, H / 4, W / 4)` in [0, 1] of tasks that reconstruct; and
            `targets` by task, labels `(B,)` or the images to reconstruct `(B, 3, H, W)`.
        """
        images, targets = self.prepare_inputs(batch)
        outputs = {name: self.tasks[name].predict(output) for name, output in self(images).items()}
        return {"index": batch["index"], "outputs": outputs, "targets": targets}


def _by_name(modules: Mapping[str, nn.Module]) -> Any:
    """Return a ModuleDict, typed loosely: PyTorch's own types allow a tensor wherever a module is looked up."""
    return nn.ModuleDict(modules)
