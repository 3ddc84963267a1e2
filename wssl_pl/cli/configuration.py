"""What `train` reads before its options are parsed: the stage, the resumed run's configuration, and tasks to import."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from wssl_pl.cli.arguments import CommandLine, configs, load_yaml, value_of
from wssl_pl.cli.run_directory import RUN_DIR_VARIABLE, find_resumed
from wssl_pl.errors import WSSLError
from wssl_pl.modules import read_checkpoint
from wssl_pl.modules.encoder import import_encoder
from wssl_pl.tasks import import_task


def import_tasks(line: CommandLine) -> None:
    """Import the tasks and the encoder of class paths on the command line, in a typed `config=` or in the environment.

    Not those in the configuration of a resumed run: it may be somebody else's, and an import runs code.
    """
    typed: list[Any] = [line.get("model.tasks"), os.environ.get("WSSL_MODEL__TASKS")]
    encoders: list[Any] = [line.get("model.encoder"), os.environ.get("WSSL_MODEL__ENCODER")]
    for config in configs(line):
        loaded = load_yaml(config)
        model = loaded.get("model") if isinstance(loaded, dict) else None
        typed.append(model.get("tasks") if isinstance(model, dict) else None)
        encoders.append(model.get("encoder") if isinstance(model, dict) else None)
    for encoder in encoders:
        if encoder not in (None, "null"):
            import_encoder(str(encoder))
    for names in typed:
        if isinstance(names, str):
            names = names.strip("[] ").split(",")
        for name in names or []:
            if "." in str(name):
                import_task(str(name).strip(" '\""))


def base_on_resumed_run(line: CommandLine) -> None:
    """Put the configuration of a resumed run below what is typed, so that `resume=` alone continues it.

    Raises:
        WSSLError: there is nothing to resume, or `ckpt=` is typed and is not that of the resumed run.
    """
    directory = line.get("run.dir") or os.environ.get(RUN_DIR_VARIABLE)
    checkpoint = find_resumed(line.get("run.resume"), directory)
    if checkpoint is None:
        return
    read_checkpoint(checkpoint, stage=line.get("stage"), name="resume")
    config = checkpoint.parent / "config.yaml"
    if not config.exists():
        return
    loaded = load_yaml(str(config))
    data = loaded.get("data", {})
    if "split" in data:  # the name of `split_rule` in version 0.1
        data["split_rule"] = data.pop("split")
        line.options[:0] = [("config", yaml.safe_dump(loaded)), ("stage", loaded["stage"])]
    else:
        line.options.insert(0, ("config", str(config)))
    typed, stored = line.get("model.ckpt"), loaded.get("model", {}).get("ckpt")
    moved = stored not in (None, "none") and not Path(stored).exists()
    if typed is not None and not moved and Path(typed).resolve() != Path(str(stored)).resolve():
        reason = f"the resumed run started from ckpt={stored}, and its encoder is in the checkpoint"
        raise WSSLError("ckpt", typed, reason, "omit ckpt=, or start a new run")


def find_stage(line: CommandLine, stages: Collection[str]) -> str:
    """Return the stage, as typed, or from a configuration file or the environment.

    Raises:
        WSSLError: there is none, or it is not one of `stages`.
    """
    stage = value_of(line, "stage")
    if stage is None:
        raise WSSLError("stage", None, "is required", f"give {' or '.join(f'stage={name}' for name in stages)}")
    if stage not in stages:
        raise WSSLError("stage", stage, "is not a stage", f"there are {' and '.join(stages)}")
    return stage
