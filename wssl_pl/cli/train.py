"""`wssl train`: LightningCLI for one stage, with the short names of the README."""

import errno
import os
import shutil
from argparse import Action
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any, Literal, cast

import torch
import yaml
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from wssl_pl import callbacks
from wssl_pl.cli.arguments import CommandLine, CommandParser, configs, first_lines, one_or_more, read_line
from wssl_pl.cli.config_files import load_options
from wssl_pl.cli.configuration import add_moved_paths, base_on_resumed_run, find_stage, import_classes, value_of
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.run_files import (
    AUTO,
    CONFIG,
    RUN_DIR_VARIABLE,
    RunFiles,
    choose_directory,
    find_resumed,
    is_first_process,
    print_result,
    raised_in,
    raised_while_restoring,
    removed_if_empty,
    removed_unless_started,
    set_aside,
    with_absolute_paths,
)
from wssl_pl.cli.run_names import describe_run, settings_of
from wssl_pl.cli.runs import read_record
from wssl_pl.data import WSSLDataModule
from wssl_pl.devices import choose_precision, choose_threads, has_accelerator
from wssl_pl.errors import DiskFull, Interrupted, Terminated, TrainingStopped, WSSLError
from wssl_pl.files import owned, replacing
from wssl_pl.metrics import is_lower_better
from wssl_pl.models import find_model
from wssl_pl.modules import MODULES, read_checkpoint
from wssl_pl.modules.features import absolute_features
from wssl_pl.modules.joint import OPTIONS
from wssl_pl.modules.network import OF_NETWORK
from wssl_pl.modules.sharding import ShardedStrategy
from wssl_pl.stages import Rival, Stage

HIDDEN = {"temperatures"}  # arguments of a module that no user gives
ALIASES = {
    "images": "data.images",
    "masks": "data.masks",
    "tasks": "model.tasks",
    "weights": "model.weights",
    "weighting": "model.weighting",
    "ckpt": "model.ckpt",
    "loss": "model.loss",
    "freeze_layers": "model.freeze_layers",
    "restore": "model.restore",
    "resume": "run.resume",
    "trust": "run.trust",
}


DESCRIPTION = """\
Train one of the two stages, pretext tasks and then inpainting with their encoder, or a rival.

Example:
    wssl stage=pretext tasks=rotation,sharpness weights=0.3,0.7 --data.images=DIR
    wssl stage=downstream ckpt=runs/pretext/<run>/best.ckpt loss=wssl --data.images=DIR --data.masks=DIR
    wssl resume=runs/downstream/<run>/last.ckpt --trainer.max_epochs=40"""


class TrainParser(CommandParser, LightningArgumentParser):
    """The parser of `wssl train`."""

    aliases = ALIASES

    def add_class_arguments(self, *args: Any, **options: Any) -> list[str]:
        """Leave out what no user gives: a validation finds it."""
        found: list[str] = super().add_class_arguments(*args, **options | {"skip": HIDDEN})
        return found

    def check_key(self, key: str, named: Mapping[str, Action], where: str = "") -> None:
        """Name the stages to which an option of the model belongs, where this one does not have it."""
        option = key.removesuffix("+")
        name = option.removeprefix("model.")
        owners = [stage for stage, module in MODULES.items() if name in signature(module).parameters]
        if name != option and option not in named and owners and name not in HIDDEN:
            raise WSSLError(None, None, f"{where}unknown option {key!r}", f"it belongs to stage={', '.join(owners)}")
        super().check_key(key, named, where)


