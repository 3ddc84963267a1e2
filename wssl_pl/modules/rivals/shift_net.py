"""Shift-Net (Yan et al. 2018): a U-Net that copies features of the known part into the hole."""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from wssl_pl.errors import WSSLError
from wssl_pl.losses import LOG
from wssl_pl.metrics import composite
from wssl_pl.modules.adversarial import Adversary
from wssl_pl.modules.features import absolute_features
from wssl_pl.modules.filling import FillingModule
from wssl_pl.modules.optimizer import check_factor, check_positive
from wssl_pl.networks import Fill, InstanceNorm, crop_to, pad_to_multiple, without_autocast

SHIFT_LEVEL = 3
"""The layer of the encoder whose features are copied; its side is that of the image over 2**3."""
HOLE_FRACTION = 5 / 16
"""Fraction of masked pixels above which a position of those features belongs to the hole."""
SLOPE = 0.2
"""Of the leaky ReLUs."""
EXACT_LEVELS = 5
"""The input is padded to a multiple of 2**5 pixels; before the layers after the fifth, the features are padded."""


def draw_weights(network: nn.Module) -> None:
    """Draw the weights of every convolution from N(0, 0.02), with zero biases, in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def coarse_hole(masks: Tensor) -> Tensor:
    """Return which positions of the shifted features belong to the hole.

    Three means over 4x4 pixels with a stride of 2; a position belongs to the hole where the last one is above 5/16.
    What is beyond the border is not counted.

    Args:
        masks: `(B, 1, H, W)`, above 0.5 in the hole; `8 | H, W`.

    Returns:
        `(B, 1, H / 8, W / 8)` bool.

    Example:
        >>> coarse_hole(torch.ones(1, 1, 16, 32)).shape
        torch.Size([1, 1, 2, 4])
    """
    fractions = (masks > 0.5).float()
    for _ in range(SHIFT_LEVEL):
        fractions = F.avg_pool2d(fractions, 4, stride=2, padding=1, count_include_pad=False)
    return fractions > HOLE_FRACTION


def shift(decoded: Tensor, encoded: Tensor, hole: Tensor) -> Tensor:
    """Return, in the hole, the encoder's known features that are most similar to the decoder's; 0 elsewhere.

    For each position of the hole this is the known position whose feature in `encoded` has the largest cosine with the
    one in `decoded`. Nothing is copied into an image that has no hole, or nothing else. The gradient reaches `encoded`
    through the copies. Cosines are computed in float32 also under autocast.

    Args:
        decoded: features of the decoder, `(B, C, h, w)`.
        encoded: features of the encoder, of the same shape.
        hole: `(B, 1, h, w)` bool.

    Returns:
        `(B, C, h, w)` in the dtype of `encoded`.

    Example:
        >>> encoded = torch.tensor([[[[1.0, 0.0, 5.0]], [[0.0, 2.0, 5.0]]]])
        >>> shift(torch.tensor([[[[0.0, 0.0, 0.1]], [[0.0, 0.0, 0.9]]]]), encoded, torch.tensor([[[[0, 0, 1]]]]).bool())
        tensor([[[[0., 0., 0.]],
        <BLANKLINE>
                 [[0., 0., 2.]]]])
    """
    batch, channels, height, width = encoded.shape
    hole = hole.flatten(1)
    with torch.no_grad(), without_autocast(encoded.device):
        dtype = torch.promote_types(encoded.dtype, torch.float32)
        keys = F.normalize(encoded.flatten(2).to(dtype), dim=1)
        # The length of the decoder's feature changes nothing in the order of its cosines.
        cosines = decoded.flatten(2).to(dtype).mT @ keys
        nearest = cosines.masked_fill(hole[:, None], -torch.inf).argmax(dim=2)
        rows_before = torch.arange(batch, device=encoded.device)[:, None] * (height * width)
    # As rows of one table, whose gradient is many times cheaper to add up than that of `gather`.
    rows = encoded.permute(0, 2, 3, 1).reshape(-1, channels)
    copies = F.embedding(nearest + rows_before, rows)
    copied = hole & ~hole.all(dim=1, keepdim=True)
    return torch.where(copied[..., None], copies, 0.0).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class ShiftEncoder(nn.Module):
    """Convolutions of 4x4 with a stride of 2: the lower half of the U-Net.

    Args:
        width: feature maps of the first layer; they double up to 8 times as many.
        downs: number of layers; the last one has no normalisation.

    Example:
        >>> [tuple(skip.shape[1:]) for skip in ShiftEncoder(width=4, downs=5)(torch.rand(2, 4, 32, 64))]
        [(4, 16, 32), (8, 8, 16), (16, 4, 8), (32, 2, 4), (32, 1, 2)]
    """

    def __init__(self, width: int = 64, downs: int = 7) -> None:
        super().__init__()
        self.widths = [width * min(2**level, 8) for level in range(downs)]
        self.layers = nn.ModuleList(
            nn.Conv2d(below, here, kernel_size=4, stride=2, padding=1)
            for below, here in itertools.pairwise([4, *self.widths])
        )
        normed = [InstanceNorm(here) for here in self.widths[1:-1]]
        self.norms = nn.ModuleList([nn.Identity(), *normed, nn.Identity()])
        draw_weights(self)

    def forward(self, inputs: Tensor, levels: int | None = None) -> list[Tensor]:
        """Return the features of every layer, after its normalisation; of the first `levels` layers if given.

        Args:
            inputs: `(B, 4, H, W)`: the image in [-1, 1] with the hole filled, and 1 where it is known; `32 | H, W`.
            levels: number of layers.
        """
        features = inputs
        outputs: list[Tensor] = []
        for layer, norm in zip(self.layers[:levels], self.norms[:levels], strict=True):
            activated = F.leaky_relu(features, SLOPE) if outputs else features
            if len(outputs) == EXACT_LEVELS:
                height, width = features.shape[-2:]
                multiple = 2 ** (len(self.layers) - EXACT_LEVELS)
                activated = F.pad(activated, (0, -width % multiple, 0, -height % multiple))
            features = norm(layer(activated))
            outputs.append(features)
        return outputs


class ShiftDecoder(nn.Module):
    """Transposed convolutions that mirror the encoder, with the shift before the third-last one.

    Args:
        widths: feature maps of the encoder's layers.

    Example:
        >>> features = ShiftEncoder(width=4, downs=5)(torch.rand(2, 4, 32, 64))
        >>> image, decoded = ShiftDecoder([4, 8, 16, 32, 32])(features, coarse_hole(torch.zeros(2, 1, 32, 64)))
        >>> image.shape, decoded.shape
        (torch.Size([2, 3, 32, 64]), torch.Size([2, 16, 4, 8]))
    """

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        sources = {len(widths): 1, SHIFT_LEVEL: 3}  # what is concatenated before a layer
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(
                sources.get(level, 2) * widths[level - 1],
                widths[level - 2] if level > 1 else 3,
                kernel_size=4,
                stride=2,
                padding=1,
            )
            for level in range(len(widths), 0, -1)
        )
        self.norms = nn.ModuleList([*(InstanceNorm(here) for here in widths[-2::-1]), nn.Identity()])
        draw_weights(self)

    def forward(self, skips: list[Tensor], hole: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image `(B, 3, H, W)` in [-1, 1], float32, and the features from which the shift starts.

        Args:
            skips: the encoder's features.
            hole: from `coarse_hole`.
        """
        features, decoded = skips[-1], skips[-1]
        for level, layer, norm in zip(range(len(skips), 0, -1), self.layers, self.norms, strict=True):
            skip = skips[level - 1]
            if level == EXACT_LEVELS < len(skips):
                features = features[..., : skip.shape[-2], : skip.shape[-1]]
            sources = [features.relu(), skip.relu()] if level < len(skips) else [skip.relu()]
            if level == SHIFT_LEVEL:
                decoded = features
                sources.append(shift(sources[0], sources[1], hole))
            features = norm(layer(torch.cat(sources, dim=1)))
        return features.float().tanh(), decoded


