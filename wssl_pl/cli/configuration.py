"""What `train` reads before its options are parsed: the resumed run's configuration, classes to import, the stage."""

import importlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from wssl_pl.cli.arguments import CommandLine, configs, variable_of
from wssl_pl.cli.config_files import GROUPS, load_options, options_in
from wssl_pl.cli.run_files import AUTO, CONFIG, DATA, PATHS, find_resumed
from wssl_pl.errors import WSSLError
from wssl_pl.models import find_model
from wssl_pl.modules import read_checkpoint
from wssl_pl.modules.encoder import import_encoder
from wssl_pl.tasks import import_task

SHIPPED = ("lightning", "wssl_pl")
LOCAL_LOGGERS = ("TensorBoardLogger", "CSVLogger")  # the others send data away
FOLDER = re.compile("dir|path|root")  # names of parameters that take one
CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
PART_OF_PATH = re.compile(r"[/\\~$]|\.\.")


def import_classes(line: CommandLine) -> None:
    """Import the tasks and the encoder of class paths on the command line, in a typed `config=` or in the environment.

    Not those in the configuration of a resumed run, unless `--trust` is typed: it may be somebody else's, and an import
    runs code.
    """
    given: list[tuple[str, Any]] = [*_in_environment(), *_in_files(line), *line.options]
    given += [(name, os.environ.get(variable_of(name))) for name in ("model.tasks", "model.restore", "model.encoder")]
    if trusts(line):
        resumed = [_group(yaml.safe_load(value), "model") for value in line.values("config") if "\n" in value]
        given += [(f"model.{name}", value) for model in resumed for name, value in model.items()]
    for key, value in given:
        name = key.removesuffix("+")
        if name == "model.encoder" and value not in (None, "null"):
            import_encoder(str(value))
        elif name in ("model.tasks", "model.restore"):
            listed = value.strip("[] ").split(",") if isinstance(value, str) else value
            for task in listed if isinstance(listed, list) else []:
                if "." in str(task):
                    import_task(str(task).strip(" '\""))


def trusts(line: CommandLine) -> bool:
    """Return whether `--trust` is typed; a file or the environment cannot say so."""
    return (line.get("run.trust") or "").lower() == "true"


