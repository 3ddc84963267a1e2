"""Training against a discriminator, which is no part of the model: neither opened, exported nor averaged with it."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from wssl_pl.errors import WSSLError
from wssl_pl.losses import HINGE, AdversarialLosses
from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.checkpoint import check_state
from wssl_pl.modules.optimizer import check_factor, check_positive
from wssl_pl.networks import without_autocast

DISCRIMINATOR_LR = 4e-4
DISCRIMINATOR_BETAS = (0.0, 0.9)
"""Of SAGAN (Zhang et al. 2019), whose generator has a rate of 1e-4: the discriminator learns faster, a step each."""
WON, LOST = 0.05, 0.05
"""Of the loss at chance what is left to a discriminator that is always right, and the distance of mean scores of one
that sees no difference."""


class Adversary:
    """A discriminator with its optimiser and, under `16-mixed`, its own loss scale.

    Not a Module, so that Lightning sees nothing of it: the generator's training stays an automatic optimisation.

    Args:
        network: `(images, masks)` to scores.
        device: where it is trained.
        scales: whether the loss is scaled, for gradients in float16.
        losses: of the generator and of the discriminator.
        betas: of the discriminator's Adam.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        scales: bool = False,
        losses: AdversarialLosses = HINGE,
        betas: tuple[float, float] = DISCRIMINATOR_BETAS,
    ) -> None:
        self.network, self.losses = network.to(device), losses
        # Not fused: that kernel wants gradients in the memory format of their weights.
        self.optimizer = Adam(network.parameters(), lr=DISCRIMINATOR_LR, betas=betas)
        self.scaler = torch.amp.GradScaler(device.type, enabled=scales)
        self.recent = torch.zeros(3, device=device)  # running means of the loss and of the two scores
        self.steps = 0

    def compare(self, filled: Tensor, image: Tensor, mask: Tensor, batches: int = 1) -> dict[str, Tensor]:
        """Add to the discriminator's gradients, and return what the generator's are taken from.

        Both sides are compared as they are before the step of either.

        Args:
            filled: the generator's images `(B, 3, H, W)` in [0, 1].
            image: true images.
            mask: `(B, 1, H, W)`, 1 = hole.
            batches: how many of them make a step.

        Returns:
            `adversarial`, the generator's loss; and without gradient `discriminator`, the other side's, `score_real`
            and `score_fake`, the mean scores.
        """
        adversarial, loss, real, fake = self.both_sides(filled, image, mask)
        with without_autocast(loss.device):
            self.scaler.scale(loss / batches).backward()
        now = torch.stack([loss, real.float().mean(), fake.float().mean()]).detach()
        self.recent.lerp_(now, max(0.02, 1.0 / (self.steps + 1)))
        self.steps += 1
        return {"adversarial": adversarial, "discriminator": now[0], "score_real": now[1], "score_fake": now[2]}

    def both_sides(self, filled: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the generator's loss, the discriminator's, and the scores of true and of generated images."""
        self.network.requires_grad_(False)
        adversarial = self.losses.generator(self.network(filled, mask))
        self.network.requires_grad_(True)
        both = self.network(torch.cat([image, filled.detach()]), torch.cat([mask, mask]))
        real, fake = both.chunk(2)
        return adversarial, self.losses.discriminator(real, fake), real, fake

    def gradients(self) -> list[Tensor]:
        """Return the gradients, as they are after `compare`."""
        return [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]

    def step(self, lr: float) -> None:
        """Change the discriminator by the gradients, whose scale is removed already, and clear them."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact continuation needs."""
        parts = {name: getattr(self, name).state_dict() for name in ("network", "optimizer", "scaler")}
        return parts | {"recent": self.recent, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.network.load_state_dict(state["network"])
        (group,) = self.optimizer.param_groups
        betas = group["betas"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["betas"] = betas  # a typed setting wins, as for the model's
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.recent.copy_(state["recent"])
        self.steps = int(state["steps"])


class AdversarialModule(WSSLModule):
    """Base of the modules that can be trained against a discriminator.

    A subclass calls `set_adversary`, and adds `adversarial` times `against(...)["adversarial"]` to its loss. Each step
    of the model's optimiser is one of the discriminator's too, from the same batches: with as many accumulated batches,
    clipped alike, at a rate that follows the same schedule, and averaged over processes. The checkpoint holds its
    state beside the model's, under `discriminator`; a checkpoint without it is continued with a new discriminator.
    """

    adversarial: float = 0.0  # factor of the generator's loss; 0 for no discriminator
    adversary: Adversary | None = None
    default_discriminator_lr: ClassVar[float] = DISCRIMINATOR_LR

    def make_adversary(self, network: nn.Module, device: torch.device, scales: bool = False) -> Adversary:
        """Return what trains a discriminator."""
        return Adversary(network, device, scales)

    def make_discriminator(self) -> nn.Module:
        """Return a new discriminator: `(images, masks)` to scores."""
        raise NotImplementedError

    def set_adversary(self, adversarial: float, lr: float, width: int | None) -> None:
        """Set the factor of the adversarial loss, and the discriminator's learning rate.

        Raises:
            WSSLError: a value that cannot be used, or has no effect.
        """
        check_factor("adversarial", adversarial)
        check_positive("discriminator_lr", lr)
        if width is not None:
            check_positive("discriminator_width", width)
        for name, value, default in (("lr", lr, self.default_discriminator_lr), ("width", width, None)):
            if value != default and not adversarial:
                reason = "there is no discriminator"
                raise WSSLError(f"discriminator_{name}", value, reason, "give adversarial=0.01, or omit it")
        self.adversarial, self.discriminator_lr = adversarial, lr

    def setup(self, stage: str) -> None:
        """Make the discriminator, or a new optimiser for one that was trained before."""
        super().setup(stage)
        if stage == "fit" and self.adversarial:
            network = self._draw_discriminator() if self.adversary is None else self.adversary.network
            scales = getattr(self.trainer.precision_plugin, "scaler", None) is not None
            self.adversary = self.make_adversary(network, self.trainer.strategy.root_device, scales)
            if self.trainer.world_size > 1:
                for tensor in network.state_dict().values():
                    torch.distributed.broadcast(tensor, src=0)

    def _draw_discriminator(self) -> nn.Module:
        """Return a new discriminator by the seed of the run alone; the global random generator does not change."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed((torch.initial_seed() + 1) % 2**63)  # not the model's own numbers
            return self.make_discriminator()

    def against(self, filled: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return the losses and scores of a batch: see `Adversary.compare`."""
        if self.adversary is None:  # a step outside a training
            self.adversary = self.make_adversary(self._draw_discriminator(), image.device)
        batches = 1 if self._trainer is None else self._trainer.accumulate_grad_batches
        return self.adversary.compare(filled, image, mask, batches)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Make the discriminator's step; the gradients of both sides are there, and neither has changed yet."""
        adversary = self.adversary
        if adversary is None or not self.adversarial:
            return
        gradients = adversary.gradients()
        if self.trainer.world_size > 1:
            flat = self.trainer.strategy.reduce(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, mean in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))
        adversary.scaler.unscale_(adversary.optimizer)
        self.log("train/grad_norm_discriminator", torch.nn.utils.get_total_norm(gradients))
        self.clip_gradients(adversary.optimizer)
        # What a schedule or a callback has made of the model's rate.
        adversary.step(self.discriminator_lr * optimizer.param_groups[-1]["lr"] / self.optimizer_settings.lr)

    def trained_beside(self) -> list[nn.Module]:
        """Return the discriminator."""
        return [] if self.adversary is None else [self.adversary.network]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the discriminator's state, unless weights alone are saved."""
        super().on_save_checkpoint(checkpoint)
        if self.adversary is not None and "optimizer_states" in checkpoint:
            checkpoint["discriminator"] = self.adversary.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with the discriminator of the checkpoint, if it has one."""
        super().on_load_checkpoint(checkpoint)
        if self.adversary is not None and "discriminator" in checkpoint:
            self.adversary.load_state_dict(checkpoint["discriminator"])

    def check_resumed(self, checkpoint: dict[str, Any]) -> None:
        """Check the discriminator too."""
        super().check_resumed(checkpoint)
        if self.adversarial and "discriminator" in checkpoint:
            with torch.device("meta"):
                network = self.make_discriminator()
            width = self.hparams.get("discriminator_width")
            check_state(network, checkpoint["discriminator"]["network"], "discriminator_width", width)

    def remarks(self) -> list[str]:
        """Return a remark where one of the two sides has collapsed."""
        if self.adversary is None or not self.adversary.steps:
            return super().remarks()
        loss, real, fake = self.adversary.recent.tolist()
        scores = f"loss {loss:.2f}, mean score of true images {real:.2f}, of filled ones {fake:.2f}"
        if loss < WON * self.adversary.losses.at_chance:
            remark = f"The discriminator distinguishes all images ({scores}): try a lower --model.discriminator_lr"
        elif abs(real - fake) < LOST:
            remark = f"The discriminator distinguishes nothing ({scores}): train longer"
        else:
            return super().remarks()
        return [*super().remarks(), remark]
