"""What both stages share: the optimiser, the memory format, compilation, and the mark in the checkpoint."""

import math
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from wssl_pl.callbacks import EMAWeights
from wssl_pl.errors import UsageError
from wssl_pl.modules.checkpoint import check_state, read_checkpoint
from wssl_pl.modules.migration import FORMAT, migrate
from wssl_pl.modules.optimizer import check_settings, lr_factor, make_optimizer
from wssl_pl.networks import fill_holes

OPTIMIZER_OPTIONS = ("lr", "encoder_lr", "lr_schedule", "warmup_steps", "optimizer", "weight_decay", "betas", "eps")
"""Hyperparameters whose change on resume has to reach the restored optimiser."""
IMPLEMENTATION = ("fused", "foreach", "capturable")
"""How an optimiser's step is computed: a matter of the device and of clipping, never of the checkpoint."""

FLOAT16_EPS = 1e-5
"""The smallest `eps` of Adam with which steps stay finite where its averages are float16."""


class WSSLModule(LightningModule):
    """Base of the two stages: Adam over what is not frozen, convolutions in channels_last.

    Subclasses hold their networks as submodules, name their `stage`, and say whether they need masks.
    """

    stage: ClassVar[str]
    needs_masks: bool
    smallest_image: int  # side in pixels
    monitor: str  # the logged metric by which the best checkpoint is kept; the higher the better
    _resumed_hparams: dict[str, Any] | None = None  # those of the checkpoint that is resumed
    _group_options: list[list[dict[str, Any]]]  # by optimiser and parameter group, as configured: without `params`
    # The tasks, losses and metrics compute in float32 in any precision; the networks round what they are given.
    takes_float32: ClassVar[bool] = True
    crop_margin: int = 0  # pixels around the crop that the batch shall have in `image_with_margin`

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, strict: bool = True, **settings: Any
    ) -> Self:
        """Return the module of a checkpoint of any earlier format, without unpickling code.

        Args:
            checkpoint_path: the file.
            map_location: the device; the CPU if omitted.
            strict: whether the weights must be exactly those of the module.
            settings: hyperparameters that replace those of the checkpoint. What Lightning's own method takes beside
                these (`hparams_file`, `weights_only`) is accepted and has no effect.

        Raises:
            UsageError: see `read_checkpoint`.
        """
        for name in ("hparams_file", "weights_only"):
            settings.pop(name, None)
        checkpoint = read_checkpoint(checkpoint_path, stage=cls.stage)
        # The command line adds keys of its own, which begin with an underscore.
        saved = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
        module = cls(**saved | settings)
        module.load_state_dict(checkpoint["state_dict"], strict=strict)
        return module if map_location is None else module.to(map_location)

    def check_settings(self) -> None:
        """Raise `UsageError` for a hyperparameter of the optimiser that cannot be used."""
        self.check_lr(self.hparams["lr"])
        check_settings(self.hparams)
        self.hparams["betas"] = list(self.hparams["betas"])  # as it comes back from JSON
        fill = self.hparams["fill"]
        if fill not in (None, "mean") and not 0.0 <= fill <= 1.0:
            raise UsageError(f"model.fill={fill}: it must be a value between 0 and 1, or mean")
        ema = self.hparams["ema"]
        if ema is not None and not 0.0 < ema < 1.0:
            raise UsageError(f"model.ema={ema}: it must be between 0 and 1, such as 0.999, or omitted")

    def check_lr(self, lr: float, name: str = "lr") -> None:
        """Raises `UsageError` unless the learning rate is a positive number."""
        if not 0.0 < lr < float("inf"):
            raise UsageError(f"model.{name}={lr} is not a positive number")

    def check_trainer(self, trainer: Trainer) -> None:
        """Raises `UsageError` for a setting of the trainer that does not go with the model's; before data are read."""
        if trainer.precision == "16-true" and self.hparams["eps"] < FLOAT16_EPS:
            raise UsageError(
                f"trainer.precision=16-true with model.eps={self.hparams['eps']:g}: averages of squared gradients "
                "vanish in float16, and the weights become NaN: give model.eps=1e-4, or trainer.precision=16-mixed"
            )
        if self.hparams["ema"] is not None and trainer.precision in ("bf16-true", "16-true"):
            raise UsageError(
                f"model.ema={self.hparams['ema']}: trainer.precision={trainer.precision} rounds the changes of the "
                "average away: give bf16-mixed or 32-true"
            )

    def check_data(self, data: Any) -> None:
        """Raise `UsageError` for images too small for the model, before data are read.

        Args:
            data: the datamodule; one that does not know its `image_size` is not checked.
        """
        size = getattr(data, "image_size", None)
        if isinstance(size, int) and size < self.smallest_image:
            raise UsageError(
                f"data.image_size={size}: stage={self.stage} needs at least {self.smallest_image} pixels: "
                f"give --data.image_size={self.smallest_image} or more"
            )

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback of `model.ema`, for a training."""
        decay = self.hparams["ema"]
        return [EMAWeights(decay)] if decay is not None and self.trainer.state.fn == TrainerFn.FITTING else []

    def remarks(self) -> list[str]:
        """What a user should know when the training has ended, a line each."""
        return []

    def finish_networks(self) -> None:
        """To be called when all networks stand: lays the convolutions' weights out in channels_last."""
        self.to(memory_format=torch.channels_last)

    def networks(self) -> list[nn.Module]:
        """The networks that `model.compile` compiles."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Compiles the networks in place, so that the names in the state dict stay, when `compile` is set."""
        if stage == "fit":
            self.check_trainer(self.trainer)
            self.check_data(getattr(self.trainer, "datamodule", None))
            if self.hparams.get("compile"):
                for network in self.networks():
                    network.compile()

    def with_holes(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Return what the encoder gets to see of images `(B, 3, H, W)`.

        Args:
            images: in [0, 1].
            hidden: `(B, 1, H, W)`, above 0.5 where the image is replaced by `model.fill`.

        Returns:
            `(B, 3, H, W)`, or with `mask_channel` `(B, 4, H, W)`, the last channel being 1 where it is hidden.
        """
        seen = fill_holes(images, hidden, self.hparams["fill"])
        if not self.hparams["mask_channel"]:
            return seen
        return torch.cat([seen, (hidden > 0.5).to(seen.dtype)], dim=1)

    def as_input(self, images: Tensor) -> Tensor:
        """Return images as the networks take them: in channels_last, and in the dtype of their weights."""
        weights = next(self.networks()[0].parameters())
        return images.to(weights.dtype).contiguous(memory_format=torch.channels_last)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the optimiser changes, sooner or later; a group sets what is not as in the hyperparameters."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and where the learning rate changes its schedule, which is stepped after every step."""
        optimizer = make_optimizer(self.parameter_groups(), self.hparams, self._fuses())
        warmup, decays = self.hparams["warmup_steps"], self.hparams["lr_schedule"] == "cosine"
        if not (warmup or decays):
            self._keep_group_options(optimizer)
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if decays and not math.isfinite(steps):
            raise UsageError("model.lr_schedule=cosine needs an end: give trainer.max_epochs or trainer.max_steps")
        if warmup >= steps:
            raise UsageError(f"model.warmup_steps={warmup}: the run has {steps} steps: give fewer, or train longer")
        end = steps if decays else None
        # The schedule of a resumed run that had none before is younger than the run.
        schedule = LambdaLR(optimizer, lambda step: lr_factor(max(step, self.trainer.global_step), warmup, end))
        self._keep_group_options(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _fuses(self) -> bool | None:
        """Return whether the optimiser runs as one fused kernel; None leaves the choice to PyTorch."""
        # The fused kernel divides by the loss scale itself. Lightning therefore refuses to clip gradients with it in
        # mixed precision, in bf16-mixed as well, where there is no loss scale.
        trainer = self._trainer
        if trainer is not None and trainer.gradient_clip_val and isinstance(trainer.precision_plugin, MixedPrecision):
            return None
        return True

    def _keep_group_options(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember the options of every parameter group, after a schedule has added its own."""
        groups = optimizer.param_groups
        self._group_options = [[{key: group[key] for key in group if key != "params"} for group in groups]]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring the checkpoint up to date, keep its settings, and fit its optimiser's state to the present groups.

        Raises:
            UsageError: it is of another stage or newer than this program, or see `check_resumed`.
        """
        if checkpoint.get("stage") != self.stage:
            raise UsageError(f"the resumed checkpoint is of stage {checkpoint.get('stage')}, not {self.stage}")
        migrate(checkpoint, "the resumed checkpoint")
        if self.hparams["ema"] is None and self.trainer.state.fn == TrainerFn.FITTING:
            # The average ends here: the training continues with the weights that were trained.
            checkpoint["state_dict"] = checkpoint.pop("current_model_state", checkpoint["state_dict"])
        self.check_resumed(checkpoint)
        self._resumed_hparams = dict(checkpoint.get("hyper_parameters", {}))
        for state in checkpoint.get("optimizer_states", []):
            state["param_groups"] = self._regrouped(state["param_groups"])
            for group in state["param_groups"]:
                group["fused"] = self._fuses()  # decides where PyTorch puts the restored step counts

    def check_resumed(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint of an earlier run can be resumed with the present settings.

        Raises:
            UsageError: other weights than those of the module, or an optimiser that trained other parameters.
        """
        check_state(self, checkpoint["state_dict"], "the resumed checkpoint")
        for state in checkpoint.get("optimizer_states", []):
            self._regrouped(state["param_groups"])

    def _regrouped(self, saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return saved parameter groups, cut where the present ones are: `encoder_lr` makes two groups of one."""
        sizes = [len(list(group["params"])) for group in self.parameter_groups()]
        if sizes == [len(group["params"]) for group in saved]:
            return saved
        numbers = [number for group in saved for number in group["params"]]
        if sum(sizes) != len(numbers):
            typed = {name: self.hparams[name] for name in ("freeze_layers", "weighting") if name in self.hparams}
            now = ", ".join(f"model.{name}={value}" for name, value in typed.items())
            raise UsageError(
                f"{now}: {sum(sizes)} parameters are trained, in the resumed run {len(numbers)} were: resume with its "
                "settings, or start a new run from its checkpoint"
            )
        groups, first = [], 0
        for size in sizes:
            groups.append({**saved[0], "params": numbers[first : first + size]})
            first += size
        return groups

    def on_train_start(self) -> None:
        """Let typed settings of the optimiser win over those in the resumed checkpoint.

        Lightning restores the optimiser with the learning rates that were saved. Where no setting has changed they
        stay, so that a rate that a callback has set survives too.
        """
        resumed = self._resumed_hparams
        if resumed is None:
            return
        options_now = {name: self.hparams[name] for name in OPTIMIZER_OPTIONS if name in self.hparams}
        changed = any(_plain(resumed.get(name, value)) != _plain(value) for name, value in options_now.items())
        for optimizer, options in zip(self.trainer.optimizers, self._group_options, strict=True):
            for group, typed in zip(optimizer.param_groups, options, strict=True):
                group.update(typed if changed else {name: typed[name] for name in IMPLEMENTATION})
        schedules = self.trainer.lr_scheduler_configs if changed else []
        # A constant rate has no schedule, so that there can be fewer of them than optimisers.
        for config, options in zip(schedules, self._group_options, strict=False):
            schedule: Any = config.scheduler
            schedule.base_lrs = [typed["initial_lr"] for typed in options]
            groups = schedule.optimizer.param_groups
            for group, rate, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                group["lr"] = rate * factor(schedule.last_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the stage and the format into the checkpoint, so that a later command knows what it holds."""
        checkpoint["stage"], checkpoint["format"] = self.stage, FORMAT
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EMAWeights):
                checkpoint["state_dict"] = callback.model_state(checkpoint)


def _plain(value: Any) -> Any:
    """Return a tuple as the list that YAML makes of it, so that both compare equal."""
    return list(value) if isinstance(value, tuple) else value
