"""`wssl train`: LightningCLI for one stage, with the short names of the README."""

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_origin

import torch
import yaml
from jsonargparse import ArgumentError
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from wssl_pl import callbacks
from wssl_pl.cli.grammar import Words, as_list, check_known, read_words
from wssl_pl.cli.run_directory import RUN_DIR_VARIABLE, choose_directory, dropped_if_empty, find_resumed
from wssl_pl.data import WSSLDataModule
from wssl_pl.devices import choose_precision, choose_threads
from wssl_pl.errors import UsageError
from wssl_pl.modules import InpaintModule, PretextModule, read_checkpoint
from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.checkpoint import check_state

STAGES: dict[str, type[WSSLModule]] = {"pretext": PretextModule, "downstream": InpaintModule}
MAX_EPOCHS = {"pretext": 40, "downstream": 20}

ALIASES = {
    "tasks": "model.tasks",
    "weights": "model.weights",
    "weighting": "model.weighting",
    "ckpt": "model.ckpt",
    "loss": "model.loss",
    "freeze_layers": "model.freeze_layers",
    "resume": "run.resume",
}


class RunConfigCallback(SaveConfigCallback):
    """Saves `config.yaml` and the data in use into the run; on its own, the configuration repeats the run elsewhere."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves out what belongs to this run alone, and keeps the configuration that a resumed run began with."""
        config = self.config.clone()
        config.run.dir = config.run.resume = None
        self.config = config
        log_dir = trainer.log_dir  # asked by every process, because it is broadcast
        if trainer.is_global_zero and log_dir:
            directory = Path(log_dir)
            existing = directory / "config.yaml"
            if existing.exists():
                existing.replace(_numbered(existing))
            directory.mkdir(parents=True, exist_ok=True)
            described = trainer.datamodule.describe()  # type: ignore[attr-defined]
            (directory / "data.json").write_text(json.dumps(described, indent=2) + "\n")
        super().setup(trainer, pl_module, stage)


