"""PIC (Zheng et al. 2019, "Pluralistic image completion"): training, and one or the best of many completions."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wssl_pl.callbacks.images import side_by_side
from wssl_pl.data.draws import mix
from wssl_pl.errors import WSSLError
from wssl_pl.losses import SQUARES
from wssl_pl.metrics import composite
from wssl_pl.modules.adversarial import Adversary
from wssl_pl.modules.checkpoint import check_state
from wssl_pl.modules.filling import FillingModule
from wssl_pl.modules.optimizer import check_factor, check_positive
from wssl_pl.modules.rivals.pic_networks import FACTORS, OUTPUTS, Discriminator, Distribution, Encoder, Generator
from wssl_pl.networks import crop_to, pad_to_multiple
from wssl_pl.networks.inputs import GREY
from wssl_pl.tasks.masked import MURMUR
from wssl_pl.tasks.noise import box_muller

Normal = tuple[Tensor, Tensor]
"""Mean and standard deviation, broadcastable."""

GOLDEN = 0x9E3779B9


def prior_scale(known: Tensor) -> Tensor:
    """Return the width `1 / (1 + exp(8 (known - 0.8)))` of the posterior's prior, for the known fraction of an image.

    The more is hidden, the wider.
    """
    return torch.sigmoid(-8.0 * (known - 0.8))


def symmetric_kl(first: Normal, second: Normal) -> Tensor:
    """Return the mean of the KL divergences of two normal distributions in both directions, averaged over elements.

    Example:
        >>> one, two = torch.tensor([1.0]), torch.tensor([2.0])
        >>> symmetric_kl((one, one), (two, two))  # ((1 + 1) / 4 + (4 + 1) / 1 - 2) / 4
        tensor(0.8750)
    """
    (mean, scale), (other_mean, other_scale) = first, second
    distance, variance, other_variance = (mean - other_mean).square(), scale.square(), other_scale.square()
    sums = (variance + distance) / other_variance + (other_variance + distance) / variance
    return ((sums - 2.0) / 4.0).mean()


def noise(sample: int, shape: torch.Size, device: torch.device) -> Tensor:
    """Return standard normal numbers `(C, H, W)`, float32: each a hash of the sample's number and its position.

    They are the same on every device, in an exported file, and at any size: a larger map continues a smaller one.

    Args:
        sample: number of the sample, 0 or more.
        shape: (C, H, W).
        device: where they are needed.
    """
    bits = torch.full((), sample, dtype=torch.int64, device=device)
    for count in shape:
        counter = GOLDEN * torch.arange(1, count + 1, device=device)
        bits = mix(mix(bits, MURMUR, bits=32)[..., None] + counter, MURMUR, bits=32)
    return box_muller(bits)


class PICAdversary(Adversary):
    """The two discriminators of PIC, with one optimiser.

    Args:
        network: a ModuleDict of two networks from images in [-1, 1] to scores: `generated` and `reconstruction`.
    """

    network: nn.ModuleDict

    def both_sides(self, filled: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the losses of generator and discriminators, and the scores of true and of generated images.

        On the path of generated images both losses are LSGAN's. On that of reconstructions the generator minimises the
        squared difference of the scores of reconstruction and truth, and the discriminator's loss is LSGAN's.

        Args:
            filled: the images of the two paths, one after the other: `(2 B, 3, H, W)` in [-1, 1].
            image: true images `(B, 3, H, W)` in [-1, 1].
            mask: not used.
        """
        (score, real, fake), (rebuilt, *scores) = (
            self._scores(path, images, image)
            for path, images in zip(("generated", "reconstruction"), filled.chunk(2), strict=True)
        )
        adversarial = self.losses.generator(score) + F.mse_loss(rebuilt.float(), scores[0].detach().float())
        loss = self.losses.discriminator(real, fake) + self.losses.discriminator(*scores)
        return adversarial, loss, real, fake

    def _scores(self, path: str, images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of images for the generator, and of truth and images for the discriminator of the path."""
        network = self.network[path]
        network.requires_grad_(False)
        score = network(images)
        network.requires_grad_(True)
        real, fake = network(torch.cat([truth, images.detach()])).chunk(2)
        return score, real, fake


class PICModule(FillingModule):
    """Pluralistic image completion: of each image there are many samples, from a distribution of the latent.

    In training an encoder sees the known and the hidden part of each image. The known part gives the prior, the hidden
    one the posterior of a latent. From a sample of each a generator makes the whole image: the posterior's reconstructs
    the truth, the prior's agrees with the truth where that is known. A discriminator judges each.

    The images are in [-1, 1] for the networks, 0 in the hole, and sides that do not divide by 32 are padded. The paper
    leaves open, or the summary that this was written from does, and chosen are: the latent's residual block is added to
    the encoder's features; the feature maps of the up blocks (128, 128, 64, 32, 32) mirror the encoder's; attended are
    features, without a projection of values; known fractions are averaged down to the attention's size; s is a standard
    deviation; KL divergences are means over the latent, of both directions; low-resolution L1 compares with averaged
    pixels, and counts as known what has no hidden pixel; the reconstruction's discriminator learns by LSGAN; both judge
    raw outputs.

    Args:
        width: feature maps of the first block.
        kl: factor of the two KL divergences, of the posterior from N(0, s) and of the prior from the posterior; each
            counts four times, once for each scale.
        l1: factor of the L1 distance at each of four scales, of the whole reconstruction and of the generated image's
            known pixels.
        adversarial: factor of the losses against the two discriminators.
        discriminator_lr: learning rate of the discriminators, whose schedule is that of `lr`; default: twice the
            default `lr`.
        discriminator_width: feature maps of the discriminators' first block; default: `width`.
        betas: of the optimiser and of the discriminators': decay of the averages of gradients and of their squares.
        training: learning rate, schedule, optimiser, `ema` and `compile`: see `WSSLModule`.
    """

    stage = "pic"
    max_epochs = 20
    batch_size = 8
    default_discriminator_lr = 2e-4
    adversary: PICAdversary | None = None

    def __init__(
        self,
        width: int = 32,
        kl: float = 20.0,
        l1: float = 20.0,
        adversarial: float = 1.0,
        discriminator_lr: float = 2e-4,
        discriminator_width: int | None = None,
        betas: tuple[float, float] = (0.0, 0.999),
        **training: Any,
    ) -> None:
        super().__init__(betas=betas, **training)
        check_positive("width", width)
        for name, value in (("kl", kl), ("l1", l1)):
            check_factor(name, value)
        if not (l1 or adversarial):
            raise WSSLError("l1", l1, "nothing of the image is learnt", "give l1=20, or omit it")
        self.set_adversary(adversarial, discriminator_lr, discriminator_width)
        self.set_inputs(GREY, mask_channel=False)
        self.factors = dict.fromkeys(("kl_posterior", "kl_prior"), kl * OUTPUTS) | {"adversarial": adversarial}
        self.factors |= dict.fromkeys(("reconstruction", "known"), l1)
        self.encoder = Encoder(width)
        self.prior, self.posterior = (Distribution(width * FACTORS[-1]) for _ in range(2))
        self.generator = Generator(width)
        self.to(memory_format=torch.channels_last)

    def make_discriminator(self) -> nn.Module:
        """Return two new discriminators, of generated images and of reconstructions."""
        width = self.hparams["discriminator_width"] or self.hparams["width"]
        networks = nn.ModuleDict({path: Discriminator(width) for path in ("generated", "reconstruction")})
        return networks.to(memory_format=torch.channels_last)

    def make_adversary(self, network: nn.Module, device: torch.device, scales: bool = False) -> PICAdversary:
        """Return what trains the two discriminators."""
        losses = replace(SQUARES, at_chance=2.0 * SQUARES.at_chance)
        return PICAdversary(network, device, scales, losses, tuple(self.hparams["betas"]))

    def load_beside(self, checkpoint: dict[str, Any]) -> None:
        """Load the discriminators of a checkpoint that has them; `best_of` needs one."""
        if "discriminator" in checkpoint:
            network = self.make_discriminator()
            check_state(network, checkpoint["discriminator"]["network"], "ckpt", "its discriminators")
            network.load_state_dict(checkpoint["discriminator"]["network"])
            self.adversary = self.make_adversary(network, self.device)

    def networks(self) -> list[nn.Module]:
        """Return encoder, prior, posterior and generator."""
        return [self.encoder, self.prior, self.posterior, self.generator]

    def forward(self, images: Tensor, masks: Tensor, sample: int = 0) -> Tensor:
        """Return one sample, the raw output: the same for the same number.

        Args:
            images: `(B, 3, H, W)` in [0, 1], of any size; pixels in the hole have no influence.
            masks: `(B, 1, H, W)`, 1 = hole.
            sample: number of the sample, 0 or more.

        Returns:
            `(B, 3, H, W)` in [0, 1], float32.
        """
        return next(self._samples(images, masks, [sample]))

    def _samples(self, images: Tensor, masks: Tensor, numbers: Iterable[int]) -> Iterator[Tensor]:
        """Yield the samples of the given numbers, `(B, 3, H, W)` in [0, 1]."""
        padded, holes = pad_to_multiple(self.with_holes(images, masks)), pad_to_multiple((masks > 0.5).float())
        features, encoded = self.encoder(self.as_input(2.0 * padded - 1.0))
        mean, scale = self.prior(features)
        for number in numbers:
            latent = mean + scale * noise(number, mean.shape[1:], mean.device)
            output = self.generator(latent.to(features.dtype), features, encoded, self._known(holes))[-1]
            yield crop_to((output + 1.0) / 2.0, *images.shape[-2:])

    def best_of(self, images: Tensor, masks: Tensor, samples: int) -> Tensor:
        """Return of each image that one of the first samples which the discriminator of generated images scores best.

        Args:
            images: `(B, 3, H, W)` in [0, 1], of any size; pixels in the hole have no influence.
            masks: `(B, 1, H, W)`, 1 = hole.
            samples: how many.

        Raises:
            WSSLError: the model has no discriminator: it was not opened from a checkpoint of its training.
        """
        network = self.check_scores(samples).to(images.device)
        training = network.training
        network.eval()
        try:
            return self._pick(images, masks, samples, lambda filled: network(pad_to_multiple(2.0 * filled - 1.0)))
        finally:
            network.train(training)

    def check_scores(self, samples: int) -> nn.Module:
        """Return the discriminator by which the best sample is chosen; raises `WSSLError` if there is none."""
        if self.adversary is None:
            remedy = "give the .ckpt of its training, with adversarial above 0"
            raise WSSLError("samples", samples, "the best one needs the discriminator, which is not there", remedy)
        network: nn.Module = self.adversary.network["generated"]
        return network

    def nearest_of(self, images: Tensor, masks: Tensor, truth: Tensor, samples: int) -> Tensor:
        """Return of each image that one of the first samples which is nearest to the truth in the hole: an oracle.

        It needs the truth `(B, 3, H, W)` in [0, 1], and is no method. The paper's figures are those of 50 samples.
        """
        holes = (masks > 0.5).to(truth.dtype)
        return self._pick(images, masks, samples, lambda filled: -((filled - truth) * holes).square())

    def _pick(self, images: Tensor, masks: Tensor, samples: int, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Return of each image the sample with the highest mean score."""
        if samples < 1:
            raise WSSLError("samples", samples, "must be at least 1")
        best = highest = None
        for filled in self._samples(images, masks, range(samples)):
            scores = score(filled).float().mean(dim=(1, 2, 3))
            if best is None or highest is None:
                best, highest = filled, scores
            best = torch.where((scores > highest)[:, None, None, None], filled, best)
            highest = torch.maximum(highest, scores)
        assert best is not None
        return best

    def validation_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return also the composites of the first four samples side by side, behind the masked image."""
        image, mask = batch["image"], batch["mask"]
        samples = [composite(filled, image, mask) for filled in self._samples(image, mask, range(4))]
        several = side_by_side([self.with_holes(image, mask), *samples])
        return super().validation_images(batch) | {"val/samples": several}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch, over both paths."""
        image, hole = pad_to_multiple(batch["image"]), (pad_to_multiple(batch["mask"]) > 0.5).float()
        truth = 2.0 * image - 1.0
        seen = self.encoder(self.as_input(torch.cat([truth * (1.0 - hole), truth * hole])))
        (features, hidden), (encoded, _) = (levels.chunk(2) for levels in seen)
        prior, posterior = self.prior(features), self.posterior(hidden)
        # Of the two paths, generated and reconstruction, in one batch.
        mean, scale = (torch.cat(pair) for pair in zip(prior, posterior, strict=True))
        latent = mean + scale * torch.randn_like(mean)
        twice = [torch.cat([each, each]) for each in (features, encoded, self._known(hole))]
        outputs = self.generator(latent.to(features.dtype), *twice)
        parts = self._distances(outputs, truth, hole)
        width = prior_scale(1.0 - hole.mean(dim=(1, 2, 3), keepdim=True))
        parts["kl_posterior"] = symmetric_kl(posterior, (torch.zeros_like(width), width))
        parts["kl_prior"] = symmetric_kl(prior, (posterior[0].detach(), posterior[1].detach()))
        if self.adversarial:
            parts |= self.against(outputs[-1], truth, hole)
        parts = self.weighted(parts, self.factors)
        self.log_parts(parts)
        return parts["loss"]

    @staticmethod
    def _distances(outputs: list[Tensor], truth: Tensor, hole: Tensor) -> dict[str, Tensor]:
        """Return the L1 distances, summed over scales: of the reconstructions, and of the known generated pixels."""
        parts = {"known": truth.new_zeros(()), "reconstruction": truth.new_zeros(())}
        for output in outputs:
            factor = truth.shape[-1] // output.shape[-1]
            generated, reconstructed = (output - F.avg_pool2d(truth, factor).repeat(2, 1, 1, 1)).abs().chunk(2)
            parts["known"] = parts["known"] + (generated * (1.0 - F.max_pool2d(hole, factor))).mean()
            parts["reconstruction"] = parts["reconstruction"] + reconstructed.mean()
        return parts

    @staticmethod
    def _known(holes: Tensor) -> Tensor:
        """Return the known fraction of each position of the attention, `(B, 1, H / 8, W / 8)`."""
        return 1.0 - F.avg_pool2d(holes, 8)
