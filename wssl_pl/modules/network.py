"""How the networks of a module compute, without what trains them: imported without Lightning."""

from typing import Any

import torch
from torch import Tensor, nn

from wssl_pl.errors import WSSLError
from wssl_pl.modules.encoder import DEFAULTS, OF_MODEL, load_encoder, make_decoder
from wssl_pl.networks import Encoder, Fill, UNetDecoder, crop_to, fill_holes, make_contexts, pad_to_multiple

ORACLE = "such a model is an oracle for studies: only `wssl test`, and `wssl evaluate` on damaged pairs, measure it"
OUTPUT_EDGE = 0.01
"""How far from 0 and 1 a value is kept to which a change is added, as the logit of 0 and 1 is infinite."""
OF_NETWORK = frozenset({*DEFAULTS, *OF_MODEL})
"""Hyperparameters of `InpaintModule` that make its networks."""
OF_TRAINING = frozenset(
    """
    reuse freeze_layers loss alpha init unfreeze_epoch encoder_lr perceptual style features adversarial
    discriminator_lr discriminator_width restore undamaged strength_channels task_loss tasks weights levels
    consistency lr composite_loss lr_schedule warmup_steps optimizer weight_decay betas eps ema log_cosh_a ssim
    ssim_window ssim_sigma compile temperatures
    """.split()
)
"""Those without effect on the prediction of a finished model, unless it has `strength_channels`."""


class TakesHoles:
    """What a module gives its networks for an image with holes."""

    fill: Fill  # what the network gets in a hole
    mask_channel: bool  # whether the network gets the mask as a fourth channel

    def networks(self) -> list[nn.Module]:
        """Return the networks that `compile` compiles, the encoder first."""
        raise NotImplementedError

    def set_inputs(self, fill: Fill, mask_channel: bool) -> None:
        """Set what the network gets in a hole, and whether it gets the mask.

        Raises:
            WSSLError: `fill` is neither a value in [0, 1] nor `mean` or `smooth`.
        """
        if fill not in ("mean", "smooth") and not 0.0 <= float(fill) <= 1.0:
            raise WSSLError("fill", fill, "must be a value between 0 and 1, mean or smooth")
        self.fill, self.mask_channel = fill, mask_channel

    def with_holes(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the network's input for images `(B, 3, H, W)` in [0, 1].

        Args:
            images: in [0, 1].
            masks: `(B, 1, H, W)`, above 0.5 where the image is replaced by `fill`.

        Returns:
            `(B, 3, H, W)`, or with `mask_channel` `(B, 4, H, W)`, the last channel being 1 where it is masked.
        """
        masked = fill_holes(images, masks, self.fill)
        return torch.cat([masked, (masks > 0.5).to(masked.dtype)], dim=1) if self.mask_channel else masked

    def as_input(self, images: Tensor) -> Tensor:
        """Return images as the networks take them: in channels_last, and in the dtype of their weights."""
        weights = next(self.networks()[0].parameters())
        return images.to(weights.dtype).contiguous(memory_format=torch.channels_last)


class FillsHoles(TakesHoles):
    """The networks of the downstream stage: an encoder, a decoder, and context blocks between them."""

    encoder: Encoder
    decoder: UNetDecoder
    contexts: Any
    adds_input: bool  # whether the decoder's output is the change of the network's input

    def set_output(self, output: str) -> None:
        """Set what the decoder's output is: the `image`, or the `change` of the network's input, 0 at first.

        Raises:
            WSSLError: it is neither.
        """
        if output not in ("image", "change"):
            raise WSSLError("output", output, "is neither image nor change")
        self.adds_input = output == "change"
        if self.adds_input:
            for parameter in self.decoder.project.parameters():
                nn.init.zeros_(parameter)

    def networks(self) -> list[nn.Module]:
        """Return the encoder, the decoder and the context blocks."""
        return [self.encoder, self.decoder, *self.contexts]

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the prediction; see `FillingModule`."""
        return self._decode(*self._encode(images, masks), images)

    def _encode(self, images: Tensor, masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self._encode_input(pad_to_multiple(self.with_holes(images, masks)))

    def _encode_input(self, padded: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the encoder's last features, and its skips behind the input itself."""
        features, skips = self.encoder(self.as_input(padded))
        return features, [padded, *skips]

    def _decode(self, features: Tensor, skips: list[Tensor], images: Tensor) -> Tensor:
        return crop_to(self._output(features, skips), *images.shape[-2:])

    def _output(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        padded, *levels = [*skips, features]
        for number, context in enumerate(self.contexts, start=1):
            levels[-number] = context(levels[-number])
        logits = self.decoder(levels[-1], levels[:-1]).float()
        if self.adds_input:
            values = padded[:, :3].float().clamp(OUTPUT_EDGE, 1.0 - OUTPUT_EDGE)
            logits = logits + torch.log(values / (1.0 - values))
        return torch.sigmoid(logits)


class InpaintNetwork(FillsHoles, nn.Module):
    """The networks of an `InpaintModule`, with the same keys, which predict the same.

    Args:
        context: as of `InpaintModule`.
        context_levels: likewise.
        output: likewise.
        settings: likewise, those of `DEFAULTS`.
    """

    def __init__(self, context: str = "none", context_levels: int = 1, output: str = "image", **settings: Any) -> None:
        super().__init__()
        self.encoder, agreed, _ = load_encoder(None, None, dict.fromkeys(DEFAULTS) | settings, "pytorch")
        self.set_inputs(agreed["fill"], agreed["mask_channel"])
        channels = self.encoder.out_channels
        self.decoder = make_decoder(channels, agreed["norm"], agreed["block"], agreed["encoder"])
        self.contexts = make_contexts(context, channels, context_levels)
        self.set_output(output)
        self.to(memory_format=torch.channels_last)