def _group(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    group = options.get(name)
    return group if isinstance(group, dict) else {}


def base_on_resumed_run(line: CommandLine) -> None:
    """Put the configuration of a resumed run below what is typed, so that `resume=` alone continues it.

    The run may be somebody else's. Only our own options are taken from its `config.yaml`, and of the trainer's those
    that cannot run code of others, nor write outside the run; with `--trust` all of the trainer's.

    Raises:
        WSSLError: there is nothing to resume, `ckpt=` is typed and is not that of the resumed run, or the configuration
            names what has to be trusted.
    """
    resume = line.get("run.resume")
    checkpoint = find_resumed(resume, value_of(line, "run.dir"))
    if checkpoint is None:
        return
    stage = read_checkpoint(checkpoint, stage=line.get("stage"), name="resume")["stage"]
    path = checkpoint.with_name(CONFIG)
    if not path.exists():
        if value_of(line, "stage") is None:
            remedy = "resume the directory of the run, or give stage= and every option that it was started with"
            raise WSSLError("resume", resume, f"there is no {CONFIG} beside it", remedy)
        return
    loaded = load_options(str(path))
    model, data, trainer, run = (_group(loaded, name) for name in ("model", "data", "trainer", "run"))
    for key, value in find_moved(path, loaded).items():
        group, name = key.split(".")
        loaded[group][name] = value
    if not trusts(line):
        _check_links(checkpoint.parent, resume)
        for name in list(trainer):
            found = next(_to_be_trusted(trainer[name], f"trainer.{name}", checkpoint.parent), None)
            if found and is_typed(line, f"trainer.{name}"):
                del trainer[name]
            elif found:
                reason = f"its {CONFIG} has {found}, which could run code, write outside the run or send data away"
                raise WSSLError("resume", resume, reason, f"add --trust if the run is yours, or give trainer.{name}")
    kept: dict[str, Any] = {"model": model, "data": data, "trainer": trainer}
    if resume == AUTO:  # the same line again: what it adds to a list is in the list already
        for key, _ in (*_in_environment(), *_in_files(line), *line.options):
            group, _, name = key.partition(".")
            if key.endswith("+"):
                kept.get(group, {}).pop(name.removesuffix("+"), None)
    kept["run"] = {name: run[name] for name in ("monitor", "monitor_mode") if name in run}
    if "seed_everything" in loaded:
        kept["seed_everything"] = loaded["seed_everything"]
    line.options[:0] = [("config", yaml.safe_dump({name: value for name, value in kept.items() if value != {}}))]
    line.options[:0] = [("stage", stage)]
    typed, stored = line.get("model.ckpt"), model.get("ckpt")
    typed = str(find_model(None)) if typed == "shipped" else typed
    moved = stored not in (None, "none") and not Path(str(stored)).exists()
    if typed is not None and not moved and Path(typed).resolve() != Path(str(stored)).resolve():
        reason = f"the resumed run started from ckpt={stored}, and its encoder is in the checkpoint"
        raise WSSLError("ckpt", typed, reason, "omit ckpt=, or start a new run")


def _check_links(directory: Path, resume: str | None) -> None:
    for path in directory.iterdir():
        if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
            reason = f"{path} is a link to a file outside the run, which would be written to"
            raise WSSLError("resume", resume, reason, "add --trust if the run is yours")


def value_of(line: CommandLine, key: str) -> str | None:
    """Return an option's value before there is a parser: typed, of a configuration file, or of the environment."""
    if (typed := line.get(key)) is not None:
        return typed
    variable = [(key, os.environ.get(variable_of(key)))]
    found = [value for name, value in (*_in_environment(), *variable, *_in_files(line)) if name == key]
    return next((str(value) for value in reversed(found) if value is not None), None)


def is_typed(line: CommandLine, key: str) -> bool:
    """Return whether an option, or what is below it, is on the command line or in a configuration file."""
    names = [name for name, _ in (*_in_environment(), *_in_files(line), *line.options)]
    return any(name.removesuffix("+") == key or name.startswith(f"{key}.") for name in names)


def _in_environment() -> Iterator[tuple[str, Any]]:
    """Yield the options in the configuration file that `WSSL_CONFIG` names."""
    if (config := os.environ.get(variable := variable_of("config"))) is not None:
        if not config:
            raise WSSLError(variable, None, "is empty", "name a configuration file, or unset it")
        yield from options_in(config)


def _in_files(line: CommandLine) -> Iterator[tuple[str, Any]]:
    """Yield the options in the typed configuration files: of `config=`, and of a group, such as `--trainer=FILE`."""
    for config in configs(line):
        yield from options_in(config)
    for group in GROUPS:
        for file in line.values(group):
            if Path(file).is_file():
                yield from options_in(file, group)


def _to_be_trusted(value: Any, key: str, directory: Path) -> Iterator[str]:
    """Yield the settings that could run other code than Lightning's, write outside the run or send data away."""
    if isinstance(value, dict):
        path = str(value.get("class_path"))
        kind = path.rpartition(".")[2]
        if kind.endswith("Logger") and not (kind in LOCAL_LOGGERS and "save_dir" in _group(value, "init_args")):
            yield f"{key}.class_path={path}"
        for name, item in value.items():
            yield from _to_be_trusted(item, f"{key}.{name}", directory)
    elif isinstance(value, list):
        for item in value:
            yield from _to_be_trusted(item, key, directory)
    elif isinstance(value, str) and not _is_harmless(value, key.rpartition(".")[2], directory):
        yield f"{key}={value}"


def _is_harmless(value: str, name: str, directory: Path) -> bool:
    """Return whether the value of a trainer option, or of an argument of a class in it, needs no trust.

    Args:
        value: a string.
        name: the name of the option or argument.
        directory: the run's.
    """
    if name in ("logger", "model_registry"):
        return False
    if name == "class_path" or (CLASS_PATH.fullmatch(value) and not FOLDER.search(name)):
        return "." not in value or _is_shipped(value)
    if FOLDER.search(name):
        return Path(value).resolve().is_relative_to(directory.resolve())
    # A plain word may also be the name of a YAML file, which jsonargparse reads.
    return name == "monitor" or not (PART_OF_PATH.search(value) or os.path.isfile(value))  # noqa: PTH113, any string


def _is_shipped(path: str) -> bool:
    """Return whether a class path is of a class that Lightning or this package defines.

    The first name alone does not tell: `lightning.x.os.system` would be found too.
    """
    module, _, name = path.rpartition(".")
    if path.partition(".")[0] not in SHIPPED or any(part.startswith("_") for part in path.split(".")):
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and found.__module__.partition(".")[0] in SHIPPED


def find_stage(line: CommandLine, stages: Collection[str]) -> str:
    """Return the stage, as typed, or from a configuration file or the environment.

    Raises:
        WSSLError: there is none, or it is not one of `stages`.
    """
    stage = value_of(line, "stage")
    if stage is None:
        raise WSSLError("stage", None, "is required", f"give {' or '.join(f'stage={name}' for name in stages)}")
    if stage not in stages:
        raise WSSLError("stage", stage, "is not a stage", f"there are {', '.join(stages)}")
    return stage


def add_moved_paths(line: CommandLine) -> None:
    """Put the typed paths of a `config=` of a run right above it where its absolute ones are gone, as after a move."""
    for config in list(configs(line)):
        moved: dict[str, dict[str, str]] = {}
        for key, value in find_moved(Path(config), load_options(config)).items():
            group, name = key.split(".")
            moved.setdefault(group, {})[name] = value
        if moved:
            line.options.insert(line.options.index(("config", config)) + 1, ("config", yaml.safe_dump(moved)))


def find_moved(config: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the paths in the configuration of a run, as they were typed, whose absolute ones are gone.

    Args:
        config: the file, beside which `data.json` has what was typed.
        options: what it holds.
    """
    found = {}
    with suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
        typed = json.loads(config.with_name(DATA).read_text())["typed"]
        for key in PATHS & typed.keys():
            group, name = key.split(".")
            if not Path(options[group][name]).exists() and typed[key] is not None and Path(typed[key]).exists():
                found[key] = typed[key]
    return found