def guidance_loss(decoded: Tensor, target: Tensor, hole: Tensor) -> Tensor:
    """Return the mean squared error over the positions of the hole; 0 where there are none.

    Args:
        decoded: features of the decoder before the shift, `(B, C, h, w)`.
        target: the encoder's features of the complete image, of the same shape.
        hole: `(B, 1, h, w)` bool.
    """
    squares = (decoded.float() - target.float()).square().mean(dim=1, keepdim=True)
    return torch.where(hole, squares, 0.0).sum() / hole.sum().clamp(min=1)


class PatchGAN(nn.Module):
    """A discriminator of patches of 70 x 70 pixels (Isola et al. 2017), with spectral normalisation.

    Args:
        width: feature maps of the first layer.

    Example:
        >>> PatchGAN(width=4)(torch.rand(2, 3, 64, 48), torch.zeros(2, 1, 64, 48)).shape
        torch.Size([2, 1, 6, 4])
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 4, 8)]
        self.layers = nn.ModuleList(
            nn.Conv2d(below, here, kernel_size=4, stride=2 if number < 3 else 1, padding=1)
            for number, (below, here) in enumerate(itertools.pairwise([3, *widths, 1]))
        )
        self.norms = nn.ModuleList([nn.Identity(), *(InstanceNorm(here) for here in widths[1:]), nn.Identity()])
        draw_weights(self)
        for layer in self.layers:
            spectral_norm(layer)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return a score for each patch, `(B, 1, H / 8 - 2, W / 8 - 2)`; in training, this changes the buffers.

        Args:
            images: `(B, 3, H, W)` in [0, 1].
            masks: not used.
        """
        features = 2.0 * images.float() - 1.0
        layer: Any
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            with without_autocast(features.device):
                weight = layer.weight  # normalised in float32
            activated = F.leaky_relu(features, SLOPE) if number else features
            features = norm(F.conv2d(activated, weight, layer.bias, layer.stride, layer.padding))
        return features


