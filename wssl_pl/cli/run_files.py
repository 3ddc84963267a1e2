"""What a run leaves beside checkpoints and logs: `config.yaml`, `data.json`, `run.json`; and its last lines."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException

from wssl_pl.callbacks.checkpoints import BestCheckpoint
from wssl_pl.cli.arguments import CommandLine, configs
from wssl_pl.cli.run_directory import is_first_process
from wssl_pl.cli.run_record import LOCK, RECORD
from wssl_pl.data.sources import SYNTHETIC
from wssl_pl.data.splits import RULES
from wssl_pl.errors import Interrupted, Terminated, WSSLError
from wssl_pl.files import hold, write_atomically
from wssl_pl.modules.base import WSSLModule
from wssl_pl.study.folder import write_json

CONFIG, DATA = "config.yaml", "data.json"

# What a run writes before its first step; best.ckpt is the copy that a run resumed in another directory starts with.
EARLY_FILES = (CONFIG, DATA, RECORD, LOCK, "hparams.yaml", "metrics.csv", "events.out.tfevents.*", "best.ckpt")


class RunFiles(SaveConfigCallback):
    """Writes the files of a run into its directory, whatever the loggers, when training starts.

    - `config.yaml` alone repeats the run, from any working directory: its paths are absolute. A resumed run keeps the
      configuration that it was started with as `config.1.yaml`, `config.2.yaml`, ...
    - `data.json`: the data in use.
    - `run.json`: what the run is, and its state: running, finished, interrupted or failed.

    The lock file distinguishes a running training from a killed one, and keeps a second process from resuming it
    meanwhile.

    Args:
        parser: the parser of the command line.
        config: the parsed configuration.
        directory: the run's directory.
        about: what the run is, for `run.json`.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, directory: Path, about: dict[str, Any]
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.directory = directory
        self.about = about
        self.first_step: int | None = None
        self._lock: FileLock | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet, so that a run that fails to start leaves no files."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files.

        Raises:
            WSSLError: another process is training this run.
        """
        if trainer.is_global_zero:
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = hold(self.directory / LOCK)
            except Timeout:
                reason = "another process is training this run"
                raise WSSLError("run.dir", self.directory, reason, "wait until it has ended") from None
            self.save_config(trainer, pl_module, "fit")
            self._record("running", trainer)
        self.first_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that the run is finished."""
        self._end("finished", trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Record that the run was interrupted, or has failed."""
        stops = (Interrupted, Terminated, KeyboardInterrupt, SIGTERMException)
        self._end("interrupted" if isinstance(exception, stops) else "failed", trainer)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `config.yaml`, without what belongs to this run alone, and `data.json`."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        config, typed = with_absolute_paths(self.config, datamodule.images, datamodule.masks)
        config.run.dir = config.run.resume = None
        path, content = self.directory / CONFIG, self.parser.dump(config, skip_unset=False)
        if path.exists():
            shutil.copy2(path, _numbered(path))
        write_atomically(path, content)
        write_json(self.directory / DATA, datamodule.describe() | {"typed": typed})

    def _record(self, state: str, trainer: Trainer) -> None:
        written = {"state": state, "time": datetime.now().isoformat(timespec="seconds"), "steps": trainer.global_step}
        write_json(self.directory / RECORD, self.about | written | best_metric(trainer))

    def _end(self, state: str, trainer: Trainer) -> None:
        # Nothing was written where training has not started.
        if self.first_step is not None and trainer.is_global_zero:
            with suppress(OSError):  # a full disk ended the training: its own error is shown
                self._record(state, trainer)
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def best_metric(trainer: Trainer) -> dict[str, Any]:
    """Return the monitored metric and its best value; nothing before the first validation."""
    listed: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in listed:
        if isinstance(callback, BestCheckpoint) and callback.best_model_score is not None:
            return {"metric": callback.monitor, "best": float(callback.best_model_score)}
    return {}


def with_absolute_paths(config: Namespace, images: str, masks: str) -> tuple[Namespace, dict[str, str | None]]:
    """Return the configuration with absolute paths, and the values that were replaced.

    Args:
        config: of the command line.
        images: the source of the images, which depends on the working directory where `data.images` is omitted.
        masks: the same of the masks.
    """
    config = config.clone()
    stored = {"data.images": _absolute(images, {SYNTHETIC}), "data.masks": _absolute(masks, {SYNTHETIC})}
    stored["data.split_rule"] = _absolute(config["data.split_rule"], {*RULES})
    if config.get("model.ckpt") is not None:
        stored["model.ckpt"] = _absolute(config["model.ckpt"], {"none"})
    replaced = {key: config[key] for key, value in stored.items() if config[key] != value}
    for key, value in stored.items():
        config[key] = value
    return config, replaced


def _absolute(value: str, words: set[str]) -> str:
    return value if value in words else str(Path(value).absolute())


def find_moved_paths(line: CommandLine) -> None:
    """Add the typed paths of a configuration whose absolute ones are gone, as when project and data were moved."""
    for config in list(configs(line)):
        path = Path(config)
        with suppress(OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError):
            typed = json.loads(path.with_name(DATA).read_text()).get("typed", {})
            stored = yaml.safe_load(path.read_text())
            for key, value in typed.items():
                section, name = key.split(".")
                gone = not Path(stored[section][name]).exists()
                if gone and value is not None and Path(value).exists() and line.get(key) is None:
                    line.options.append((key, value))


def _numbered(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return candidate


@contextmanager
def removed_unless_started(directory: Path, trainer: Trainer) -> Iterator[None]:
    """Remove the files of a run that failed before its first step, and its directory if nothing else is in it.

    Files that were there before, and files that a run does not write, stay.
    """
    existed, last = directory.exists(), _written(directory / "last.ckpt")
    before = set(_early_files(directory))
    try:
        yield
    except BaseException:
        if is_first_process() and not has_started(trainer) and _written(directory / "last.ckpt") == last:
            for path in set(_early_files(directory)) - before:
                path.unlink(missing_ok=True)
            if not existed:
                with suppress(OSError):  # not empty, or never made
                    directory.rmdir()
        raise


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _early_files(directory: Path) -> Iterator[Path]:
    for pattern in EARLY_FILES:
        yield from directory.glob(pattern)


def has_started(trainer: Trainer) -> bool:
    """Return whether a training step was made, as far as this process can know."""
    listed: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    first = next((callback.first_step for callback in listed if isinstance(callback, RunFiles)), None)
    return trains_in_other_processes(trainer) or (first is not None and trainer.global_step > first)


def trains_in_other_processes(trainer: Trainer) -> bool:
    """Return whether training runs in processes that know more than this one: with `ddp_spawn` and `ddp_fork`."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def print_result(trainer: Trainer, module: WSSLModule, directory: Path) -> None:
    """Print steps, validation metrics and the checkpoints that exist."""
    metrics = trainer.callback_metrics
    names = sorted(name for name in metrics if name.startswith("val/") and "/ratio_" not in name)
    shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in names)
    # Spawned processes do not report their step.
    after = "" if trains_in_other_processes(trainer) else f" after {trainer.global_step} steps"
    print(f"Finished{after}" + (f": {shown}" if shown else ""))
    for remark in module.remarks():
        print(remark)
    best, last = directory / "best.ckpt", directory / "last.ckpt"
    if best.exists():
        print(f"Best checkpoint by {module.monitor}: {best}", flush=True)
    elif last.exists():
        print(f"No best checkpoint: {module.monitor} was not measured; last checkpoint: {last}", flush=True)
    else:
        print("No checkpoint was written", flush=True)
