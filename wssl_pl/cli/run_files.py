"""The directory of a run: where it is, what is in it beside checkpoints and logs, and how a run is found again."""

import json
import os
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from wssl_pl.callbacks.checkpoints import BestCheckpoint
from wssl_pl.cli.runs import RECORD, read_record
from wssl_pl.data.sources import SYNTHETIC
from wssl_pl.data.splits import RULES
from wssl_pl.errors import Interrupted, Terminated, WSSLError
from wssl_pl.files import check_local, is_address, write_atomically, write_json
from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.features import absolute_features
from wssl_pl.provenance import program

CONFIG, DATA = "config.yaml", "data.json"

PATHS = {"data.images", "data.masks", "data.split_rule", "model.ckpt"}  # options that are absolute in `config.yaml`

# What a run writes before its first step; best.ckpt is the copy that a run resumed in another directory starts with.
EARLY_FILES = (CONFIG, DATA, RECORD, "hparams.yaml", "metrics.csv", "events.out.tfevents.*", "best.ckpt")
EARLIER = "config.*.yaml"  # of the starts before a resume

# jsonargparse reads `run.dir` from here; processes that Lightning starts for DDP inherit it from the first one.
RUN_DIR_VARIABLE = "WSSL_RUN__DIR"

AUTO = "auto"


def find_resumed(resume: str | None, run_dir: str | None) -> Path | None:
    """Return the checkpoint that `resume=` names: a file, a run directory, `last` or `auto` in the directory `run.dir`.

    Returns:
        None for `auto` where there is no checkpoint yet, and where nothing is resumed.

    Raises:
        WSSLError: there is no such checkpoint.
    """
    if resume is None:
        return None
    if resume in ("last", AUTO):
        if run_dir is None:
            raise WSSLError("resume", resume, "the run directory is needed", "add --run.dir=runs/<stage>/<name>")
        path = Path(run_dir) / "last.ckpt"
        if resume == AUTO and not path.exists():
            return None
    else:
        path = Path(resume)
        if path.is_dir():
            path = path / "last.ckpt"
    if not path.is_file():
        raise WSSLError("resume", resume, f"there is no checkpoint {path}", "start the run by resume=auto")
    return path


def holds_run(directory: Path) -> bool:
    """Whether the folder holds a run that a new one must not replace.

    A run that has ended before its first `last.ckpt`, by a kill or an error, cannot be resumed: it is started again.
    """
    checkpoints = [path for path in directory.glob("*.ckpt") if not path.name.startswith(".")]
    if not (checkpoints or (directory / CONFIG).exists() or (directory / RECORD).exists()):
        return False
    ended = read_record(directory).get("state") in ("running", "interrupted", "failed")
    return (directory / "last.ckpt").exists() or not ended


def set_aside(directory: Path) -> None:
    """Move what an earlier run has left in the folder of a new one into `killed`."""
    if (directory / RECORD).exists():
        left = sorted(_early_files(directory))
        aside = make_new(directory / "killed")
        for path in left:
            path.rename(aside / path.name)


def is_first_process() -> bool:
    """Return whether this is the process that writes: rank 0 of node 0, whoever started the processes.

    torchrun, Lightning's own launcher and SLURM name ranks by different variables, before any of them is connected.
    """
    other_node = any(os.environ.get(name, "0") != "0" for name in ("NODE_RANK", "GROUP_RANK"))
    return getattr(rank_zero_only, "rank", 0) == 0 and not other_node


def choose_directory(
    stage: str, run_dir: str | None, resumed: Path | None, resume: str | None = None, label: str = ""
) -> Path:
    """Return the directory of the run: as given, that of the resumed checkpoint, or a new `runs/<stage>/<run>`.

    Args:
        stage: `pretext` or `downstream`.
        run_dir: the directory that was typed.
        resumed: the checkpoint that is resumed.
        resume: `resume=` as typed. With `auto` a directory without `last.ckpt` is used whatever it holds.
        label: what the run is, for the name of a new directory.

    Raises:
        WSSLError: the directory holds a run already, and this one does not resume it.
    """
    if run_dir is None:
        return new_directory(stage, label) if resumed is None else resumed.parent
    check_local("run.dir", run_dir)
    directory = Path(run_dir)
    if resumed is not None and directory.resolve() == resumed.parent.resolve():
        return resumed.parent
    # The other processes of a distributed run find a directory that the first one has started to fill.
    if is_first_process() and holds_run(directory) and (resumed is not None or resume != AUTO):
        reason, remedy = "holds a run already", "name a new directory"
        if resumed is not None:
            reason = f"holds another run than resume={resumed}"
        elif (directory / "last.ckpt").exists():
            remedy = f"resume it with resume=last (or always with resume=auto), or {remedy}"
        raise WSSLError("run.dir", run_dir, reason, remedy)
    return directory


def new_directory(what: str, label: str = "") -> Path:
    """Make `runs/<what>/<time>-<label>`; processes other than the first, which write nothing, get the name alone."""
    name = datetime.now().strftime("%Y%m%d-%H%M%S") + (f"-{label}" if label else "")
    fresh = Path("runs") / what / name
    return rank_zero_only(make_new, default=fresh)(fresh)


def make_new(directory: Path) -> Path:
    """Make the folder, with a number after its name where there is one already, and return it.

    The folder itself is the claim to the name: of two runs begun in the same second, one gets the next number.

    Raises:
        WSSLError: it cannot be made.
    """
    candidate, number = directory, 1
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            number += 1
            candidate = directory.with_name(f"{directory.name}-{number}")
        except OSError as error:
            raise WSSLError("run.dir", candidate, f"cannot be made: {error.strerror}", "name another") from None


