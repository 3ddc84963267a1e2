"""PConv (Liu et al. 2018, "Image inpainting for irregular holes using partial convolutions"): networks and training."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from wssl_pl.errors import WSSLError
from wssl_pl.metrics import composite
from wssl_pl.modules.features import absolute_features
from wssl_pl.modules.filling import FillingModule
from wssl_pl.modules.optimizer import OptimizerSettings, check_factor
from wssl_pl.networks import fill_holes, he_initialise, mean_colour
from wssl_pl.networks.inputs import GREY

KERNELS = (7, 5, 5)  # sides of the encoder's first convolutions; all others have 3
FACTORS = (1, 2, 4)  # feature maps of the encoder's first convolutions, over the width; all others have 8
SLOPE = 0.2  # of the decoder's leaky ReLUs

Part = tuple[Tensor, Tensor]
"""Features `(B, C, H, W)`, and `(B, 1, H, W)` float32, 1 where they are known."""


class PartialConv(nn.Conv2d):
    """Partial convolution: `W (X * M) * sum(1) / sum(M) + b` where a window holds a known value, 0 elsewhere.

    The padding is not known, so that `sum(M)` is smaller at the border.

    Args:
        in_channels: feature maps of all parts of the input.
        out_channels: feature maps of the output.
        kernel: side of the kernel in pixels, odd.
        stride: of the windows.

    Example:
        >>> conv = PartialConv(1, 1, kernel=3)
        >>> _ = nn.init.ones_(conv.weight), nn.init.zeros_(conv.bias)
        >>> features, known = conv((torch.ones(1, 1, 3, 4), torch.tensor([[[[1.0, 0, 0, 0]] * 3]])))
        >>> features[0, 0, 1].tolist(), known[0, 0, 1].tolist()
        ([9.0, 9.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2)

    def forward(self, *parts: Part) -> Part:  # type: ignore[override]  # a convolution of features and their masks
        """Return the features `(B, out, ceil(H / stride), ceil(W / stride))` and where they are known.

        Args:
            parts: what is concatenated, each with the mask that all of its channels have.
        """
        fraction: Tensor | float = 0.0
        padding = self.kernel_size[0] // 2
        for features, known in parts:  # sum(M) / sum(1): a mean over each window, of one channel for all of a part
            mean = F.avg_pool2d(known, self.kernel_size, self.stride, padding)
            fraction = fraction + mean * (features.shape[1] / self.in_channels)
        assert isinstance(fraction, Tensor)
        known = (fraction > 0).to(fraction.dtype)
        inputs = torch.cat([features * mask.to(features.dtype) for features, mask in parts], dim=1)
        output = F.conv2d(inputs, self.weight, None, self.stride, padding)
        # 1 is added where the fraction is 0, and the product is 0 there.
        scale = (known / (fraction + (1.0 - known))).to(output.dtype)
        assert self.bias is not None
        bias = self.bias.reshape(-1, 1, 1).to(output.dtype)
        return output * scale + bias * known.to(output.dtype), known


class Norm(nn.BatchNorm2d):
    """Batch normalisation that also trains with a single value per channel, by the running statistics.

    So small are the last features of one image of 128 px.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return features `(B, C, H, W)` normalised."""
        if self.training and features.numel() == self.num_features:
            statistics = self.running_mean, self.running_var
            return F.batch_norm(features, *statistics, self.weight, self.bias, training=False, eps=self.eps)
        return super().forward(features)


class PartialUnit(nn.Module):
    """Partial convolution, batch normalisation and an activation: parts of an input to features and their mask.

    Args:
        in_channels: feature maps of all parts of the input.
        out_channels: feature maps of the output.
        kernel: side of the kernel in pixels, odd.
        stride: of the windows.
        norm: whether there is a normalisation.
        slope: of a leaky ReLU below 0; 0 for a ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, norm: bool, slope: float) -> None:
        super().__init__()
        self.conv = PartialConv(in_channels, out_channels, kernel, stride)
        self.norm = Norm(out_channels) if norm else nn.Identity()
        self.slope = slope

    def forward(self, *parts: Part) -> Part:
        """Return the features and where they are known, as the convolution does."""
        features, known = self.conv(*parts)
        features = self.norm(features)
        return F.leaky_relu(features, self.slope) if self.slope else features.relu(), known


class PConvUNet(nn.Module):
    """The U-Net of partial convolutions, He-normal initialised, the last one a tenth of that and around mid-grey.

    At every level the decoder doubles features and mask by nearest neighbours, and concatenates those of the encoder.
    Sides need not divide: a convolution rounds half a side up, and what is doubled is cut to the encoder's side.

    Args:
        width: feature maps of the first convolution.
        downs: convolutions of stride 2.

    Example:
        >>> output, known = PConvUNet(width=4, downs=5)(torch.rand(2, 3, 40, 33), torch.ones(2, 1, 40, 33))
        >>> output.shape, known.shape
        (torch.Size([2, 3, 40, 33]), torch.Size([2, 1, 40, 33]))
    """

    def __init__(self, width: int = 64, downs: int = 7) -> None:
        super().__init__()
        for name, value in (("width", width), ("downs", downs)):
            if value < 1:
                raise WSSLError(name, value, "must be at least 1")
        channels = [3, *(width * (*FACTORS, *[8] * downs)[level] for level in range(downs))]
        kernels = (*KERNELS, *[3] * downs)
        self.encoder = nn.ModuleList(
            PartialUnit(channels[level], channels[level + 1], kernels[level], 2, norm=level > 0, slope=0.0)
            for level in range(downs)
        )
        self.decoder = nn.ModuleList(
            PartialUnit(channels[level + 1] + channels[level], channels[level], 3, 1, norm=True, slope=SLOPE)
            for level in reversed(range(1, downs))
        )
        self.last = PartialConv(channels[1] + 3, 3, kernel=3)
        he_initialise(self)
        with torch.no_grad():  # else the first output has a deviation of 1, which takes hundreds of steps to unlearn
            self.last.weight.mul_(0.1)
            assert self.last.bias is not None
            nn.init.constant_(self.last.bias, GREY)

    def forward(self, images: Tensor, known: Tensor) -> Part:
        """Return the raw output `(B, 3, H, W)`, and where it is known.

        Args:
            images: `(B, 3, H, W)` in [0, 1]; finite also where they are not known.
            known: `(B, 1, H, W)`, 1 where a pixel is known, else 0.
        """
        parts = [(images, known.float())]
        for unit in self.encoder:
            parts.append(unit(parts[-1]))
        below = parts.pop()
        for unit in (*self.decoder, self.last):
            skip = parts.pop()
            below = unit(tuple(F.interpolate(each, size=skip[0].shape[-2:], mode="nearest") for each in below), skip)
        return below

    def norms(self) -> list[nn.Module]:
        """Return the encoder's normalisations."""
        norms: list[Any] = [unit.norm for unit in self.encoder]
        # Not by their own type: `sync_batchnorm` puts another one in their place.
        return [norm for norm in norms if not isinstance(norm, nn.Identity)]


def total_variation(filled: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of absolute differences of neighbours in the hole dilated by one pixel, over all values.

    Args:
        filled: the composites `(B, 3, H, W)`.
        mask: `(B, 1, H, W)`, above 0.5 in the hole.

    Example:
        >>> image = torch.tensor([[0.0, 1.0, 3.0, 7.0, 15.0]]).expand(1, 3, 1, 5)
        >>> mask = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]).expand(1, 1, 1, 5)
        >>> total_variation(image, mask)  # (|3 - 1| + |7 - 3|) / 5
        tensor(1.2000)
    """
    filled, near = filled.float(), F.max_pool2d((mask > 0.5).float(), 3, stride=1, padding=1)
    rows = (filled[..., 1:, :] - filled[..., :-1, :]).abs() * (near[..., 1:, :] * near[..., :-1, :])
    columns = (filled[..., 1:] - filled[..., :-1]).abs() * (near[..., 1:] * near[..., :-1])
    return (rows.sum() + columns.sum()) / filled.numel()


class PConvModule(FillingModule):
    """PConv (Liu et al. 2018), trained as in its paper.

    The losses are those of the raw output, which is not limited to [0, 1]; the prediction is. For 224 and 256 px the
    U-Net has 7 layers, the paper's 8 are for 512 px. What the paper does not say: the network computes in [0, 1], its
    first outputs are near mid-grey, the run's last quarter is the second phase, and where even the last partial
    convolution has seen nothing known, within a hole of more than 500 px, the prediction is the image's mean colour. In
    the second phase the encoder's normalisation neither takes statistics of a batch, which count what is not known as
    0, nor is it trained.

    Args:
        width: feature maps of the first layer.
        downs: layers of the encoder; images need at least `2 ** downs` pixels a side.
        known: factor of the mean absolute error of known pixels, over the size of the whole image.
        hole: factor of that of the hole's pixels, over the same size.
        perceptual: factor of the distances of the raw output and of the composite from the truth in the `features`.
        style: factor of the distances of their Gram matrices.
        total_variation: factor of the composite's differences between neighbours in the hole dilated by one pixel.
        features: what `perceptual` and `style` compare: `vgg16:FILE` or `alexnet:FILE`, torchvision's weights (without
            `:FILE` searched in `WSSL_WEIGHTS` and torch hub's cache), or `pretext:CKPT`, the encoder of a pretext
            checkpoint.
        second_phase: fraction of the run's steps, at its end, in which the encoder's normalisation is frozen and the
            learning rate is `second_phase_lr`; 0 for none.
        second_phase_lr: learning rate of the second phase, which a schedule multiplies as it does `lr`.
        lr: learning rate.
        training: schedule, optimiser, `ema` and `compile`: see `WSSLModule`.
    """

    stage = "pconv"
    max_epochs = 20
    batch_size = 6

    def __init__(
        self,
        width: int = 64,
        downs: int = 7,
        known: float = 1.0,
        hole: float = 6.0,
        perceptual: float = 0.05,
        style: float = 120.0,
        total_variation: float = 0.1,
        features: str | None = "vgg16",
        second_phase: float = 0.25,
        second_phase_lr: float = 5e-5,
        lr: float = 2e-4,
        **training: Any,
    ) -> None:
        super().__init__(lr=lr, **training)
        self.optimizer_settings = replace(
            self.optimizer_settings, second_phase=second_phase, second_phase_lr=second_phase_lr
        )
        self.hparams["features"] = absolute_features(features, None)
        self.set_features(perceptual, style, features)
        self.factors = {"known": known, "hole": hole, "total_variation": total_variation}
        for name, value in self.factors.items():
            check_factor(name, value)
        self.factors |= {"perceptual": perceptual, "style": style}
        if not (hole or perceptual or style):
            raise WSSLError("hole", hole, "nothing of the truth is learnt for the hole", "give hole=6, or omit it")
        if not second_phase and second_phase_lr != OptimizerSettings.second_phase_lr:
            raise WSSLError("second_phase_lr", second_phase_lr, "second_phase=0 is none", "omit one of the two")
        self.network = PConvUNet(width, downs)
        self.smallest_image = max(self.smallest_image, 2**downs)
        self.second_phase_step = float("inf")
        self.to(memory_format=torch.channels_last)

    def networks(self) -> list[nn.Module]:
        """Return the U-Net."""
        return [self.network]

    def check_data(self, data: Any) -> None:
        """Name the layers that the images allow, where they are too small for as many as there are."""
        size, downs = getattr(data, "image_size", None), self.hparams["downs"]
        if isinstance(size, int) and super().smallest_image <= size < 2**downs:
            remedy = f"give model.downs={size.bit_length() - 1}"
            raise WSSLError("image_size", size, f"model.downs={downs} needs at least {2**downs} pixels", remedy)
        super().check_data(data)

    def on_train_start(self) -> None:
        """Find the step at which the second phase begins."""
        super().on_train_start()
        if self.optimizer_settings.second_phase:
            self.second_phase_step = self.optimizer_settings.second_phase_step(self._schedule_end)

    @property
    def is_second_phase(self) -> bool:
        """Whether the next step is one of the second phase."""
        return self.trainer.global_step >= self.second_phase_step

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Freeze the statistics of the encoder's normalisation in the second phase."""
        for norm in self.network.norms():
            norm.train(not self.is_second_phase)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Take the gradients of the encoder's normalisation away in the second phase."""
        super().on_before_optimizer_step(optimizer)
        # Not `requires_grad`: under DDP a parameter that took part from the beginning must have a gradient to the end.
        if self.is_second_phase:
            for norm in self.network.norms():
                norm.zero_grad()

    def reconstruct(self, images: Tensor, masks: Tensor) -> Part:
        """Return the raw output `(B, 3, H, W)`, float32 and not limited to [0, 1], and where the network has one."""
        known = (masks <= 0.5).float()
        output, reached = self.network(self.as_input(fill_holes(images, masks)), known)
        return output.float(), reached

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the prediction; see `FillingModule`."""
        output, reached = self.reconstruct(images, masks)
        return torch.where(reached > 0, output.clamp(0.0, 1.0), mean_colour(images, masks))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        image, hole = batch["image"], (batch["mask"] > 0.5).float()
        output, _ = self.reconstruct(image, hole)
        filled, error = composite(output, image, hole), (output - image).abs()
        parts = {"known": (error * (1.0 - hole)).mean(), "hole": (error * hole).mean()}
        parts["total_variation"] = total_variation(filled, hole)
        if self.perceptual or self.style:
            parts |= self.losses_in_features(output, image, filled)
        parts = self.weighted(parts, self.factors)
        self.log_parts(parts)
        return parts["loss"]
