"""The downstream stage: the pretext encoder, frozen as far as asked, and a decoder that fills holes."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from wssl_pl.data.dataset import RANDOM_NUMBERS
from wssl_pl.errors import WSSLError
from wssl_pl.losses import LOSSES, WSSLLoss
from wssl_pl.metrics import HolePSNR, Mean, composite
from wssl_pl.metrics.gaussian import RADIUS, SIGMA, WINDOW
from wssl_pl.modules.adversarial import DISCRIMINATOR_LR
from wssl_pl.modules.damages import Damages
from wssl_pl.modules.encoder import (
    check_training,
    load_decoder,
    load_encoder,
    load_model,
    make_decoder,
    model_settings,
    read_start,
)
from wssl_pl.modules.features import absolute_features
from wssl_pl.modules.filling import FillingModule
from wssl_pl.modules.heads import (
    Answers,
    calibrated,
    check_same_tasks,
    check_temperatures,
    named_metrics,
    sources,
    unchanged_fraction,
)
from wssl_pl.modules.joint import load_heads, make_joint_tasks
from wssl_pl.modules.network import ORACLE, FillsHoles
from wssl_pl.modules.optimizer import check_factor, check_positive
from wssl_pl.networks import PatchDiscriminator, initialise, make_contexts, pad_to_multiple

log = logging.getLogger(__name__)

RANDOM_FROZEN = (
    "The encoder is new and frozen, with random weights: to train from scratch give freeze_layers=0 "
    "(a pretext checkpoint: ckpt=runs/pretext/<run>/best.ckpt)"
)


class InpaintModule(FillsHoles, FillingModule):
    """Fills the holes of masked images: RGB with the hole set to `fill` in, the whole image out.

    Args:
        ckpt: the pretext checkpoint whose encoder is used, or `none` for a new encoder: the controls. With `reuse=all`
            it may be a finished model of this stage; on the command line `shipped` is the shipped one.
        reuse: what is taken from the checkpoint: its `encoder`, or `all`: also the decoder of `stage=pretext
            decoder=true`; or all networks of a finished model, a `.ckpt` or `.safetensors` file of this stage, which is
            trained on, with other images, at another size, or with another loss.
        freeze_layers: how many of the encoder's 16 layers are frozen, in Keras's count: 1 is the input, then
            (conv, conv, pool) five times; 0 trains everything, 16 freezes the whole encoder. An encoder of your own
            has its own number of layers.
        loss: `wssl` is 0.84 log-cosh + 0.16 (1 - SSIM); `log_cosh` and `ssim` are its parts alone.
        alpha: weight of log-cosh in `loss=wssl`; default: the paper's 0.84.
        encoder: class path of an encoder of your own (`mypackage.MyEncoder`); default: the checkpoint's, else the
            paper's U-Net encoder.
        width: feature maps of the first stage; default: the checkpoint's, else 64.
        norm: normalisation after each convolution; default: the checkpoint's, else none.
        block: the convolutions of a stage, of both halves: `plain` as in the paper, `residual`, or `gated` (gated
            convolutions); default: the checkpoint's, else plain.
        context: what lets a hole see the whole image, between encoder and decoder: `none` as in the paper, `dilated`
            (convolutions of four dilations), `fourier` (convolution of the spectrum), or `attention`; default: that of
            the model in `ckpt`, else none.
        context_levels: at how many levels, the coarsest first: 1 is the encoder's last features, 2 and 3 add the skip
            connections at 1/16 and 1/8 of the image's side; default: the model's, else 1.
        mask_channel: the encoder gets the mask as a fourth channel, 1 = hole; default: as the checkpoint's, else
            false. To an encoder that had none it is added with weights of 0.
        fill: the network's input in the hole: a value in [0, 1]; `mean`, the image's mean colour outside the hole; or
            `smooth`, interpolated from the hole's border; default: the checkpoint's, else 0.
        output: what the decoder gives: the `image` as in the paper, or the `change` of the network's input, 0 at first;
            with `fill=smooth` a training starts with the interpolated hole; default: the model's, else the image.
        init: initialisation of what is new: `he` (He-normal), `xavier` (Keras's) or `pytorch` (with `norm` only);
            blocks of `context` have their own.
        unfreeze_epoch: the frozen layers are trained too from this epoch on, the first being 0; on one device.
        encoder_lr: learning rate of the encoder, where it is trained; default: `lr`.
        composite_loss: factor of the same loss of the composite, added to that of the whole raw output: it counts the
            hole alone, and its border.
        perceptual: factor of the distance of the composite from the truth in the `features`, added to the training
            loss; PConv's is 0.05.
        style: factor of the distance of their Gram matrices; PConv's is 120.
        features: what the two compare: `vgg16:FILE` or `alexnet:FILE`, torchvision's weights (without `:FILE` searched
            in `WSSL_WEIGHTS` and torch hub's cache), or `pretext:CKPT`, the encoder of a pretext checkpoint; `pretext`
            alone: that of `ckpt`.
        adversarial: factor of the loss of the composite against a discriminator that is trained beside the model
            (SN-PatchGAN with hinge losses; Yu et al. 2019, DeepFill v2), added to the training loss, such as 0.01.
        discriminator_lr: learning rate of the discriminator, whose schedule is that of `lr`; default: 4 times the
            default `lr`, as in SAGAN (Zhang et al. 2019), whose betas of Adam are used too: 0 and 0.9.
        discriminator_width: feature maps of the discriminator's first layer; default: `width`, DeepFill v2's are 64.
        restore: damages that are undone beside the holes: one or more of saturation, sharpness, contrast, blur, noise,
            jpeg, and class paths of your own. Each image is damaged by all of them, at random strengths, before it is
            masked; the target is the clean image.
        undamaged: probability that a damage of `restore` leaves an image as it is, for each damage on its own, such as
            0.5: photographs have few of them, and the model learns to leave what is good.
        strength_channels: the encoder gets the strength of each damage of `restore` as a constant channel in [0, 1]: an
            oracle, which shows in a study how much knowing the strengths would be worth. Of a photo nobody knows them,
            so that such a model is only trained and measured.
        task_loss: factor of the weighted losses of pretext tasks, added to the training loss: joint training.
        tasks: of `task_loss`, each with a head on the encoder's last features; default: those of the pretext
            checkpoint that are classifications, else those of `restore`. A task of that checkpoint keeps its head, any
            other gets a new one. The head of a damage that `restore` makes reads the features of the image that is
            restored; other tasks change the clean images, which the encoder is given in the same batch, with the
            changes of all tasks.
        weights: one positive number per task, scaled to sum 1; default: the checkpoint's, equal ones for `tasks`.
        levels: levels by task, as in the pretext stage; default: the checkpoint's.
        consistency: factor of the mean squared distance between the encoder's last features of the masked and of the
            whole image, added to the training loss; the latter take no gradient.
        log_cosh_a: sharpness of the bend of log-cosh: the larger, the closer to the absolute error.
        ssim: the SSIM of the loss: `fast`, or `kornia` for the reference.
        ssim_window: side of the Gaussian window of the loss's SSIM in pixels, odd; the metrics keep 11.
        ssim_sigma: standard deviation of that window in pixels; the metrics keep 1.5.
        temperatures: of `task_loss`, as in the pretext stage.
        training: learning rate, schedule, optimiser, `ema` and `compile`: see `WSSLModule`.
    """

    stage = "downstream"
    max_epochs = 20

    def __init__(
        self,
        ckpt: str | None = None,
        reuse: Literal["encoder", "all"] = "encoder",
        freeze_layers: int = 16,
        loss: Literal["wssl", "log_cosh", "ssim"] = "wssl",
        alpha: float | None = None,
        encoder: str | None = None,
        width: int | None = None,
        norm: Literal["none", "batch", "group", "instance"] | None = None,
        block: Literal["plain", "residual", "gated"] | None = None,
        context: Literal["none", "dilated", "fourier", "attention"] | None = None,
        context_levels: int | None = None,
        mask_channel: bool | None = None,
        fill: float | Literal["mean", "smooth"] | None = None,
        output: Literal["image", "change"] | None = None,
        init: Literal["he", "xavier", "pytorch"] = "he",
        unfreeze_epoch: int | None = None,
        encoder_lr: float | None = None,
        composite_loss: float = 0.0,
        perceptual: float = 0.0,
        style: float = 0.0,
        features: str | None = None,
        adversarial: float = 0.0,
        discriminator_lr: float = DISCRIMINATOR_LR,
        discriminator_width: int | None = None,
        restore: list[str] | None = None,
        undamaged: float = 0.0,
        strength_channels: bool = False,
        task_loss: float = 0.0,
        tasks: list[str] | None = None,
        weights: list[float] | None = None,
        levels: dict[str, list[float]] | None = None,
        consistency: float = 0.0,
        log_cosh_a: float = 1.0,
        ssim: Literal["fast", "kornia"] = "fast",
        ssim_window: int = 11,
        ssim_sigma: float = 1.5,
        temperatures: dict[str, float] | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self._check_loss(loss, alpha, log_cosh_a, ssim_window, ssim_sigma)
        if encoder_lr is not None:
            check_positive("encoder_lr", encoder_lr)
        typed: dict[str, Any] = {"encoder": encoder, "width": width, "norm": norm, "block": block}
        typed |= {"mask_channel": mask_channel, "fill": fill}
        if undamaged and restore is None:
            raise WSSLError("undamaged", undamaged, "there are no damages", "give restore=..., or omit it")
        damages = None if restore is None else Damages(restore, undamaged)
        strengths = self._check_strengths(damages, task_loss, consistency) if strength_channels else 0
        start = read_start(ckpt, reuse)
        finished = start is not None and start["stage"] == "downstream"
        self.encoder, agreed, added = load_encoder(start, ckpt, typed, init, strengths)
        agreed |= model_settings(start, {"output": output, "context": context, "context_levels": context_levels})
        self.hparams.update(agreed)
        self.set_inputs(agreed["fill"], agreed["mask_channel"])
        check_temperatures(temperatures)
        self.encoder.freeze(freeze_layers)
        new = start is None and encoder is None and freeze_layers > 0 and unfreeze_epoch is None
        self._drawn = next(self.encoder.parameters()).detach().clone() if new else None
        factors = {"encoder_lr": encoder_lr, "consistency": consistency, "task_loss": task_loss}
        check_training(self.encoder, freeze_layers, unfreeze_epoch, factors, added)
        self.damages, self.strength_channels = damages, strength_channels
        check_factor("composite_loss", composite_loss)
        self.composite_loss = composite_loss
        self.set_features(perceptual, style, features)
        if features is not None and not (perceptual or style):
            raise WSSLError("features", features, "nothing uses them", "give perceptual=0.05, or omit them")
        self.hparams["features"] = absolute_features(features, ckpt)
        self.set_adversary(adversarial, discriminator_lr, discriminator_width)
        self.unfreeze_epoch, self.encoder_lr, self.consistency = unfreeze_epoch, encoder_lr, consistency
        channels = self.encoder.out_channels
        self.decoder = make_decoder(channels, agreed["norm"], agreed["block"], agreed["encoder"])
        if init != "he":
            initialise(self.decoder, init)
        if start is not None and reuse == "all":
            if not finished:
                load_decoder(self.decoder, start, ckpt)
            self.hparams["reuse"] = "encoder"  # the checkpoint that this module will be saved to holds it
        self.set_output(agreed["output"])
        # Drawn after the decoder, whose weights are the same with and without them.
        self.contexts = make_contexts(agreed["context"], channels, agreed["context_levels"])
        if start is not None and finished:
            load_model(self.decoder, self.contexts, start, ckpt)
        options = {"tasks": tasks, "weights": weights, "levels": levels}
        heads = None if finished else ckpt
        self.joint, agreed = make_joint_tasks(task_loss, options, heads, restore or (), channels[-1], init)
        if start is not None and finished and self.joint is not None:
            load_heads(self.joint, start, ckpt)
        self.task_loss = task_loss
        self.hparams.update(agreed)
        parts = [part for part in (self.damages, self.joint) if part is not None]
        self.crop_margin = max((part.margin for part in parts), default=0)
        if (wanted := sum(part.numbers for part in parts)) > RANDOM_NUMBERS:
            reason = f"with tasks={tasks} takes {wanted} random numbers per sample, there are {RANDOM_NUMBERS}"
            raise WSSLError("restore", restore, reason)
        self.loss = WSSLLoss(LOSSES[loss] if alpha is None else alpha, ssim, log_cosh_a, ssim_window, ssim_sigma)
        self.smallest_image = max(RADIUS, ssim_window // 2) + 1
        self.val_log_cosh = Mean()
        # Of a restored image the known part counts too.
        self.val_parts: Any = nn.ModuleDict({"psnr_hole": HolePSNR(), "psnr_known": HolePSNR()} if restore else {})
        # The metric is the same for all models; the loss's own SSIM is needed beside it only where it is another.
        self.val_ssim_loss = Mean() if (ssim_window, ssim_sigma) != (WINDOW, SIGMA) else None
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def _check_loss(loss: str, alpha: float | None, log_cosh_a: float, window: int, sigma: float) -> None:
        """Raise `WSSLError` for a setting of the loss that cannot be used."""
        if alpha is not None and not (loss == "wssl" and 0.0 <= alpha <= 1.0):
            raise WSSLError("alpha", alpha, "needs loss=wssl and a number between 0 and 1")
        check_positive("log_cosh_a", log_cosh_a)
        if window < 3 or window % 2 == 0:
            raise WSSLError("ssim_window", window, "must be odd and at least 3")
        check_positive("ssim_sigma", sigma)

    def _check_effect(self) -> None:
        """Raise `WSSLError` for a setting of a part that the loss does not have; models of version 0.2 may have one."""
        loss, alpha = (self.hparams[name] for name in ("loss", "alpha"))
        typed, weight = (f"loss={loss}", LOSSES[loss]) if alpha is None else (f"alpha={alpha}", alpha)
        remedy = "omit it, or give " + ("loss=wssl" if alpha is None else "another alpha")
        parts = (
            ("log_cosh_a", 1.0, 0.0, "log-cosh"),
            ("ssim_window", WINDOW, 1.0, "SSIM"),
            ("ssim_sigma", SIGMA, 1.0, "SSIM"),
        )
        for name, default, without, part in parts:
            if weight == without and self.hparams[name] != default:
                raise WSSLError(name, self.hparams[name], f"{typed} has no {part}", remedy)

    @staticmethod
    def _check_strengths(damages: Damages | None, task_loss: float, consistency: float) -> int:
        """Return the number of channels of strengths, or raise `WSSLError` for settings that they contradict."""
        if damages is None:
            raise WSSLError("strength_channels", True, "there are no damages", "give restore=..., or omit it")
        for name, value in (("task_loss", task_loss), ("consistency", consistency)):
            if value:
                raise WSSLError(name, value, "strength_channels=true gives the answers away", "omit one of the two")
        return len(damages.tasks)

    def make_discriminator(self) -> nn.Module:
        """Return a new discriminator."""
        return PatchDiscriminator(self.hparams["discriminator_width"] or self.hparams["width"])

    def check_trainer(self, trainer: Trainer) -> None:
        """Raise `WSSLError` also for settings without effect, and for unfreezing on several devices.

        The devices would not exchange the gradients of what is unfrozen.
        """
        super().check_trainer(trainer)
        self._check_effect()
        # DDP registers the parameters that require a gradient when it starts, and no others.
        if self.unfreeze_epoch is not None and trainer.num_devices * trainer.num_nodes > 1:
            raise WSSLError("unfreeze_epoch", self.unfreeze_epoch, "works on one device", "give devices=1")

    def check_resumed(self, checkpoint: dict[str, Any]) -> None:
        """Check also that the heads of `task_loss` mean what they meant."""
        super().check_resumed(checkpoint)
        if self.joint is not None:
            check_same_tasks(self.joint.tasks, self.hparams, checkpoint.get("hyper_parameters", {}))

    def setup(self, stage: str) -> None:
        """Say also that a new encoder is frozen: a control, and no training from scratch."""
        super().setup(stage)
        if stage == "fit" and self._drawn is not None and self.trainer.ckpt_path is None:
            weights = next(self.encoder.parameters()).detach()
            if torch.equal(weights.cpu(), self._drawn.to(weights.dtype).cpu()):  # else they were loaded since
                rank_zero_only(log.warning)(RANDOM_FROZEN)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the encoder, with its own learning rate if it has one, and what is behind it."""
        later = self.unfreeze_epoch is not None
        encoder = [parameter for parameter in self.encoder.parameters() if later or parameter.requires_grad]
        decoder = [*self.decoder.parameters(), *self.contexts.parameters()]
        decoder += [] if self.joint is None else self.joint.parameters()
        if self.encoder_lr is None:
            return [{"params": [*encoder, *decoder]}]
        return [{"params": encoder, "lr": self.encoder_lr}, {"params": decoder}]

    def on_train_start(self) -> None:
        """Unfreeze the encoder also in a run resumed within an epoch, where `on_train_epoch_start` is not called."""
        super().on_train_start()
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Unfreeze the encoder from its epoch on."""
        if self.unfreeze_epoch is not None and self.current_epoch >= self.unfreeze_epoch:
            self.encoder.freeze(0)

    def forward(self, images: Tensor, masks: Tensor, strengths: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the prediction, the raw output.

        Args:
            images: `(B, 3, H, W)` in [0, 1], of any size; pixels in the hole have no influence.
            masks: `(B, 1, H, W)`, 1 = hole.
            strengths: `(B,)` of each damage, by its name; only `strength_channels` need them.

        Returns:
            `(B, 3, H, W)` in [0, 1], float32.

        Raises:
            WSSLError: the strengths are needed and not given.
        """
        return self._decode(*self._encode(images, masks, strengths), images)

    def given(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the images of a batch as the network is given them, damaged if it restores; without holes."""
        return self._damaged(batch)[0]

    def _damaged(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the images that the network is given, without holes, and the strengths `(B,)` of each damage."""
        if self.damages is None:
            return batch["image"], {}
        damaged: tuple[Tensor, dict[str, Tensor]] = self.damages(*sources(batch))
        return damaged

    def predicted(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the images of a batch that the network is given, without holes, and the prediction."""
        given, strengths = self._damaged(batch)
        return given, self(given, batch["mask"], strengths)

    def _encode(
        self, images: Tensor, masks: Tensor, strengths: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        padded = pad_to_multiple(self.with_holes(images, masks))
        if self.strength_channels:
            if strengths is None or self.damages is None:
                raise WSSLError("strength_channels", True, "the strengths of the damages are not known here", ORACLE)
            planes = self.damages.fractions(strengths).to(padded)[:, :, None, None]
            padded = torch.cat([padded, planes.expand(-1, -1, *padded.shape[-2:])], dim=1)
        return self._encode_input(padded)

    def _encode_batch(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor], Answers | None]:
        """Return the images that the network is given, the encoder's outputs for them, and the heads' answers."""
        (given, strengths), mask = self._damaged(batch), batch["mask"]
        if self.joint is None or not self.joint.others:
            features, skips = self._encode(given, mask, strengths)
            answers = None if self.joint is None else self.joint(features, features, strengths, {})
            return given, features, skips, answers
        images, uniform, margin = sources(batch)
        first = 0 if self.damages is None else self.damages.numbers  # numbers that the damages have not taken
        changed, targets = self.joint.change(images, uniform[:, first:], margin)
        # In one batch, so that normalisation has the same statistics in training as later, those of both.
        masks = torch.cat([mask, torch.zeros_like(mask)])
        outputs, all_skips = self._encode(torch.cat([given, changed]), masks)
        features, skips = outputs[: len(given)], [skip[: len(given)] for skip in all_skips]
        return given, features, skips, self.joint(features, outputs[len(given) :], strengths, targets)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch over the whole raw output, with what else was asked for."""
        image, mask = batch["image"], batch["mask"]
        given, features, skips, answers = self._encode_batch(batch)
        prediction = self._decode(features, skips, image)
        parts, filled = self.loss.parts(prediction, image), composite(prediction, image, mask)
        if self.composite_loss:
            parts["composite"] = self.loss(filled, image)
        if self.perceptual or self.style:
            parts |= self.losses_in_features(filled, image)
        if self.adversarial:
            parts |= self.against(filled, image, mask)
        if self.joint is not None and answers is not None:
            parts["task_loss"] = self.joint.weighting(answers.losses)
            self.log_dict(named_metrics("train", self.joint.tasks, answers.losses, answers.states))
        # As long as the encoder is frozen, the distance could change nothing.
        if self.consistency and features.requires_grad:
            parts["consistency"] = F.mse_loss(features.float(), self._features_of_whole(given))
        factors = {
            "composite": self.composite_loss, "perceptual": self.perceptual, "style": self.style,
            "adversarial": self.adversarial, "task_loss": self.task_loss, "consistency": self.consistency,
        }  # fmt: skip
        parts["loss"] = sum((factors[name] * parts[name] for name in factors if name in parts), start=parts["loss"])
        self.log_parts(parts)
        return parts["loss"]

    @property
    def heads_see_holes(self) -> bool:
        """Whether heads of `task_loss` were trained on images with holes."""
        return self.joint is not None and len(self.joint.others) < len(self.joint.tasks)

    @property
    def unchanged_fractions(self) -> dict[str, float]:
        """The fraction of the training's images that each task of `task_loss` has left as they are."""
        if self.joint is None:
            return {}
        restored = self.joint.tasks.keys() - {*self.joint.others}
        drawn = {name: partial(self.damages.strength, name) for name in restored if self.damages is not None}
        return {name: unchanged_fraction(task, drawn.get(name)) for name, task in self.joint.tasks.items()}

    def probabilities(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Return the calibrated probabilities `(B, levels)` of each head of `task_loss`.

        Args:
            images: `(B, 3, H, W)` in [0, 1].
            masks: `(B, 1, H, W)`, 1 = hole, for the heads that were trained on images with holes.
        """
        if self.joint is None:
            return {}
        masked, whole = (self._encode(images, holes)[0] for holes in (masks, torch.zeros_like(masks)))
        return calibrated(self.joint.tasks, self.joint.outputs(masked, whole), self.hparams["temperatures"])

    def _features_of_whole(self, images: Tensor) -> Tensor:
        """Return the encoder's last features of images without a hole, float32; they take no gradient."""
        # In evaluation mode, so that normalisation's statistics stay those of images with holes. Always after the pass
        # with gradient: autocast keeps the weights that it has rounded, and these must be part of the graph.
        self.encoder.eval()
        with torch.no_grad():
            features, _ = self._encode(images, torch.zeros_like(images[:, :1]))
        self.encoder.train()
        return features.float()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the metrics."""
        image, mask = batch["image"], batch["mask"]
        if self.joint is None:
            _, prediction = self.predicted(batch)
        else:
            _, features, skips, answers = self._encode_batch(batch)
            prediction = self._decode(features, skips, image)
            assert answers is not None
            self.joint.metrics.update(self.joint.tasks, answers, count=len(image))
        if self.damages is not None:
            self.val_parts["psnr_hole"].update(prediction, image, mask)
            self.val_parts["psnr_known"].update(prediction, image, 1.0 - (mask > 0.5).float())
        self.add_metrics(prediction, batch)
        self.val_log_cosh.update(self.loss.log_cosh(prediction, image), count=len(image))
        if self.val_ssim_loss is not None:
            self.val_ssim_loss.update(self.loss.ssim_loss(prediction, image), count=len(image))

    def computed_metrics(self) -> dict[str, Tensor]:
        """Return also the loss and its parts, and of a restored image the PSNR of the hole and of the known part."""
        metrics = super().computed_metrics()
        if self.damages is not None:  # nothing is pasted back, see docs/metrics.md
            metrics = {name: value for name, value in metrics.items() if "_composite" not in name}
        metrics["log_cosh"] = self.val_log_cosh.compute()
        own_ssim = self.val_ssim_loss
        metrics["ssim_loss"] = 1.0 - metrics["ssim"] if own_ssim is None else own_ssim.compute()
        metrics["loss"] = self.loss.alpha * metrics["log_cosh"] + (1.0 - self.loss.alpha) * metrics["ssim_loss"]
        metrics |= {name: metric.compute() for name, metric in self.val_parts.items()}
        for metric in (self.val_log_cosh, own_ssim, *self.val_parts.values()):
            if metric is not None:
                metric.reset()
        return metrics

    def log_metrics(self, split: str) -> None:
        """Log also the metrics of the heads."""
        super().log_metrics(split)
        if self.joint is not None:
            self.log_dict(named_metrics(split, self.joint.tasks, *self.joint.metrics.compute()), sync_dist=True)
            self.keep_temperatures(split, self.joint.metrics)

    def remarks(self) -> list[str]:
        """Name the tasks of the pretext checkpoint whose heads are omitted, and the heads that have not learned."""
        found = super().remarks()
        if self.joint is not None and (at_chance := self.joint.metrics.at_chance(self.joint.tasks)):
            found.append(f"Still at chance: {', '.join(at_chance)}; train longer, or lower --model.lr")
        if self.joint is not None and self.joint.omitted:
            omitted = ", ".join(self.joint.omitted)
            found.append(f"task_loss trains without {omitted}: the downstream stage reconstructs anyway")
        frozen = not all(each.requires_grad for each in self.encoder.parameters())
        # A resume that trains nothing unfreezes nothing.
        if self.unfreeze_epoch is not None and frozen and self.current_epoch <= self.unfreeze_epoch:
            found.append(f"The encoder was frozen to the end: unfreeze_epoch={self.unfreeze_epoch} was not reached")
        return found

    def validation_figures(self, title: str) -> dict[str, Any]:
        """Return the figures of the tasks that are trained too, by tag."""
        return {} if self.joint is None else self.joint.metrics.figures(self.joint.tasks, title)
