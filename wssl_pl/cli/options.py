"""Parsing for the verbs beside `train`: known options, lists, and one-line errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser

from wssl_pl.cli.grammar import Words, check_known, complete_lists, first_lines
from wssl_pl.errors import UsageError

DATA_ALIASES = {
    name: f"data.{name}"
    for name in ("images", "masks", "image_size", "resize", "hole", "hole_ratio", "on_error", "pair_seed")
}


def new_parser(verb: str, description: str) -> ArgumentParser:
    """A parser of `wssl VERB`, which raises instead of exiting."""
    return ArgumentParser(
        prog=f"wssl {verb}", description=description, exit_on_error=False, default_env=True, env_prefix="WSSL"
    )


def refuse_positional(words: Words) -> None:
    """Raises `UsageError` for a word that is no option."""
    if words.positional:
        raise UsageError(f"unexpected {words.positional[0]!r}: options are written key=value or --key=value")


def parse(parser: ArgumentParser, words: Words) -> Any:
    """The values of the options.

    Raises:
        UsageError: an option is unknown or has a value that it cannot have.
    """
    actions: Mapping[str, Any] = {
        option.removeprefix("--"): action for action in parser._actions for option in action.option_strings
    }
    check_known(words, actions)
    complete_lists(words, actions)
    try:
        return parser.parse_args(words.arguments())
    except ArgumentError as error:
        raise UsageError(first_lines(str(error))) from None


def asks_help(words: Words) -> bool:
    """Whether help was asked for."""
    return any(key in ("help", "h") for key, _ in words.options)


def find_device(accelerator: str) -> torch.device:
    """The device of `accelerator`: `auto`, `cpu`, `gpu` or `cuda`.

    Raises:
        UsageError: no such name, or no such device here.
    """
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UsageError(f"accelerator={accelerator} is not one of auto, cpu, gpu")
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(f"accelerator={accelerator}: there is no CUDA device here")
    return torch.device("cuda")


def check_new_out(out: str | None, verb: str) -> Path:
    """The folder `out=`.

    Raises:
        UsageError: none was given, or it is a file.
    """
    if out is None:
        raise UsageError(f"{verb} needs out=: the folder to write to")
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise UsageError(f"out={out} is a file: name a folder")
    return path
