"""What `train` reads before its options are parsed: the stage, the resumed run's configuration, and tasks to import."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from wssl_pl.cli.grammar import Words
from wssl_pl.cli.run_directory import RUN_DIR_VARIABLE, find_resumed
from wssl_pl.errors import UsageError
from wssl_pl.modules import read_checkpoint
from wssl_pl.modules.encoder import import_encoder
from wssl_pl.tasks import import_task


def import_tasks(words: Words) -> None:
    """Import the tasks and the encoder of class paths on the command line, in a typed `config=` or in the environment.

    Not those in the configuration of a resumed run: it may be somebody else's, and an import runs code.
    """
    typed: list[Any] = [words.get("model.tasks"), os.environ.get("WSSL_MODEL__TASKS")]
    encoders: list[Any] = [words.get("model.encoder"), os.environ.get("WSSL_MODEL__ENCODER")]
    for key, value in words.options:
        if key == "config" and value and Path(value).is_file():
            loaded = _load_yaml(value)
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


def base_on_resumed_run(words: Words) -> None:
    """Put the configuration of a resumed run below what is typed, so that `resume=` alone continues it.

    Raises:
        UsageError: there is nothing to resume, or `ckpt=` is typed and is not that of the resumed run.
    """
    directory = words.get("run.dir") or os.environ.get(RUN_DIR_VARIABLE)
    checkpoint = find_resumed(words.get("run.resume"), directory)
    if checkpoint is None:
        return
    read_checkpoint(checkpoint, stage=words.get("stage"), name="resume")
    config = checkpoint.parent / "config.yaml"
    if not config.exists():
        return
    words.options.insert(0, ("config", str(config)))
    typed, stored = words.get("model.ckpt"), yaml.safe_load(config.read_text()).get("model", {}).get("ckpt")
    moved = stored not in (None, "none") and not Path(stored).exists()
    if typed is not None and not moved and Path(typed).resolve() != Path(str(stored)).resolve():
        raise UsageError(
            f"ckpt={typed}: the resumed run started from ckpt={stored}, and its encoder is in the checkpoint: omit "
            "ckpt=, or start a new run"
        )


def _load_yaml(config: str) -> Any:
    try:
        return yaml.safe_load(Path(config).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"config={config} is not YAML: {' '.join(str(error).split())[:160]}") from None


def find_stage(words: Words, stages: Collection[str]) -> str:
    """Return the stage, as typed, or from a configuration file or the environment.

    Raises:
        UsageError: there is none, or it is not one of `stages`.
    """
    stage = words.get("stage")
    configs = [value for key, value in words.options if key == "config" and value]
    for config in reversed(configs):
        path = Path(config)
        if not path.is_file():
            raise UsageError(f"config={config} does not exist")
        if stage is None:
            loaded = _load_yaml(config)
            stage = loaded.get("stage") if isinstance(loaded, dict) else None
    stage = stage or os.environ.get("WSSL_STAGE")
    if stage is None:
        raise UsageError("say which stage: stage=pretext or stage=downstream")
    if stage not in stages:
        raise UsageError(f"stage={stage} is not a stage; there are {' and '.join(stages)}")
    return stage