class ShiftNetModule(FillingModule):
    """Shift-Net (Yan et al. 2018), trained as in its paper.

    The input is the image with the hole filled, and a channel that is 1 where it is known; the output is the whole
    image. The losses are computed in [-1, 1], and of the raw output; only `perceptual` and `style` compare the
    composite. What the paper does not say: the features that are copied are those after the ReLU, the guidance compares
    those before it, the normalisation is affine, and the discriminator is given the image alone. For 224 and 128 px the
    U-Net has 7 layers, 256 px allow the paper's 8. The features that are copied have 1/8 of the image's side at any
    depth. The image is padded to a multiple of 32 pixels by reflection, and the features of the fifth layer with
    zeros, as far as the layers after it halve them: 7 to 8 at 224 px.

    Args:
        width: feature maps of the first layer.
        downs: layers of the encoder, at least 4; more than `log2` of the image's side see padding alone.
        fill: the network's input in the hole: a value in [0, 1]; `mean`, the image's mean colour outside the hole; or
            `smooth`, interpolated from the hole's border. The paper's public versions have `mean` and 0.5, which is 0
            in [-1, 1].
        l1: factor of the mean absolute error of the whole output.
        guidance: factor of the mean squared error, in the hole, of the decoder's features from which the shift starts,
            to the encoder's of the complete image.
        adversarial: factor of the loss against a discriminator that is trained beside the model (the PatchGAN of Isola
            et al. 2017, with spectral normalisation and the logarithmic losses).
        discriminator_lr: learning rate of the discriminator, whose schedule is that of `lr`, and whose betas are
            `betas`.
        discriminator_width: feature maps of the discriminator's first layer; default: `width`.
        perceptual: factor of the distance of the composite from the truth in the `features`. The paper has none; its
            public version in PyTorch has a content loss with a factor of 1.
        style: factor of the distance of their Gram matrices; in that version 10.
        features: what the two compare: `vgg16:FILE` or `alexnet:FILE`, torchvision's weights (without `:FILE` searched
            in `WSSL_WEIGHTS` and torch hub's cache), or `pretext:CKPT`, the encoder of a pretext checkpoint.
        lr: learning rate.
        betas: of the optimiser: decay of the averages of gradients and of their squares.
        training: schedule, optimiser, `ema` and `compile`: see `WSSLModule`.
    """

    stage = "shift_net"
    max_epochs = 30
    batch_size = 1
    default_discriminator_lr = 2e-4

    def __init__(
        self,
        width: int = 64,
        downs: int = 7,
        fill: Fill = "mean",
        l1: float = 100.0,
        guidance: float = 1.0,
        adversarial: float = 0.2,
        discriminator_lr: float = 2e-4,
        discriminator_width: int | None = None,
        perceptual: float = 0.0,
        style: float = 0.0,
        features: str | None = None,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **training: Any,
    ) -> None:
        super().__init__(lr=lr, betas=betas, **training)
        self.hparams["features"] = absolute_features(features, None)
        check_positive("width", width)
        if downs <= SHIFT_LEVEL:
            raise WSSLError("downs", downs, "must be at least 4: the shift copies features of the third layer")
        for name, value in (("l1", l1), ("guidance", guidance)):
            check_factor(name, value)
        self.set_inputs(fill, mask_channel=True)
        self.set_features(perceptual, style, features)
        if features is not None and not (perceptual or style):
            raise WSSLError("features", features, "nothing uses them", "give style=10, or omit them")
        self.set_adversary(adversarial, discriminator_lr, discriminator_width)
        self.factors = {"l1": l1, "guidance": guidance, "adversarial": adversarial}
        self.factors |= {"perceptual": perceptual, "style": style}
        if not (l1 or adversarial or perceptual or style):
            raise WSSLError("l1", l1, "no loss is left", "give l1=100, or omit it")
        if adversarial:
            self.smallest_image = 24  # below it the discriminator has no score
        self.encoding = ShiftEncoder(width, downs)
        self.decoding = ShiftDecoder(self.encoding.widths)
        self.to(memory_format=torch.channels_last)

    def networks(self) -> list[nn.Module]:
        """Return both halves of the U-Net."""
        return [self.encoding, self.decoding]

    def make_discriminator(self) -> nn.Module:
        """Return a new discriminator."""
        return PatchGAN(self.hparams["discriminator_width"] or self.hparams["width"])

    def make_adversary(self, network: nn.Module, device: torch.device, scales: bool = False) -> Adversary:
        """Return what trains a discriminator, with the logarithmic losses and the betas of the generator."""
        return Adversary(network, device, scales, LOG, tuple(self.hparams["betas"]))

    def inputs(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return what the encoder takes: the filled images in [-1, 1] and 1 where they are known, `(B, 4, H, W)`.

        Both are padded to sides that 32 divides.
        """
        filled, hole = self.with_holes(images, masks).split([3, 1], dim=1)
        return self.as_input(pad_to_multiple(torch.cat([2.0 * filled - 1.0, 1.0 - hole], dim=1)))

    def reconstruct(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the whole images in [-1, 1], float32, the decoder's features before the shift, and the hole there."""
        inputs = self.inputs(images, masks)
        hole = coarse_hole(1.0 - inputs[:, 3:])
        image, decoded = self.decoding(self.encoding(inputs), hole)
        return crop_to(image, *images.shape[-2:]), decoded, hole

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the prediction, the raw output; see `FillingModule`."""
        return (self.reconstruct(images, masks)[0] + 1.0) / 2.0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        image, mask = batch["image"], batch["mask"]
        output, decoded, hole = self.reconstruct(image, mask)
        parts: dict[str, Tensor] = {}
        prediction = (output + 1.0) / 2.0
        if self.factors["l1"]:
            parts["l1"] = F.l1_loss(output, 2.0 * image - 1.0)
        if self.factors["guidance"]:
            # After the pass with gradient: autocast keeps the weights that it has rounded, as part of its graph.
            with torch.no_grad():
                target = self.encoding(self.inputs(image, torch.zeros_like(mask)), SHIFT_LEVEL)[-1]
            parts["guidance"] = guidance_loss(decoded, target, hole)
        if self.perceptual or self.style:
            parts |= self.losses_in_features(composite(prediction, image, mask), image)
        if self.adversarial:
            parts |= self.against(prediction, image, mask)
        parts = self.weighted(parts, self.factors)
        self.log_parts(parts)
        return parts["loss"]