@contextmanager
def removed_if_empty(directory: Path) -> Iterator[None]:
    """Remove the directory `runs/<stage>/<run>` if nothing is in it at the end, and its parents in which nothing is."""
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for empty in (directory, *directory.parents[:2]):
                empty.rmdir()


class RunFiles(SaveConfigCallback):
    """Writes the files of a run into its directory, whatever the loggers, when training starts.

    - `config.yaml` alone repeats the run, from any working directory: its paths are absolute. A resumed run keeps the
      configuration that it was started with as `config.1.yaml`, `config.2.yaml`, ...
    - `data.json`: the data in use.
    - `run.json`: what the run is, and its state: running, finished, interrupted or failed.

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet, so that a run that fails to start leaves no files."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files."""
        if trainer.is_global_zero:
            self._record("running", trainer)
            self.save_config(trainer, pl_module, "fit")
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
        typed = self._typed_before(config, typed) | typed
        config.run.dir, config.run.resume, config.run.trust = None, None, False
        path, content = self.directory / CONFIG, self.parser.dump(config, skip_unset=False)
        if path.exists() and path.read_bytes() != content.encode():
            shutil.copy2(path, _numbered(path))
        write_atomically(path, content)
        write_json(self.directory / DATA, datamodule.describe() | {"typed": typed})

    def _typed_before(self, config: Namespace, typed: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was typed for paths of a resumed run that are the same since: by it a moved run finds them."""
        with suppress(OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError):
            before = json.loads((self.directory / DATA).read_text())["typed"]
            stored = yaml.safe_load((self.directory / CONFIG).read_text())
            paths = {key: stored[key.partition(".")[0]][key.partition(".")[2]] for key in before}
            return {key: value for key, value in before.items() if config[key] == paths[key] and key not in typed}
        return {}

    def _record(self, state: str, trainer: Trainer) -> None:
        written = {"state": state, "time": datetime.now().isoformat(timespec="seconds"), "steps": trainer.global_step}
        write_json(self.directory / RECORD, self.about | written | best_metric(trainer) | program())

    def _end(self, state: str, trainer: Trainer) -> None:
        # Nothing was written where training has not started.
        if self.first_step is not None and trainer.is_global_zero:
            with suppress(OSError):  # a full disk ended the training: its own error is shown
                self._record(state, trainer)


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
    stored: dict[str, str | None] = {
        "data.images": _absolute(images, {SYNTHETIC}),
        "data.masks": _absolute(masks, {SYNTHETIC}),
    }
    stored["data.split_rule"] = _absolute(config["data.split_rule"], {*RULES})
    if config.get("model.ckpt") is not None:
        stored["model.ckpt"] = _absolute(config["model.ckpt"], {"none"})
    if config.get("model.features") is not None:
        stored["model.features"] = absolute_features(config["model.features"], config.get("model.ckpt"))
    replaced = {key: config[key] for key, value in stored.items() if config[key] != value}
    for key, value in stored.items():
        config[key] = value
    return config, replaced


def _absolute(value: str, words: set[str]) -> str:
    return value if value in words or is_address(value) else str(Path(value).absolute())


def _numbered(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return candidate


@contextmanager
def removed_unless_started(directory: Path, trainer: Trainer) -> Iterator[None]:
    """Remove the files of a run that failed before its first step.

    Files that were there before stay, as they were, and files that a run does not write.
    """
    last = _written(directory / "last.ckpt")
    before = {*_early_files(directory), *directory.glob(EARLIER)}
    rewritten = {path: path.read_bytes() for name in (CONFIG, DATA, RECORD) if (path := directory / name).is_file()}
    try:
        yield
    except BaseException:
        if is_first_process() and not has_started(trainer) and _written(directory / "last.ckpt") == last:
            for path in {*_early_files(directory), *directory.glob(EARLIER)} - before:
                path.unlink(missing_ok=True)
            for path, content in rewritten.items():
                if path.read_bytes() != content:
                    write_atomically(path, content)
        raise


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _early_files(directory: Path) -> Iterator[Path]:
    for pattern in EARLY_FILES:
        yield from directory.glob(pattern)


def has_started(trainer: Trainer) -> bool:
    """Return whether a training step was made, as far as this process can know."""
    first = _first_step(trainer)
    return trains_in_other_processes(trainer) or (first is not None and trainer.global_step > first)


def raised_while_restoring(error: BaseException) -> bool:
    """Return whether Lightning was restoring a checkpoint, or we checked it for that, when an error was raised."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    checked = any(frame.f_code.co_name == "check_resumed" for frame in frames)
    return checked or raised_in(error, "checkpoint_connector.py")


def raised_in(error: BaseException, file: str) -> bool:
    """Return whether an error has passed a file of Lightning, by its name."""
    return any(Path(frame.f_code.co_filename).name == file for frame, _ in traceback.walk_tb(error.__traceback__))


def _first_step(trainer: Trainer) -> int | None:
    listed: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.first_step for callback in listed if isinstance(callback, RunFiles)), None)


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
    # A run that ends within an epoch is not validated then.
    when = f" (of step {module.validated_step})" if module.validated_step not in (None, trainer.global_step) else ""
    print(f"Finished{after}" + (f": {shown}{when}" if shown else ""))
    for remark in module.remarks():
        print(remark)
    best, last = directory / "best.ckpt", directory / "last.ckpt"
    if best.exists():
        print(f"Best checkpoint by {module.monitor}: {best}", flush=True)
    elif last.exists():
        print(f"No best checkpoint: {module.monitor} was not measured; last checkpoint: {last}", flush=True)
    else:
        print("No checkpoint was written", flush=True)
