"""The online probe: how well the encoder's features inpaint, measured during the pretext stage."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from wssl_pl.errors import WSSLError
from wssl_pl.metrics import HolePSNR, RankMe
from wssl_pl.networks import LightDecoder, crop_to, mean_colour, pad_to_multiple


class OnlineProbe(Callback):
    """Trains a small inpainting decoder on the frozen features at every validation, and logs how well it fills holes.

    The encoder's input is the masked image without damages, in evaluation mode, without a gradient. The
    decoder predicts the difference from the image's mean colour outside the hole. It always starts with the same
    weights and takes `steps` steps on the same training images with the same masks, in the same order. Logged are

    - `val/probe_psnr`: PSNR over the pixels of the hole, the mean over the validation images;
    - `val/probe_psnr_mean_fill`: the same for filling with the mean colour, which needs no features;
    - `val/rankme`: the effective rank of the validation images' features, pooled over each image.

    Nothing of it reaches the training: random generators, normalisation statistics, modes, gradients and the loaders
    are left as they were. Every process trains the same probe and measures its own part of the validation images.

    `PretextModule(probe_steps=...)` adds it to the trainer and asks the data module for masks.

    Args:
        steps: training steps of the decoder.
        images: training images, evenly spaced over the training split.
        batch_size: images per step.
        lr: learning rate of Adam at the first step; it falls to 0 linearly.
        channels: feature maps of the decoder.
        seed: of the decoder's initialisation.
    """

    def __init__(
        self,
        steps: int = 200,
        images: int = 256,
        batch_size: int = 16,
        lr: float = 3e-3,
        channels: int = 16,
        seed: int = 0,
    ) -> None:
        self.steps, self.images, self.batch_size = steps, images, batch_size
        self.lr, self.channels, self.seed = lr, channels, seed
        self._batches: list[dict[str, Any]] = []
        self._decoder: LightDecoder | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Check that the probe can run here.

        Raises:
            WSSLError: no masks, another data module, or a strategy that divides the encoder over processes.
        """
        if stage not in ("fit", "validate"):
            return
        if not hasattr(getattr(trainer, "datamodule", None), "fixed_batches"):
            reason, remedy = "the probe reads training images itself", "give datamodule=WSSLDataModule(...)"
            raise WSSLError("probe_steps", self.steps, reason, remedy)
        if not pl_module.needs_masks:
            raise WSSLError(
                "callbacks", "OnlineProbe", "the batches have no masks", "give PretextModule(probe_steps=...)"
            )
        if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            reason = f"the probe needs the whole encoder, {type(trainer.strategy).__name__} divides it"
            raise WSSLError("probe_steps", self.steps, reason, "give strategy=ddp")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train a new decoder; of a sanity check and of `fast_dev_run` one step only."""
        device = pl_module.device
        trial = trainer.sanity_checking or bool(getattr(trainer, "fast_dev_run", False))
        self._decoder = self._train(trainer, pl_module, 1 if trial else self.steps)
        # Not in the module: the state dict of a run is the same with and without the probe.
        self._psnr, self._mean_fill = HolePSNR().to(device), HolePSNR().to(device)
        self._rankme = RankMe(_encoder(pl_module).out_channels[-1])
        if device.type != "mps":
            self._rankme.to(device)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Measure one batch."""
        assert self._decoder is not None
        image, mask = batch["image"].float(), batch["mask"].float()
        features, skips = _encode(trainer, pl_module, image, mask)
        mean = mean_colour(image, mask).expand_as(image)
        with torch.no_grad():
            filled = (mean + crop_to(self._decoder(features, skips), *image.shape[-2:])).clamp(0.0, 1.0)
        self._psnr.update(filled, image, mask)
        self._mean_fill.update(mean, image, mask)
        self._rankme.update(features.mean(dim=(2, 3)))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics, which are sums over all processes."""
        metrics = {
            "val/probe_psnr": self._psnr.compute(),
            "val/probe_psnr_mean_fill": self._mean_fill.compute(),
            "val/rankme": self._rankme.compute().float(),
        }
        # The metrics are those of all processes already; without `sync_dist` Lightning warns of the opposite.
        pl_module.log_dict(metrics, sync_dist=True)
        self._decoder = None

    def _train(self, trainer: Trainer, pl_module: LightningModule, steps: int) -> LightDecoder:
        """Return a trained decoder, in evaluation mode."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not self._batches:
            batches = datamodule.fixed_batches("train", self.images, self.batch_size)
            # Of one image alone a normalisation has no statistics.
            self._batches = [batch for batch in batches if len(batch["image"]) > 1] or batches
        device = pl_module.device
        # Lightning validates in inference mode, whose tensors take no gradient.
        with torch.inference_mode(False), torch.enable_grad():
            decoder = self._new_decoder(_encoder(pl_module).out_channels).to(device)
            optimizer = torch.optim.Adam(decoder.parameters(), lr=self.lr)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
            for step in range(steps):
                raw = self._batches[step % len(self._batches)]
                batch = datamodule.on_after_batch_transfer(
                    {name: value.to(device) for name, value in raw.items()}, dataloader_idx=0
                )
                image, mask = batch["image"].float(), batch["mask"].float()
                features, skips = _encode(trainer, pl_module, image, mask)
                filled = mean_colour(image, mask) + crop_to(decoder(features, skips), *image.shape[-2:])
                hole = (mask > 0.5).float()
                squares = ((filled - image) * hole).square().sum() / (3.0 * hole.sum().clamp(min=1.0))
                optimizer.zero_grad()
                squares.backward()
                optimizer.step()
                schedule.step()
        return decoder.eval()

    def _new_decoder(self, encoder_channels: Sequence[int]) -> LightDecoder:
        """Return a decoder with the weights of the seed; the global random generators do not change."""
        # `torch.manual_seed` would set the generators of all devices; the weights are drawn on the CPU.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            return LightDecoder(encoder_channels, self.channels)


def _encoder(pl_module: LightningModule) -> Any:
    return pl_module.encoder


def _encode(trainer: Trainer, pl_module: Any, image: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the encoder's features of masked images, float32, without a gradient."""
    encoder = _encoder(pl_module)
    masked = pad_to_multiple(pl_module.with_holes(image, mask))
    masked = masked.to(next(encoder.parameters()).dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), _in_evaluation(encoder), trainer.precision_plugin.forward_context():
        # Not by calling it: a compiled encoder would be compiled again for another batch size.
        features, skips = encoder.forward(masked)
    return features.float(), [skip.float() for skip in skips]


@contextmanager
def _in_evaluation(network: nn.Module) -> Iterator[None]:
    """Set every part of a network to evaluation mode, and afterwards to the mode that it had."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
