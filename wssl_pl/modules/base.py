"""What all stages share: the optimiser, the memory format, compilation, and the mark in the checkpoint."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from wssl_pl.callbacks import EMAWeights
from wssl_pl.data import WSSLDataModule
from wssl_pl.data.dataset import check_range, complete_batch
from wssl_pl.errors import WSSLError
from wssl_pl.modules.checkpoint import check_state, read_checkpoint
from wssl_pl.modules.heads import TaskMetrics
from wssl_pl.modules.migration import FORMAT, migrate
from wssl_pl.modules.network import TakesHoles
from wssl_pl.modules.optimizer import OptimizerSettings
from wssl_pl.modules.sharding import check_sharding, set_gathered, shard

OPTIMIZER_OPTIONS = ("encoder_lr", *(setting.name for setting in fields(OptimizerSettings)))
"""Hyperparameters whose change on resume has to reach the restored optimiser."""
IMPLEMENTATION = ("fused", "foreach", "capturable")
"""How an optimiser's step is computed: a matter of the device and of clipping, never of the checkpoint."""

FLOAT16_EPS = 1e-5
"""The smallest `eps` of Adam with which steps stay finite where its averages are float16."""


class WSSLModule(TakesHoles, LightningModule):
    """Base of all stages: Adam over what is not frozen, convolutions in channels_last.

    A subclass holds its networks as submodules, and sets the attributes below.

    Args:
        lr: learning rate.
        lr_schedule: `constant` (the paper's) or `cosine`, which ends at 0.
        warmup_steps: optimiser steps over which the learning rate first rises linearly; a cosine starts after them.
        optimizer: `adam` (the paper's) or `adamw` (Loshchilov, Hutter 2019).
        weight_decay: with `adam` an L2 penalty, added to the gradients; with `adamw` the decoupled decay.
        betas: of the optimiser: decay of the averages of gradients and of their squares.
        eps: of the optimiser, PyTorch's 1e-8. TensorFlow's Adam, with which the paper trained, has 1e-7.
        ema: decay of an exponential moving average of the weights, such as 0.999, which is then validated and saved as
            the model; none if omitted.
        compile: compile the networks with torch.compile.
    """

    stage: ClassVar[str]
    needs_masks: bool
    smallest_image: int  # side in pixels
    monitor: str  # the logged metric by which the best checkpoint is kept; the higher the better
    # Of the command line: the paper's.
    max_epochs: ClassVar[int]
    batch_size: ClassVar[int | None] = None  # None for that of the data module
    # The tasks, losses and metrics compute in float32 in any precision; the networks round their input.
    takes_float32: ClassVar[bool] = True
    crop_margin: int = 0  # pixels around the crop that the batch shall have in `image_with_margin`
    _range_checked: set[Any]  # in what the first batch of a user's own dataset was checked since `setup`
    _resumed_hparams: dict[str, Any] | None = None  # those of the checkpoint that is resumed
    _is_sharded = False
    validated_step: int | None = None  # at which the metrics of the last validation were measured
    _group_options: list[list[dict[str, Any]]]  # by optimiser and parameter group, as configured: without `params`

    def __init__(
        self,
        lr: float = 1e-4,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        warmup_steps: int = 0,
        optimizer: Literal["adam", "adamw"] = "adam",
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        ema: float | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        # Those of the subclass too. The checkpoint that a module will be saved to holds what `ckpt` gave.
        self.save_hyperparameters(ignore=["ckpt"])
        self.hparams["betas"] = list(betas)  # as they come back from JSON
        if ema is not None and not 0.0 < ema < 1.0:
            raise WSSLError("ema", ema, "must be between 0 and 1, such as 0.999", "omit it for no average")
        self.optimizer_settings = OptimizerSettings(lr, lr_schedule, warmup_steps, optimizer, weight_decay, betas, eps)
        self.ema, self.compiles = ema, compile

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, strict: bool = True, **settings: Any
    ) -> Self:
        """Return the module of a checkpoint of any earlier format, without unpickling code.

        Args:
            checkpoint_path: the file.
            map_location: the device; default: the CPU.
            strict: whether the weights must be exactly those of the module.
            settings: hyperparameters that replace those of the checkpoint. What Lightning's own method takes beside
                these (`hparams_file`, `weights_only`) is accepted and has no effect.

        Raises:
            WSSLError: see `read_checkpoint` and `check_state`.
        """
        for name in ("hparams_file", "weights_only"):
            settings.pop(name, None)
        checkpoint = read_checkpoint(checkpoint_path, stage=cls.stage)
        # The command line adds keys of its own, which begin with an underscore.
        saved = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
        try:
            module = cls(**saved | settings)
        except TypeError as error:
            raise WSSLError("ckpt", checkpoint_path, f"its settings cannot be used: {error}") from error
        if strict:
            check_state(module, checkpoint["state_dict"], "ckpt", checkpoint_path)
        module.load_state_dict(checkpoint["state_dict"], strict=strict)
        module.load_beside(checkpoint)
        return module if map_location is None else module.to(map_location)

    def check_trainer(self, trainer: Trainer) -> None:
        """Raise `WSSLError` for a setting of the trainer that conflicts with the module's, before data are read."""
        check_sharding(self, trainer)
        precision, eps = trainer.precision, self.optimizer_settings.eps
        if precision == "16-true" and eps < FLOAT16_EPS:
            reason = f"with eps={eps:g} averages of squared gradients vanish in float16, and the weights become NaN"
            raise WSSLError("precision", precision, reason, "give eps=1e-4, or precision=16-mixed")
        if self.ema is not None and precision in ("bf16-true", "16-true"):
            reason = f"precision={precision} rounds the changes of the average to 0"
            raise WSSLError("ema", self.ema, reason, "give precision=bf16-mixed or 32-true")

    def check_data(self, data: Any) -> None:
        """Raise `WSSLError` for images too small for the module, before data are read.

        Args:
            data: the datamodule; one that does not know its `image_size` is not checked.
        """
        size = getattr(data, "image_size", None)
        if isinstance(size, int) and size < self.smallest_image:
            raise WSSLError("image_size", size, f"stage={self.stage} needs at least {self.smallest_image} pixels")

    def configure_model(self) -> None:
        """Shard the networks, once, where the trainer's strategy does that."""
        if (mesh := self.device_mesh) is not None and not self._is_sharded:
            check_sharding(self, self.trainer)
            shard(self.networks(), mesh["data_parallel"])
            self._is_sharded = True

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback of `ema`, for a training."""
        if self.ema is None or self.trainer.state.fn != TrainerFn.FITTING:
            return []
        return [EMAWeights(self.ema)]

    def remarks(self) -> list[str]:
        """Return what a user should know when the training has ended, a line each."""
        return []

    def validation_figures(self, title: str) -> dict[str, Any]:
        """Return figures of the validation that has ended, by tag."""
        return {}

    def load_beside(self, checkpoint: dict[str, Any]) -> None:
        """Take from a checkpoint what is used beside the weights; `load_from_checkpoint` calls it."""

    def trained_beside(self) -> list[nn.Module]:
        """Return networks that are trained and saved with the module, and are no part of it."""
        return []

    def setup(self, stage: str) -> None:
        """Check trainer and data, and compile the networks in place, so that the names in the state dict stay."""
        self._range_checked = set()
        if stage == "fit":
            self.check_trainer(self.trainer)
            self.check_data(getattr(self.trainer, "datamodule", None))
            if self.compiles:
                for network in self.networks():
                    network.compile()

    def _apply_batch_transfer_handler(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Complete a batch of a user's own dataset after all hooks, those of the user's datamodule included."""
        batch = super()._apply_batch_transfer_handler(batch, *args, **kwargs)
        if isinstance(getattr(self.trainer, "datamodule", None), WSSLDataModule):
            return batch
        batch = complete_batch(batch, train=self.training, needs_masks=self.needs_masks)
        if (doing := self.trainer.state.stage) not in self._range_checked:  # once: it waits for the device
            check_range(batch["image"])
            self._range_checked.add(doing)
        return batch

    def log_metrics(self, split: str) -> None:
        """Log the metrics of the batches since the last call under `<split>/`, and reset them."""
        raise NotImplementedError

    def keep_temperatures(self, split: str, metrics: TaskMetrics) -> None:
        """Keep those of a validation with the settings, which every model file has."""
        trainer = self._trainer
        if split == "val" and not (trainer is not None and trainer.sanity_checking):
            self.hparams["temperatures"] = metrics.temperatures

    def on_validation_start(self) -> None:
        """Gather sharded networks: processes may validate unlike numbers of batches, and the first draws images."""
        if self._is_sharded:
            set_gathered(self.networks(), True)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self.log_metrics("val")
        if self._trainer is not None and not self._trainer.sanity_checking:
            self.validated_step = self._trainer.global_step
        self._shard_again()

    def on_predict_start(self) -> None:
        """Do what a validation does."""
        self.on_validation_start()

    def on_predict_epoch_end(self) -> None:
        """Shard the networks again."""
        self._shard_again()

    def _shard_again(self) -> None:
        if self._is_sharded:
            set_gathered(self.networks(), False)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the metrics."""
        self.validation_step(batch, batch_idx)

    def on_test_start(self) -> None:
        """Do what a validation does."""
        self.on_validation_start()

    def on_test_epoch_end(self) -> None:
        """Log the same metrics as validation does."""
        self.log_metrics("test")
        self._shard_again()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the optimiser changes, sooner or later; a group sets what is not as in the hyperparameters."""
        return [{"params": list(self.parameters())}]

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and where the learning rate changes its schedule, which is stepped after every step."""
        # `Tuner.lr_find` writes the rate that it has found to the hyperparameters.
        self.optimizer_settings = settings = replace(self.optimizer_settings, lr=self.hparams["lr"])
        optimizer = settings.make(self.parameter_groups(), self._fuses())
        warmup, decays, second_phase = settings.warmup_steps, settings.lr_schedule == "cosine", settings.second_phase
        if not (warmup or decays or second_phase):
            self._keep_group_options(optimizer)
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        for name, value, needs_end in (("lr_schedule", "cosine", decays), ("second_phase", second_phase, second_phase)):
            if needs_end and not math.isfinite(steps):
                raise WSSLError(name, value, "needs an end", "give max_epochs or max_steps of the trainer")
        if warmup >= steps:
            raise WSSLError("warmup_steps", warmup, f"the run has {steps} steps", "give fewer, or train longer")
        self._schedule_end = float(steps)
        # The schedule of a resumed run that had none before is younger than the run.
        schedule = LambdaLR(
            optimizer,
            lambda step: self.optimizer_settings.factor(max(step, self.trainer.global_step), self._schedule_end),
        )
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
            WSSLError: it is of another stage or newer than this program, or see `check_resumed`.
        """
        if checkpoint.get("stage") != self.stage:
            raise WSSLError("stage", self.stage, f"the resumed checkpoint is of stage {checkpoint.get('stage')}")
        migrate(checkpoint, "ckpt_path", self.trainer.ckpt_path)
        saved = dict(checkpoint.get("hyper_parameters", {}))
        if "temperatures" in self.hparams:
            self.hparams["temperatures"] = saved.get("temperatures")
        if self.trainer.state.fn != TrainerFn.FITTING:
            check_state(self, checkpoint["state_dict"], "ckpt_path", self.trainer.ckpt_path)
            return
        if self.ema is None:
            # The average ends here: the training continues with the weights that were trained.
            checkpoint["state_dict"] = checkpoint.pop("current_model_state", checkpoint["state_dict"])
        self.check_resumed(checkpoint)
        self._resumed_hparams = saved
        for state in checkpoint.get("optimizer_states", []):
            state["param_groups"] = self._regrouped(state["param_groups"], saved)
            self._fit_state(state)
            for group in state["param_groups"]:
                group["fused"] = self._fuses()  # decides where PyTorch puts the restored step counts

    def check_resumed(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint of an earlier run can be resumed with the present settings.

        Raises:
            WSSLError: other weights than those of the module, or an optimiser that trained other parameters.
        """
        saved = checkpoint.get("hyper_parameters", {})
        for name in ("width", "norm", "block", "mask_channel"):
            if (given := self.hparams.get(name)) is not None and saved.get(name, given) not in (given, None):
                raise WSSLError(name, given, f"the resumed run has {name}={saved[name]}", "omit it, or start a new run")
        check_state(self, checkpoint["state_dict"], "resume", None)
        for state in checkpoint.get("optimizer_states", []):
            self._regrouped(state["param_groups"], saved)

    def _regrouped(self, saved: list[dict[str, Any]], settings: dict[str, Any]) -> list[dict[str, Any]]:
        """Return saved parameter groups, cut where the present ones are: `encoder_lr` makes two groups of one."""
        sizes = [len(list(group["params"])) for group in self.parameter_groups()]
        if sizes == [len(group["params"]) for group in saved]:
            return saved
        numbers = [number for group in saved for number in group["params"]]
        if sum(sizes) != len(numbers):
            names = [name for name in ("unfreeze_epoch", "freeze_layers") if name in self.hparams]
            name = next((name for name in names if settings.get(name) != self.hparams[name]), "resume")
            reason = f"{sum(sizes)} parameters are trained, in the resumed run {len(numbers)} were"
            remedy = "resume with its settings, or start a new run from its checkpoint"
            raise WSSLError(name, self.hparams.get(name), reason, remedy)
        groups, first = [], 0
        for size in sizes:
            groups.append({**saved[0], "params": numbers[first : first + size]})
            first += size
        return groups

    def _fit_state(self, state: dict[str, Any]) -> None:
        """Lay an optimiser's saved state out in memory as its parameters are, which the fused kernels expect.

        Sharding needs the names of the parameters in place of their numbers too.
        """
        parameters = [parameter for group in self.parameter_groups() for parameter in group["params"]]
        saved = [number for group in state["param_groups"] for number in group["params"]]
        for number, parameter in zip(saved, parameters, strict=True):
            for key, value in state["state"].get(number, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state["state"][number][key] = _laid_out(value, parameter)
        if self._is_sharded:
            names = {id(parameter): name for name, parameter in self.named_parameters()}
            name_of = dict(zip(saved, [names[id(parameter)] for parameter in parameters], strict=True))
            state["state"] = {name_of[number]: value for number, value in state["state"].items()}
            for group in state["param_groups"]:
                group["params"] = [name_of[number] for number in group["params"]]

    def on_train_start(self) -> None:
        """Let typed settings of the optimiser win over those in the resumed checkpoint.

        Lightning restores the optimiser with the learning rates that were saved. Where no setting has changed and there
        is no schedule they stay, so that a rate that a callback has set survives too.
        """
        if any(not isinstance(each.scheduler, LambdaLR) for each in self.trainer.lr_scheduler_configs):
            return  # Lightning's tuner tries rates
        resumed, found = self._resumed_hparams, self._use_found_rate()
        if resumed is None and not found:
            return
        options_now = {name: self.hparams[name] for name in OPTIMIZER_OPTIONS if name in self.hparams}
        before = options_now | (resumed or {})
        changed = found or any(_plain(before[name]) != _plain(value) for name, value in options_now.items())
        for optimizer, options in zip(self.trainer.optimizers, self._group_options, strict=True):
            for group, typed in zip(optimizer.param_groups, options, strict=True):
                group.update(typed if changed else {name: typed[name] for name in IMPLEMENTATION})
        # The next step's rate is that of the schedule as it is now: it ends later where a run is resumed for longer.
        if self.trainer.lr_scheduler_configs:
            self._schedule_end = self._last_step()
        for config in self.trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            groups = schedule.optimizer.param_groups
            schedule.base_lrs = [group["initial_lr"] for group in groups]
            for group, rate, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                group["lr"] = rate * factor(schedule.last_epoch)

    def _use_found_rate(self) -> bool:
        """Take the rate that `LearningRateFinder` has written to the hyperparameters; return whether there is one.

        Lightning gives it to all parameter groups, those with a rate of their own included, and to no schedule.
        """
        before, rate = self.optimizer_settings.lr, self.hparams["lr"]
        if rate == before:
            return False
        self.optimizer_settings = replace(self.optimizer_settings, lr=rate)
        for options in self._group_options[0]:
            if options.get("initial_lr", options["lr"]) == before:
                options.update({name: rate for name in ("lr", "initial_lr") if name in options})
        return True

    def _last_step(self) -> float:
        """Return the steps that the run has made at its end.

        Lightning's estimate is wrong for a resumed run whose earlier epochs had more steps or fewer: with other
        batches, accumulated ones, or other images.
        """
        trainer: Any = self.trainer
        epoch, batches = trainer.current_epoch, trainer.num_training_batches
        if trainer.max_epochs in (None, -1) or not math.isfinite(batches):
            return float(trainer.estimated_stepping_batches)
        per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        within = trainer.fit_loop.epoch_loop.batch_progress.current.ready if trainer.fit_loop.restarted_mid_epoch else 0
        left = (trainer.max_epochs - epoch) * per_epoch - within // trainer.accumulate_grad_batches
        last = trainer.global_step + left
        return float(last if trainer.max_steps == -1 else min(last, trainer.max_steps))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the stage and the format into the checkpoint, so that a later command knows what it holds."""
        checkpoint["stage"], checkpoint["format"] = self.stage, FORMAT
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EMAWeights):
                checkpoint["state_dict"] = callback.model_state(checkpoint)


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor in the memory format of a parameter of its shape; a sharded one is contiguous."""
    last = value.ndim == 4 and not hasattr(parameter, "full_tensor")
    last = last and parameter.is_contiguous(memory_format=torch.channels_last)
    return value.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _plain(value: Any) -> Any:
    """Return a tuple as the list that YAML makes of it, so that both compare equal."""
    return list(value) if isinstance(value, tuple) else value
