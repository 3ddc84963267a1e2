"""The grammar that all verbs share: `key=value` beside `--key=value`, one spelling for `-` and `_`, bare flags."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, get_origin

from wssl_pl.errors import UsageError

_KEY_VALUE = re.compile(r"([A-Za-z_][\w.\-]*\+?)=(.*)", re.DOTALL)
_NUMBER = re.compile(r"-\.?\d")
# Flags of LightningCLI that stand alone and must not be turned into `--flag=true`.
_BARE = {"help", "h", "print_config", "print_shtab"}


@dataclass
class Words:
    """A command line taken apart."""

    options: list[tuple[str, str | None]] = field(default_factory=list)  # in the order typed; None: stands alone
    positional: list[str] = field(default_factory=list)

    def get(self, key: str) -> str | None:
        """The value given last for `key`, or None."""
        values = [value for name, value in self.options if name == key]
        return values[-1] if values else None

    def arguments(self) -> list[str]:
        """The options as `--key=value`, configuration files first, so that they give way to what is typed."""
        ordered = sorted(self.options, key=lambda option: option[0] != "config")
        return [f"--{key}" if value is None else f"--{key}={value}" for key, value in ordered]


def read_words(args: Sequence[str], aliases: Mapping[str, str] | None = None, flags: Collection[str] = ()) -> Words:
    """Takes `args` apart.

    `key=value`, `--key=value` and `--key value` mean the same; a bare `--flag` means true; `-` and `_` are the same
    in keys; a key of `aliases` stands for its long name. What is none of these is positional. A key of `flags` takes
    no other next word for its value than `true` or `false`.
    """
    aliases = aliases or {}
    words = Words()
    rest = list(args)
    while rest:
        word = rest.pop(0)
        dashed = word.startswith("-") and not _NUMBER.match(word) and word != "-"
        match = _KEY_VALUE.fullmatch(word.lstrip("-") if dashed else word)
        if match:
            key, value = match.groups()
        elif dashed:
            key, value = word.lstrip("-"), None
            key = {"c": "config"}.get(key, key)
            if key.replace("-", "_") not in _BARE:
                takes_value = bool(rest) and not _is_option(rest[0])
                if key.replace("-", "_") in flags:
                    takes_value = takes_value and rest[0].lower() in ("true", "false")
                value = rest.pop(0) if takes_value else ("true" if not key.endswith(".help") else None)
        else:
            words.positional.append(word)
            continue
        key = key.replace("-", "_")
        words.options.append((aliases.get(key, key), value))
    return words


def _is_option(word: str) -> bool:
    return (word.startswith("-") and not _NUMBER.match(word)) or _KEY_VALUE.fullmatch(word) is not None


def as_list(value: str) -> str:
    """`a,b` as `[a,b]`; what is a list already stays."""
    return value if value.startswith("[") or value in ("null", "None") else f"[{value}]"


def check_known(words: Words, known: Iterable[str]) -> None:
    """Raises `UsageError` with the nearest known key unless every option is known.

    Keys below a single option (`trainer.logger.init_args.name`) are left to the parser, which knows the class; below
    a group of options (`trainer`) they have to be among them.
    """
    known = {name for name in known if not name.endswith(".help")}
    groups = {name.rpartition(".")[0] for name in known}
    single = tuple(f"{name}." for name in known - groups)
    for key, _ in words.options:
        name = key.removesuffix("+")
        if name in known or name in _BARE or name.endswith(".help") or name.startswith(single):
            continue
        # `width` instead of `model.width`: the last part is what people remember.
        nearest = [candidate for candidate in sorted(known) if candidate.rpartition(".")[2] == name][:1]
        nearest = nearest or get_close_matches(name, known, n=1, cutoff=0.6)
        raise UsageError(f"unknown option {key!r}" + (f"; did you mean {nearest[0]}?" if nearest else "; see --help"))


def one_or_more(value: Any) -> list[Any]:
    """Return a list of what a YAML file gives as a list, a single mapping, or not at all."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


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