def _numbered(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return candidate


class WSSLCLI(LightningCLI):
    """LightningCLI with `stage`, `run.dir` and `run.resume`, and with our callbacks in the trainer."""

    def __init__(self, stage: str, words: Words, extra_callbacks: Sequence[Callback] = ()) -> None:
        self.stage = stage
        self.words = words
        self.extra_callbacks = extra_callbacks
        super().__init__(
            model_class=STAGES[stage],
            datamodule_class=WSSLDataModule,
            save_config_callback=RunConfigCallback,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "max_epochs": MAX_EPOCHS[stage],
                # Our samplers shard themselves, unpadded in evaluation, so that several processes measure as one.
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_kwargs={
                "exit_on_error": False,
                "allow_abbrev": False,
                "default_env": True,
                "env_prefix": "WSSL",
            },
            args=words.arguments(),
            run=False,
            auto_configure_optimizers=False,
            # Hyperparameters come from our modules' own arguments, all of plain types.
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what belongs to the run and not to a class."""
        parser.add_argument(
            "--stage", type=Literal["pretext", "downstream"], default=self.stage, help="which of the two stages"
        )
        parser.add_argument(
            "--run.dir", type=str | None, default=None, help="the run's folder; runs/<stage>/<time> if left out"
        )
        parser.add_argument(
            "--run.resume", type=str | None, default=None, help="checkpoint to go on from, or `last` with run.dir"
        )
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Checks the keys, completes lists, and parses; an error is one line."""
        actions = {option.removeprefix("--"): action for action in parser._actions for option in action.option_strings}
        check_known(self.words, actions)
        complete_lists(self.words, actions)
        try:
            self.config = parser.parse_args(self.words.arguments())
        except ArgumentError as error:
            raise UsageError(first_lines(str(error))) from None

    def before_instantiate_classes(self) -> None:
        """What can be told wrong before anything is built."""
        if self.stage == "downstream" and self.config.model.ckpt is None:
            raise UsageError(
                "stage=downstream needs ckpt=: the pretext checkpoint whose encoder is taken over "
                "(runs/pretext/<time>/best.ckpt), or ckpt=none for a new encoder"
            )
        resume = self.config.run.resume
        self.resumed = find_resumed(resume, self.config.run.dir) if resume else None
        devices = self.config.trainer.devices
        torch.set_num_threads(choose_threads(int(devices) if str(devices).isdigit() else 1))
        if self.config.trainer.precision is None:
            self.config.trainer.precision, self.reason = choose_precision(str(self.config.trainer.accelerator))
        else:
            self.reason = "as asked"
        self.directory = choose_directory(self.stage, self.config.run.dir, self.resumed)
        self.made = self.directory if self.config.run.dir is None and self.resumed is None else None

    def instantiate_classes(self) -> None:
        """Builds everything; where that fails, no empty folder is left."""
        with dropped_if_empty(self.made):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with our logger, checkpoints and callbacks, beside those that the user configured."""
        directory = str(self.directory)
        drawing: dict[str, list[Callback]] = {
            "pretext": [callbacks.ConfusionMatrices(), callbacks.ReconstructionPictures()],
            "downstream": [callbacks.InpaintingPictures()],
        }
        mine = [
            *self.extra_callbacks,
            callbacks.StopOnNaN(directory),
            callbacks.StopOnInterrupt(directory),
            callbacks.RandomState(),
            *drawing[self.stage],
        ]
        config = self.config_init.trainer
        if config.enable_checkpointing is not False:
            mine += callbacks.checkpoint_callbacks(directory, self.model.monitor)
        if config.enable_progress_bar is not False:
            mine += callbacks.progress_bars(str(config.accelerator), config.callbacks or [])
        config.callbacks = [*(config.callbacks or []), *mine]
        config.plugins = [*(config.plugins or []), callbacks.AtomicCheckpointIO()]
        if config.logger in (None, True):
            config.logger = TensorBoardLogger(directory, name="", version="")
        config.default_root_dir = config.default_root_dir or directory
        return super().instantiate_trainer(**kwargs)

    def fit(self) -> None:
        """Trains, in the run's folder."""
        self.model.check_trainer(self.trainer)
        if self.resumed is not None:
            checkpoint = read_checkpoint(self.resumed, stage=self.stage, name="resume")
            check_state(self.model, checkpoint["state_dict"], f"resume={self.resumed}")
        rank_zero_only(print)(
            f"Precision {self.config.trainer.precision}: {self.reason}\nRun folder {self.directory}", flush=True
        )
        # Inherited by the processes that DDP starts, and taken back for the next call in this process.
        outer = os.environ.get(RUN_DIR_VARIABLE)
        os.environ[RUN_DIR_VARIABLE] = str(self.directory)
        try:
            self.trainer.fit(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=str(self.resumed) if self.resumed else None,
                weights_only=True,
            )
        finally:
            if outer is None:
                del os.environ[RUN_DIR_VARIABLE]
            else:
                os.environ[RUN_DIR_VARIABLE] = outer
        rank_zero_only(self._say_end)()

    def _say_end(self) -> None:
        figures = self.trainer.callback_metrics
        shown = ", ".join(f"{name} {figures[name]:.4f}" for name in sorted(figures) if name.startswith("val/"))
        print(f"Finished after {self.trainer.global_step} steps: {shown}")
        for remark in self.model.remarks():
            print(remark)
        print(f"Best checkpoint by {self.model.monitor}: {self.directory / 'best.ckpt'}", flush=True)


def run(args: Sequence[str], extra_callbacks: Sequence[Callback] = ()) -> WSSLCLI:
    """Runs `wssl train` with the arguments after the verb, watched by callbacks that a program hands over.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    words = read_words(args, ALIASES)
    if words.positional:
        raise UsageError(f"unexpected {words.positional[0]!r}: options are written key=value or --key=value")
    _base_on_resumed_run(words)
    stage = _find_stage(words)
    quieten()
    cli = WSSLCLI(stage, words, extra_callbacks)
    with dropped_if_empty(cli.made):
        cli.fit()
    return cli


def _base_on_resumed_run(words: Words) -> None:
    """Lets the configuration of a resumed run stand below what is typed, so that `resume=` alone goes on with it."""
    resume = words.get("run.resume")
    if resume is None:
        return
    checkpoint = find_resumed(resume, words.get("run.dir"))
    read_checkpoint(checkpoint, stage=words.get("stage"), name="resume")
    config = checkpoint.parent / "config.yaml"
    if config.exists():
        words.options.insert(0, ("config", str(config)))


def _find_stage(words: Words) -> str:
    """The stage, as typed, or from a configuration file or the environment."""
    stage = words.get("stage")
    configs = [value for key, value in words.options if key == "config" and value]
    for config in reversed(configs):
        path = Path(config)
        if not path.is_file():
            raise UsageError(f"config={config} does not exist")
        if stage is None:
            try:
                loaded = yaml.safe_load(path.read_text())
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise UsageError(f"config={config} is not YAML: {' '.join(str(error).split())[:160]}") from None
            stage = loaded.get("stage") if isinstance(loaded, dict) else None
    stage = stage or os.environ.get("WSSL_STAGE")
    if stage is None:
        raise UsageError("say which stage: stage=pretext or stage=downstream")
    if stage not in STAGES:
        raise UsageError(f"stage={stage} is not a stage; there are {' and '.join(STAGES)}")
    return stage


def complete_lists(words: Words, actions: Mapping[str, Any]) -> None:
    """Puts brackets around the values `a,b` of options that take lists."""
    for number, (key, value) in enumerate(words.options):
        if value is not None and _takes_list(actions.get(key)):
            words.options[number] = (key, as_list(value))


def _takes_list(action: Any) -> bool:
    """Whether the parser's option takes a list or a tuple and nothing else that could hold a comma."""
    hint = getattr(action, "_typehint", None)
    options = getattr(hint, "__args__", ()) if get_origin(hint) not in (list, tuple) else (hint,)
    kinds = [get_origin(option) or option for option in options]
    return bool({list, tuple} & set(kinds)) and not {str, dict} & set(kinds)


def first_lines(message: str, most: int = 2) -> str:
    """The telling part of jsonargparse's message, which goes on for many lines."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:most])[:400]


def quieten() -> None:
    """Leaves out what Lightning says at every start; our own lines tell device, precision and folder."""
    # basicConfig leaves a program's own logging alone when there is some.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("wssl_pl").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
