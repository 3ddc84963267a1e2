"""The downstream stage: the pretext encoder, frozen as far as asked, and a decoder that fills holes."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor, nn

from wssl_pl.errors import UsageError
from wssl_pl.losses import LOSSES, WSSLLoss
from wssl_pl.metrics import BinnedMetrics, InpaintingMetrics, Mean, composite, image_metrics
from wssl_pl.metrics.gaussian import RADIUS, SIGMA, WINDOW
from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.encoder import RGB, check_training, take_encoder
from wssl_pl.networks import UNetDecoder, crop_to, initialise, pad_to_multiple


class InpaintModule(WSSLModule):
    """Fills the holes of masked images: RGB with the hole set to `fill` in, the whole image out.

    Args:
        ckpt: the pretext checkpoint whose encoder is taken over, or `none` for a new encoder: the controls.
        freeze_layers: how many of the encoder's 16 layers are frozen, in Keras's count: 1 is the input, then
            (conv, conv, pool) five times; 0 trains everything, 16 freezes the whole encoder.
        loss: `wssl` is 0.84 log-cosh + 0.16 (1 - SSIM); `log_cosh` and `ssim` are its parts alone.
        alpha: share of log-cosh in `loss=wssl`; the paper's 0.84 if left out.
        width: feature maps of the first stage; the checkpoint's if left out, else 64.
        norm: normalisation after each convolution; the checkpoint's if left out, else none.
        mask_channel: the encoder sees the mask as a fourth channel, 1 = hole; as the checkpoint's if left out, else
            not. To an encoder that had none it is added with weights of 0.
        fill: what the network sees in the hole: a value in [0, 1], or `mean`, the image's mean colour outside the hole;
            the checkpoint's if omitted, else 0.
        init: initialisation of what is new: `he` (He-normal, zero biases; Ronneberger et al. 2015), `xavier` (uniform,
            Keras's default), or `pytorch` (PyTorch's default; a network without normalisation does not train with it).
        unfreeze_epoch: the frozen layers are trained too from this epoch on, the first being 0; on one device.
        encoder_lr: learning rate of the encoder, where it is trained; `lr` if left out.
        consistency: factor of the mean squared distance between the encoder's last features of the holed and of the
            whole image, added to the training loss; only the former are drawn to the latter.
        lr: learning rate.
        lr_schedule: `constant` as in the paper, or `cosine`, down to 0 at the run's end.
        warmup_steps: optimiser steps over which the learning rate first rises linearly; a cosine starts after them.
        optimizer: `adam` as in the paper, or `adamw` (Loshchilov and Hutter 2019).
        weight_decay: with `adam` an L2 penalty, added to the gradients; with `adamw` the decoupled decay.
        betas: of the optimiser: decay of the averages of gradients and of their squares.
        eps: of the optimiser, PyTorch's 1e-8. TensorFlow's Adam, with which the paper trained, has 1e-7.
        ema: decay of an exponential moving average of the weights, such as 0.999, which is then validated and saved as
            the model; none if omitted.
        log_cosh_a: sharpness of the bend of log-cosh: the larger, the closer to the absolute error.
        ssim: the SSIM of the loss: `fast`, or `kornia` for the reference.
        ssim_window: side of the Gaussian window of the loss's SSIM in pixels, odd; the metrics keep 11.
        ssim_sigma: standard deviation of that window in pixels; the metrics keep 1.5.
        compile: compile the networks with torch.compile.
    """

    stage = "downstream"
    needs_masks = True
    monitor = "val/ssim"
    smallest_image = RADIUS + 1  # below it the window of SSIM does not fit

    def __init__(
        self,
        ckpt: str | None = None,
        freeze_layers: int = 16,
        loss: Literal["wssl", "log_cosh", "ssim"] = "wssl",
        alpha: float | None = None,
        width: int | None = None,
        norm: Literal["none", "batch", "group", "instance"] | None = None,
        mask_channel: bool | None = None,
        fill: float | Literal["mean"] | None = None,
        init: Literal["he", "xavier", "pytorch"] = "he",
        unfreeze_epoch: int | None = None,
        encoder_lr: float | None = None,
        consistency: float = 0.0,
        lr: float = 1e-4,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        warmup_steps: int = 0,
        optimizer: Literal["adam", "adamw"] = "adam",
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        ema: float | None = None,
        log_cosh_a: float = 1.0,
        ssim: Literal["fast", "kornia"] = "fast",
        ssim_window: int = 11,
        ssim_sigma: float = 1.5,
        compile: bool = False,
    ) -> None:
        super().__init__()
        # The checkpoint that this module will be saved to holds the encoder itself.
        self.save_hyperparameters(ignore=["ckpt"])
        self.check_settings()
        self._check_loss()
        if encoder_lr is not None:
            self.check_lr(encoder_lr, "encoder_lr")
        if alpha is not None and not (loss == "wssl" and 0.0 <= alpha <= 1.0):
            raise UsageError(f"model.alpha={alpha}: it takes loss=wssl and a number between 0 and 1")
        self.encoder, self.hparams["fill"] = take_encoder(ckpt, width, norm, mask_channel, fill, init)
        self.hparams["width"], self.hparams["norm"] = self.encoder.width, self.encoder.norm
        self.hparams["mask_channel"] = self.encoder.in_channels > RGB
        try:
            self.encoder.freeze(freeze_layers)
        except ValueError as error:
            raise UsageError(str(error)) from None
        check_training(self.encoder, self.hparams, ckpt)
        self.decoder = UNetDecoder(self.encoder.width, self.encoder.norm)
        if init != "he":
            initialise(self.decoder, init)
        self.loss = WSSLLoss(LOSSES[loss] if alpha is None else alpha, ssim, log_cosh_a, ssim_window, ssim_sigma)
        self.smallest_image = max(RADIUS, ssim_window // 2) + 1
        self.val_metrics = InpaintingMetrics()
        self.val_bins = BinnedMetrics(self.val_metrics.names)
        self.val_log_cosh = Mean()
        # The metric is the same for all models; the loss's own SSIM is needed beside it only where it is another.
        self.val_ssim_loss = Mean() if (ssim_window, ssim_sigma) != (WINDOW, SIGMA) else None
        self.finish_networks()

    def _check_loss(self) -> None:
        """Raise `UsageError` for a setting of the loss that cannot be used, or has no effect."""
        settings = self.hparams
        a, window, sigma, loss = (settings[name] for name in ("log_cosh_a", "ssim_window", "ssim_sigma", "loss"))
        if not 0.0 < a < float("inf"):
            raise UsageError(f"model.log_cosh_a={a}: it must be a positive number")
        if window < 3 or window % 2 == 0:
            raise UsageError(f"model.ssim_window={window}: it must be odd and at least 3")
        if not 0.0 < sigma < float("inf"):
            raise UsageError(f"model.ssim_sigma={sigma}: it must be a positive number")
        if loss == "ssim" and a != 1.0:
            raise UsageError(f"model.log_cosh_a={a}: loss=ssim has no log-cosh: omit it, or give loss=wssl")
        if loss == "log_cosh" and (window, sigma) != (WINDOW, SIGMA):
            raise UsageError(
                f"model.ssim_window={window}, model.ssim_sigma={sigma}: loss=log_cosh has no SSIM: omit them, or give "
                "loss=wssl"
            )

    def check_trainer(self, trainer: Trainer) -> None:
        """Raises `UsageError` for unfreezing on several devices: they would not exchange the gradients."""
        super().check_trainer(trainer)
        # DDP sees to the parameters that are to be trained when it begins, and to no others.
        if self.hparams["unfreeze_epoch"] is not None and trainer.num_devices * trainer.num_nodes > 1:
            raise UsageError(
                f"model.unfreeze_epoch={self.hparams['unfreeze_epoch']} works on one device: give trainer.devices=1"
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder, with its own learning rate if it has one, and the decoder."""
        later = self.hparams["unfreeze_epoch"] is not None
        encoder = [parameter for parameter in self.encoder.parameters() if later or parameter.requires_grad]
        decoder = list(self.decoder.parameters())
        if self.hparams["encoder_lr"] is None:
            return [{"params": [*encoder, *decoder]}]
        return [{"params": encoder, "lr": self.hparams["encoder_lr"]}, {"params": decoder}]

    def on_train_start(self) -> None:
        """Unfreeze the encoder also in a run resumed within an epoch, where `on_train_epoch_start` is not called."""
        super().on_train_start()
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Unfreezes the encoder when its time has come."""
        unfreeze_epoch = self.hparams["unfreeze_epoch"]
        if unfreeze_epoch is not None and self.current_epoch >= unfreeze_epoch:
            self.encoder.freeze(0)

    def networks(self) -> list[nn.Module]:
        """The encoder and the decoder."""
        return [self.encoder, self.decoder]

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """The whole picture as the network sees it, the raw output.

        Args:
            images: `(B, 3, H, W)` in [0, 1], of any size; what lies in the hole is not looked at.
            masks: `(B, 1, H, W)`, 1 = hole.

        Returns:
            `(B, 3, H, W)` in [0, 1], float32.
        """
        return self._decode(*self._encode(images, masks), images)

    def fill_padded(self, padded: Tensor) -> Tensor:
        """Return the whole image for what `with_holes` returns, padded to sides that 32 divides; for an export."""
        return self._output(*self.encoder(self.as_input(padded)))

    def _encode(self, images: Tensor, masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        padded = pad_to_multiple(self.with_holes(images, masks))
        result: tuple[Tensor, list[Tensor]] = self.encoder(self.as_input(padded))
        return result

    def _decode(self, features: Tensor, skips: list[Tensor], images: Tensor) -> Tensor:
        return crop_to(self._output(features, skips), *images.shape[-2:])

    def _output(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        return torch.sigmoid(self.decoder(features, skips).float())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch over the whole raw output, with the features' inconsistency where that counts."""
        image, mask = batch["image"], batch["mask"]
        features, skips = self._encode(image, mask)
        parts = self.loss.parts(self._decode(features, skips, image), image)
        # As long as the encoder is frozen, the distance could change nothing.
        if self.hparams["consistency"] and features.requires_grad:
            parts["consistency"] = F.mse_loss(features.float(), self._features_of_whole(image))
            parts["loss"] = parts["loss"] + self.hparams["consistency"] * parts["consistency"]
        for name, part in parts.items():
            self.log(f"train/{name}", part, prog_bar=name == "loss")
        return parts["loss"]

    def _features_of_whole(self, images: Tensor) -> Tensor:
        """The encoder's last features of images without a hole, float32; they take no gradient."""
        # In evaluation mode, so that normalisation's statistics stay those of images with holes. Always after the pass
        # with gradient: autocast keeps the weights that it has rounded, and these must be part of the graph.
        self.encoder.eval()
        with torch.no_grad():
            features, _ = self._encode(images, torch.zeros_like(images[:, :1]))
        self.encoder.train()
        return features.float()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds one batch to the figures."""
        image, mask = batch["image"], batch["mask"]
        prediction = self(image, mask)
        values = image_metrics(prediction, image, mask)
        self.val_metrics.update(values)
        self.val_bins.update(values, mask)
        self.val_log_cosh.update(self.loss.log_cosh(prediction, image), count=len(image))
        if self.val_ssim_loss is not None:
            self.val_ssim_loss.update(self.loss.ssim_loss(prediction, image), count=len(image))

    def on_validation_epoch_end(self) -> None:
        """Log the loss, its parts, and PSNR and SSIM of the raw output and of the composite, also by hole ratio."""
        self._log_figures("val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds one batch to the figures."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Logs the same figures as validation does, under `test/`."""
        self._log_figures("test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the predictions of one batch.

        Returns:
            `index` `(B,)`, the images' numbers in the split; `prediction` `(B, 3, H, W)`, the raw output; and
            `composite` `(B, 3, H, W)`, the prediction in the hole and the image elsewhere. Both are float32 in [0, 1].
        """
        prediction = self(batch["image"], batch["mask"])
        filled = composite(prediction, batch["image"], batch["mask"])
        return {"index": batch["index"], "prediction": prediction, "composite": filled}

    def _log_figures(self, split: str) -> None:
        figures = self.val_metrics.compute()
        reconstruction = self.val_log_cosh.compute()
        alpha = self.loss.alpha
        figures["log_cosh"] = reconstruction
        own_ssim = self.val_ssim_loss
        figures["ssim_loss"] = 1.0 - figures["ssim"] if own_ssim is None else own_ssim.compute()
        figures["loss"] = alpha * reconstruction + (1.0 - alpha) * figures["ssim_loss"]
        figures |= self.val_bins.compute()
        shown = {"loss", "psnr", "ssim"}
        for name, figure in figures.items():
            # Of all processes already: averaging equal values does no harm, and Lightning warns without it.
            self.log(f"{split}/{name}", figure, prog_bar=name in shown, sync_dist=True)
        self.val_metrics.reset()
        self.val_bins.reset()
        self.val_log_cosh.reset()
        if own_ssim is not None:
            own_ssim.reset()
