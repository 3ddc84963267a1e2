"""The downstream stage: the pretext encoder, frozen as far as asked, and a decoder that fills holes."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from wssl_pl.errors import UsageError
from wssl_pl.losses import LOSSES, WSSLLoss, log_cosh
from wssl_pl.metrics import InpaintingMetrics
from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.checkpoint import check_state, encoder_state, read_checkpoint
from wssl_pl.networks import UNetDecoder, UNetEncoder, crop_to, pad_to_multiple

DEFAULT_WIDTH = 64


class InpaintModule(WSSLModule):
    """Fills the holes of masked images: RGB with the hole set to 0 in, the whole image out.

    Args:
        ckpt: the pretext checkpoint whose encoder is taken over, or `none` for a new encoder: the controls.
        freeze_layers: how many of the encoder's 16 layers are frozen, in Keras's count: 1 is the input, then
            (conv, conv, pool) five times; 0 trains everything, 16 freezes the whole encoder.
        loss: `wssl` is 0.84 log-cosh + 0.16 (1 - SSIM); `log_cosh` and `ssim` are its parts alone.
        alpha: share of log-cosh in `loss=wssl`; the paper's 0.84 if left out.
        width: feature maps of the first stage; the checkpoint's if left out, else 64.
        norm: normalisation after each convolution; the checkpoint's if left out, else none.
        lr: learning rate of Adam.
        ssim: the SSIM of the loss: `fast`, or `kornia` for the reference.
        compile: compile the networks with torch.compile.
    """

    stage = "downstream"
    needs_masks = True
    monitor = "val/ssim"

    def __init__(
        self,
        ckpt: str | None = None,
        freeze_layers: int = 16,
        loss: Literal["wssl", "log_cosh", "ssim"] = "wssl",
        alpha: float | None = None,
        width: int | None = None,
        norm: Literal["none", "batch", "group", "instance"] | None = None,
        lr: float = 1e-4,
        ssim: Literal["fast", "kornia"] = "fast",
        compile: bool = False,
    ) -> None:
        super().__init__()
        # The checkpoint that this module will be saved to holds the encoder itself.
        self.save_hyperparameters(ignore=["ckpt"])
        self.check_lr(lr)
        if alpha is not None and not (loss == "wssl" and 0.0 <= alpha <= 1.0):
            raise UsageError(f"model.alpha={alpha}: it takes loss=wssl and a number between 0 and 1")
        pretext = None if ckpt in (None, "none") else read_checkpoint(str(ckpt), stage="pretext")
        taken = pretext["hyper_parameters"] if pretext else {"width": DEFAULT_WIDTH, "norm": "none"}
        self.hparams["width"] = _agreed("width", width, taken, ckpt)
        self.hparams["norm"] = _agreed("norm", norm, taken, ckpt)
        if self.hparams["width"] < 1:
            raise UsageError(f"model.width={width} must be at least 1")

        self.encoder = UNetEncoder(self.hparams["width"], self.hparams["norm"])
        if pretext:
            state = encoder_state(pretext, f"ckpt={ckpt}")
            check_state(self.encoder, state, f"ckpt={ckpt}")
            self.encoder.load_state_dict(state)
        try:
            self.encoder.freeze(freeze_layers)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.decoder = UNetDecoder(self.hparams["width"], self.hparams["norm"])
        self.loss = WSSLLoss(LOSSES[loss] if alpha is None else alpha, ssim)
        self.val_metrics = InpaintingMetrics()
        self.val_log_cosh = MeanMetric()
        self.finish_networks()

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
        holed = torch.where(masks > 0.5, 0.0, images)
        padded = pad_to_multiple(holed).contiguous(memory_format=torch.channels_last)
        logits = self.decoder(*self.encoder(padded))
        return crop_to(torch.sigmoid(logits.float()), *images.shape[-2:])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch over the whole raw output."""
        prediction = self(batch["image"], batch["mask"])
        parts = self.loss.parts(prediction, batch["image"])
        for name, part in parts.items():
            self.log(f"train/{name}", part, prog_bar=name == "loss")
        return parts["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds one batch to the figures."""
        image, mask = batch["image"], batch["mask"]
        prediction = self(image, mask)
        self.val_metrics.update(prediction, image, mask)
        self.val_log_cosh.update(log_cosh(prediction, image), weight=len(image))

    def on_validation_epoch_end(self) -> None:
        """Logs the loss, both its parts, and PSNR and SSIM of the raw output and of the composite."""
        self._log_figures("val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Adds one batch to the figures."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Logs the same figures as validation does, under `test/`."""
        self._log_figures("test")

    def _log_figures(self, split: str) -> None:
        figures = self.val_metrics.compute()
        reconstruction = self.val_log_cosh.compute()
        alpha = self.loss.alpha
        figures["log_cosh"] = reconstruction
        figures["ssim_loss"] = 1.0 - figures["ssim"]
        figures["loss"] = alpha * reconstruction + (1.0 - alpha) * figures["ssim_loss"]
        shown = {"loss", "psnr", "ssim"}
        for name, figure in figures.items():
            self.log(f"{split}/{name}", figure, prog_bar=name in shown)
        self.val_metrics.reset()
        self.val_log_cosh.reset()


def _agreed(name: str, typed: int | str | None, taken: dict, ckpt: str | None) -> int | str:
    """The setting of the checkpoint's encoder, unless what was typed contradicts it."""
    if typed is None or typed == taken[name]:
        return taken[name]
    if ckpt in (None, "none"):
        return typed
    raise UsageError(f"model.{name}={typed}, but the encoder of ckpt={ckpt} has {name} {taken[name]}: leave it out")
