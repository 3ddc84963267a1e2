"""What all modules that fill holes share: losses in the features of a network, metrics, and images."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn

from wssl_pl.callbacks import image_grid
from wssl_pl.errors import WSSLError
from wssl_pl.losses import perceptual_loss, style_loss
from wssl_pl.metrics import BinnedMetrics, InpaintingMetrics, composite, image_metrics
from wssl_pl.metrics.gaussian import RADIUS
from wssl_pl.modules.adversarial import AdversarialModule
from wssl_pl.modules.features import FORMS, load_features
from wssl_pl.modules.optimizer import check_factor


class FillingModule(AdversarialModule):
    """Base of the modules that fill holes: a call with images and masks returns the prediction, the whole image.

    A subclass holds its networks as submodules, and has `forward` and `training_step`.
    """

    needs_masks = True
    monitor = "val/ssim"
    smallest_image = RADIUS + 1  # below it the window of SSIM does not fit
    perceptual: float = 0.0  # factors of the losses in features
    style: float = 0.0

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        # In a list, so that it is no submodule: it is not trained, saved, exported or exchanged between processes.
        self._features: list[nn.Module] = []
        self.val_metrics = InpaintingMetrics()
        self.val_bins = BinnedMetrics(self.val_metrics.names)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the prediction, the raw output.

        Args:
            images: `(B, 3, H, W)` in [0, 1], of any size; pixels in the hole have no influence.
            masks: `(B, 1, H, W)`, 1 = hole.

        Returns:
            `(B, 3, H, W)` in [0, 1], float32.
        """
        raise NotImplementedError

    def set_features(self, perceptual: float, style: float, features: str | None) -> None:
        """Set the factors of the losses in features; the features are those of the hyperparameter.

        Raises:
            WSSLError: a factor that cannot be used, or has no effect.
        """
        for name, value in (("perceptual", perceptual), ("style", style)):
            check_factor(name, value)
            if value and features is None:
                raise WSSLError(name, value, "needs features", FORMS)
        self.perceptual, self.style = perceptual, style

    def feature_network(self, device: torch.device) -> nn.Module:
        """Return the network of the `features` on a device; it is read when it is first asked for.

        Raises:
            WSSLError: see `load_features`.
        """
        if not self._features:
            self._features.append(load_features(self.hparams["features"]))
        return self._features[0].to(device)

    def check_trainer(self, trainer: Trainer) -> None:
        """Raise `WSSLError` also for features that cannot be read."""
        super().check_trainer(trainer)
        if self.perceptual or self.style:
            self.feature_network(self.device)

    def losses_in_features(self, filled: Tensor, image: Tensor, *others: Tensor) -> dict[str, Tensor]:
        """Return the distances of images, each summed with those of others, from the truth by name.

        Those whose factor is 0 are omitted.
        """
        network = self.feature_network(image.device)
        with torch.no_grad():
            targets = network(image)
        every = [network(each) for each in (filled, *others)]
        losses = {"perceptual": perceptual_loss, "style": style_loss}
        return {
            name: torch.stack([loss(features, targets) for features in every]).sum()
            for name, loss in losses.items()
            if getattr(self, name)
        }

    def weighted(self, parts: dict[str, Tensor], factors: dict[str, float]) -> dict[str, Tensor]:
        """Return the parts of a loss with their weighted sum as `loss`, the first of them."""
        total = torch.stack([factors[name] * part for name, part in parts.items() if name in factors]).sum()
        return {"loss": total} | parts

    def log_parts(self, parts: dict[str, Tensor]) -> None:
        """Log the loss of a training step and its parts under `train/`."""
        for name, part in parts.items():
            self.log(f"train/{name}", part, prog_bar=name == "loss")

    def predicted(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the images of a batch that the network is given, without holes, and the prediction."""
        return batch["image"], self(batch["image"], batch["mask"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the metrics."""
        self.add_metrics(self.predicted(batch)[1], batch)

    def add_metrics(self, prediction: Tensor, batch: dict[str, Tensor]) -> None:
        """Add the predictions of one batch to the metrics."""
        values = image_metrics(prediction, batch["image"], batch["mask"])
        self.val_metrics.update(values)
        self.val_bins.update(values, batch["mask"])

    def computed_metrics(self) -> dict[str, Tensor]:
        """Return the metrics of the batches since the last call by name: PSNR, SSIM, and both by hole ratio."""
        metrics: dict[str, Tensor] = self.val_metrics.compute() | self.val_bins.compute()
        self.val_metrics.reset()
        self.val_bins.reset()
        return metrics

    def log_metrics(self, split: str) -> None:
        """Log the metrics of the batches since the last call under `<split>/`, and reset them."""
        for name, value in self.computed_metrics().items():
            # Of all processes already: averaging equal values does no harm, and Lightning warns without it.
            self.log(f"{split}/{name}", value, prog_bar=name in ("loss", "psnr", "ssim"), sync_dist=True)

    def validation_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return masked image, prediction, composite and truth side by side, by tag."""
        given, prediction = self.predicted(batch)
        return {"val/images": image_grid(batch["image"], batch["mask"], prediction, given)}

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the predictions of one batch.

        Returns:
            `index` `(B,)`, the images' numbers in the split; `prediction` `(B, 3, H, W)`, the raw output; and
            `composite` `(B, 3, H, W)`, the prediction in the hole and what was given elsewhere. Both are float32 in
            [0, 1].
        """
        given, prediction = self.predicted(batch)
        filled = composite(prediction, given, batch["mask"])
        return {"index": batch["index"], "prediction": prediction, "composite": filled}