class WSSLCLI(LightningCLI):
    """LightningCLI with `stage` and `run.*`, and with our callbacks in the trainer."""

    parser: TrainParser
    pretext_ckpt: str | None = None  # what the resumed run started from,
    pretext_reuse: str = "encoder"  # and what it took from there

    def __init__(
        self,
        stage: str,
        line: CommandLine,
        extra_callbacks: Sequence[Callback] = (),
        stack: ExitStack | None = None,
    ) -> None:
        self.stage = stage
        self.line = line
        self.extra_callbacks = extra_callbacks
        self.stack = stack or ExitStack()  # holds the run's directory until the training ends
        super().__init__(
            model_class=MODULES[stage],
            datamodule_class=WSSLDataModule,
            save_config_callback=RunFiles,
            trainer_defaults={
                "max_epochs": None,  # see parse_arguments
                # Our samplers shard themselves, unpadded in evaluation, so that several processes measure as one.
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_class=TrainParser,
            parser_kwargs={
                "prog": f"wssl stage={stage}",
                "description": DESCRIPTION,
                "exit_on_error": False,
                "allow_abbrev": False,
                "default_env": True,
                "env_prefix": "WSSL",
            },
            args=line.arguments(),
            run=False,
            auto_configure_optimizers=False,
            # Hyperparameters come from our modules' own arguments, all of plain types.
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to the run and not to a class."""
        parser.add_argument("--stage", type=Stage | Rival, default=self.stage, help="which one")
        parser.add_argument(
            "--run.dir", type=str | None, default=None, help="the run's directory (default: runs/<stage>/<run>)"
        )
        parser.add_argument(
            "--run.resume",
            type=str | None,
            default=None,
            help="checkpoint or run directory to resume; with run.dir: `last`, or `auto`, which starts the run if "
            "there is nothing to resume",
        )
        parser.add_argument(
            "--run.trust",
            type=bool,
            default=False,
            help="let the resumed run use classes and paths of its own (docs/training.md)",
        )
        parser.add_argument(
            "--run.monitor",
            type=str | None,
            default=None,
            help=f"validation metric by which best.ckpt is kept (default: {MODULES[self.stage].monitor})",
        )
        parser.add_argument(
            "--run.monitor_mode",
            type=Literal["auto", "max", "min"],
            default="auto",
            help="`max` or `min`: which is better; `auto`: `min` for a loss",
        )
        epochs = f"{MODULES[self.stage].max_epochs}, or no limit with max_steps"
        named = cast(TrainParser, parser).named()
        named["trainer.max_epochs"].help = f"Stop after this number of epochs (default: {epochs})"
        if (batch_size := MODULES[self.stage].batch_size) is not None:
            parser.set_defaults({"data.batch_size": batch_size})
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_of_data)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line."""
        self.config = self.parser.parse_line(self.line)
        trainer = self.config.trainer
        if trainer.max_epochs is None:
            # The stage's default could end the training before the steps that are given.
            trainer.max_epochs = MODULES[self.stage].max_epochs if trainer.max_steps in (None, -1) else -1
        seed = self.config.seed_everything
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise WSSLError("seed_everything", seed, "must be at least 0 and below 2**32")

    def before_instantiate_classes(self) -> None:
        """Check what can be checked before anything is built, and settle precision, threads and the run directory."""
        with self.parser.option_names(self.line):
            self._settle()

    def _settle(self) -> None:
        if self.stage == "downstream" and self.config.model.ckpt is None:
            remedy = (
                "name the pretext checkpoint, runs/pretext/<run>/best.ckpt; from scratch: ckpt=none freeze_layers=0"
            )
            raise WSSLError("ckpt", None, "is required in stage=downstream", remedy)
        if self.stage == "downstream" and self.config.model.ckpt == "shipped":
            self.config.model.ckpt = str(find_model(None))
        loggers = [getattr(logger, "class_path", "") for logger in one_or_more(self.config.trainer.logger)]
        callbacks.check_installed(loggers)
        if self.config.trainer.barebones:
            reason = "nothing is logged, validated or saved in that mode"
            remedy = "trainer.fast_dev_run=true tries a run, benchmarks/train_step.py measures the loop"
            raise WSSLError("trainer.barebones", True, reason, remedy)
        run = self.config.run
        if run.resume is not None and self.line.get("run.resume") is None:
            reason = "is in a file or the environment, where the resumed run's own settings would be lost"
            raise WSSLError("resume", run.resume, reason, "type it")
        self.resumed = find_resumed(run.resume, run.dir)
        if self.resumed is not None and self.stage == "downstream":
            self._take_encoder_from_resumed()
        devices = self.config.trainer.devices
        torch.set_num_threads(choose_threads(int(devices) if str(devices).isdigit() else 1))
        self._choose_precision()
        model = self.config.model.as_dict()
        if self.pretext_ckpt is not None:
            model |= {"ckpt": self.pretext_ckpt, "reuse": self.pretext_reuse}
        record = read_record(self.resumed.parent) if self.resumed is not None else None
        try:
            self.about = describe_run(self.stage, model, record)
        except (AttributeError, LookupError, TypeError):
            if record is None:
                raise
            raise WSSLError("resume", self.resumed, "the run.json beside it is damaged", "delete that file") from None
        self.directory = choose_directory(self.stage, run.dir, self.resumed, run.resume, self.about["label"])
        if is_first_process():
            if run.dir is None and self.resumed is None:
                self.stack.enter_context(removed_if_empty(self.directory))
            self.stack.enter_context(owned(self.directory, "run.dir"))

    def _choose_precision(self) -> None:
        config = self.config.trainer
        if config.accelerator in ("gpu", "cuda", "mps") and not has_accelerator():
            remedy = "omit it, or give trainer.accelerator=cpu"
            raise WSSLError("trainer.accelerator", config.accelerator, "there is no GPU that PyTorch can use", remedy)
        on_cpu = config.accelerator == "cpu" or (config.accelerator == "auto" and not has_accelerator())
        if config.precision is None:
            config.precision, self.reason = choose_precision(str(config.accelerator))
        elif str(config.precision) in ("16-mixed", "16") and on_cpu:
            config.precision = "bf16-mixed"
            self.reason = "16-mixed is not available on a CPU"
        else:
            self.reason = "as set by trainer.precision"

    def _take_encoder_from_resumed(self) -> None:
        """Build the module without the pretext checkpoint: the resumed checkpoint holds the encoder.

        The run may have been moved since, and the pretext checkpoint deleted.
        """
        trained = read_checkpoint(str(self.resumed), stage=self.stage, name="resume")["hyper_parameters"]
        self.pretext_ckpt, self.pretext_reuse = self.config.model.ckpt, self.config.model.reuse
        self.config.model.features = absolute_features(self.config.model.features, self.pretext_ckpt)
        self.config.model.ckpt, self.config.model.reuse = "none", "encoder"
        tasks = OPTIONS if self.config.model.task_loss else ()
        for name in (*OF_NETWORK, *tasks):
            if self.config.model[name] is None:
                self.config.model[name] = trained.get(name)

    def instantiate_classes(self) -> None:
        """Build everything."""
        with self.parser.option_names(self.line):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer with our logger, checkpoints and callbacks, beside those that the user configured."""
        directory = str(self.directory)
        if self.pretext_ckpt is not None:
            # For the record in config.yaml.
            self.config.model.ckpt, self.config.model.reuse = self.pretext_ckpt, self.pretext_reuse
        self.first_failure = callbacks.ReportFirstFailure()
        mine = [
            *self.extra_callbacks,
            self.first_failure,
            callbacks.StopOnNaN(directory),
            callbacks.StopOnSignal(directory, requeue=self.config.run.resume == AUTO),
            callbacks.RandomState(),
            callbacks.ValidationImages(),
        ]
        config = self.config_init.trainer
        if config.enable_checkpointing is not False:
            mine += callbacks.checkpoint_callbacks(directory, *self._choose_monitor())
        if config.enable_progress_bar is not False:
            mine += callbacks.progress_bars(str(config.accelerator), one_or_more(config.callbacks))
        own = one_or_more(config.callbacks)
        if any(isinstance(callback, StochasticWeightAveraging) for callback in own):
            reason = "its average would be in no checkpoint"
            raise WSSLError(
                "trainer.callbacks", "StochasticWeightAveraging", reason, "give model.ema=0.999 in its place"
            )
        config.callbacks = [*own, *mine]
        config.plugins = callbacks.with_atomic_checkpoints(one_or_more(config.plugins))
        if config.strategy == "fsdp":
            config.strategy = ShardedStrategy()
        if config.logger in (None, True):
            config.logger = callbacks.default_loggers(directory)
        if config.logger:
            settings = settings_of(self.about, self.model.hparams, self.config.data)
            config.callbacks += [callbacks.TrainingMonitor(), callbacks.HyperparameterTable(settings)]
        config.default_root_dir = config.default_root_dir or directory
        self.save_config_kwargs = {"directory": self.directory, "about": self.about}
        try:
            return super().instantiate_trainer(**kwargs)
        except WSSLError:
            raise
        except (MisconfigurationException, RuntimeError, ValueError, TypeError) as error:
            files = "".join(f" (config={file})" for file in configs(self.line))
            raise WSSLError(None, None, f"trainer{files}: {first_lines(str(error))}") from error

    def _choose_monitor(self) -> tuple[str, str]:
        """Return the monitored metric and its mode."""
        run = self.config.run
        if run.monitor is None:
            return self.model.monitor, "max" if run.monitor_mode == "auto" else run.monitor_mode
        self.model.monitor = run.monitor
        # One batch is validated first, so that a metric that does not exist is an error before the training.
        trainer = self.config_init.trainer
        trainer.num_sanity_val_steps = trainer.num_sanity_val_steps or 1
        if run.monitor_mode != "auto":
            return run.monitor, run.monitor_mode
        return run.monitor, "min" if is_lower_better(run.monitor) else "max"

    def fit(self) -> None:
        """Train, in the run directory."""
        self.model.check_trainer(self.trainer)
        self.model.check_data(self.datamodule)
        steps_before, checkpoint = None, None
        if self.resumed is not None:
            with self._restoring():
                checkpoint = read_checkpoint(self.resumed, stage=self.stage, name="resume")
                self.model.check_resumed(checkpoint)
                steps_before = checkpoint.get("global_step")
        if checkpoint is not None and self._is_over():
            self.model.load_state_dict(checkpoint["state_dict"])
            reason = f"the run in {self.directory} has ended after {steps_before} steps, and trainer= has not changed"
            rank_zero_only(print)(f"Nothing was trained: {reason}")
            return
        del checkpoint  # weights and optimisers, which are read again where they are restored
        in_place = self.resumed is not None and self.resumed.parent.resolve() == self.directory.resolve()
        if is_first_process() and not in_place:
            set_aside(self.directory)
        rank_zero_only(print)(
            f"Precision {self.config.trainer.precision}: {self.reason}\nRun folder {self.directory}", flush=True
        )
        # Inherited by the processes that DDP starts, and taken back for the next call in this process.
        outer = os.environ.get(RUN_DIR_VARIABLE)
        os.environ[RUN_DIR_VARIABLE] = str(self.directory)
        try:
            with self._restoring(), removed_unless_started(self.directory, self.trainer), self.first_failure.reported():
                self._copy_best()
                self.trainer.fit(
                    self.model,
                    datamodule=self.datamodule,
                    ckpt_path=str(self.resumed) if self.resumed else None,
                    weights_only=True,
                )
        except ValueError as error:
            if "val_check_interval" not in str(error) or isinstance(error, WSSLError):
                raise
            value = self.config.trainer.val_check_interval
            raise WSSLError("trainer.val_check_interval", value, first_lines(str(error))) from None
        except (MisconfigurationException, RuntimeError) as error:
            if isinstance(error, MisconfigurationException) or raised_in(error, "early_stopping.py"):
                raise WSSLError(None, None, f"trainer: {first_lines(str(error))}") from error
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            last = self.directory / "last.ckpt"
            then = f"resume with resume={last}" if last.exists() else "start again"
            raise DiskFull(f"cannot write to {self.directory} ({error.strerror}); make room and {then}") from error
        except SIGTERMException:
            raise Terminated("SIGTERM received before the first training step") from None
        except SystemExit as stopped:
            # Lightning turns a Ctrl-C outside the training loop into exit code 1.
            if isinstance(stopped.__context__, KeyboardInterrupt):
                raise Interrupted("interrupted before the first training step") from None
            raise
        finally:
            if outer is None:
                del os.environ[RUN_DIR_VARIABLE]
            else:
                os.environ[RUN_DIR_VARIABLE] = outer
        if self.resumed is not None and self.trainer.global_step == steps_before:
            reason = f"the resumed run has trained its {self.trainer.global_step} steps"
            rank_zero_only(print)(f"Nothing was trained: {reason}; raise trainer.max_epochs or trainer.max_steps")
        rank_zero_only(print_result)(self.trainer, self.model, self.directory)

    def _is_over(self) -> bool:
        """Return whether `resume=auto` finds a finished run: a callback may have ended it before its last epoch."""
        if self.config.run.resume != AUTO or self.resumed is None:
            return False
        if read_record(self.resumed.parent).get("state") != "finished":
            return False
        config, _ = with_absolute_paths(self.config, self.datamodule.images, self.datamodule.masks)
        now = yaml.safe_load(self.parser.dump(config, skip_unset=False))
        try:
            before = load_options(str(self.resumed.parent / CONFIG))
        except WSSLError:  # it was removed
            return False
        # What a checkpoint has decided is nothing that was changed: the first time it was not given.
        model = {name: value for name, value in now["model"].items() if before["model"].get(name) is not None}
        same = {name: before["model"].get(name) for name in model} == model
        return same and all(now[name] == before.get(name) for name in ("data", "trainer", "seed_everything"))

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        """Say in one line that the resumed checkpoint cannot be restored."""
        try:
            yield
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            known = isinstance(error, WSSLError | TrainingStopped)
            if known or self.resumed is None or not raised_while_restoring(error):
                raise
            reason = f"cannot be restored: {type(error).__name__}: {first_lines(str(error))}"
            raise WSSLError("resume", self.resumed, reason) from error

    def _copy_best(self) -> None:
        """Copy the best checkpoint of a run that is resumed in another directory, which may stay the best one."""
        if self.resumed is None or not is_first_process():
            return
        source, target = self.resumed.parent / "best.ckpt", self.directory / "best.ckpt"
        if source.is_file() and not target.exists():
            with source.open("rb") as best, replacing(target) as file:
                shutil.copyfileobj(best, file)


def train(args: Sequence[str], extra_callbacks: Sequence[Callback] = ()) -> WSSLCLI:
    """Run `wssl train`.

    Args:
        args: the command line after the command.
        extra_callbacks: callbacks of a program that calls this.

    Returns:
        the LightningCLI, with model, data module and trainer as they are after the training.

    Raises:
        WSSLError: something in the command line cannot be used as given.
    """
    line = read_line(args, ALIASES, {"run.trust"})
    if line.words:
        raise WSSLError(None, None, f"unexpected {line.words[0]!r}", "options are written key=value or --key=value")
    base_on_resumed_run(line)
    if ("help", None) in line.options and value_of(line, "stage") is None:
        stages = ", ".join(MODULES)
        print(
            f"usage: wssl stage=STAGE [key=value ...]\n\n{DESCRIPTION}\n\nOptions: wssl stage=STAGE --help, of {stages}"
        )
        raise SystemExit(0)
    import_classes(line)
    stage = find_stage(line, MODULES)
    add_moved_paths(line)
    silence_messages()
    with ExitStack() as stack:
        cli = WSSLCLI(stage, line, extra_callbacks, stack)
        with cli.parser.option_names(line):
            cli.fit()
    return cli


def seed_of_data(seed_everything: bool | int) -> int:
    """Return the seed of the data: `seed_everything`, or for `true` the seed that Lightning takes then."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed_everything is True else int(seed_everything)
