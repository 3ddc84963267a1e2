"""What the small verbs share: named options with their kinds, and help from one table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wssl_pl.cli.grammar import Words, check_known, read_words
from wssl_pl.errors import UsageError

Options = Mapping[str, tuple[Callable[[str], Any], Any, str]]
"""Option: how to read its value, its default, and what it is."""


def flag(value: str) -> bool:
    """Reads ``true`` or ``false``.

    Raises:
        ValueError: it is neither.
    """
    if value.lower() not in ("true", "false"):
        raise ValueError("expected true or false")
    return value.lower() == "true"


def read_options(
    verb: str,
    args: Sequence[str],
    options: Options,
    positional: Sequence[str] = (),
    description: str = "",
    aliases: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """The options of a verb by name; None if help was asked for, which is printed then.

    An option of kind `flag` does not take the word after it for its value; `aliases` are short names, as `o` for `out`.

    Raises:
        UsageError: an option is unknown, of another kind, or given twice in two ways.
    """
    flags = {name for name, (kind, _, _) in options.items() if kind is flag}
    words: Words = read_words(args, aliases, flags)
    if any(key in ("help", "h") for key, _ in words.options):
        print(f"usage: train.py {verb} " + " ".join(f"{name}=..." for name in positional))
        print(f"\n{description}\n" if description else "")
        width = max(10, *(len(name) + 1 for name in options))
        for name, (_, default, what) in options.items():
            print(f"  {name + '=':<{width}} {what}" + ("" if default is None else f" (default {default})"))
        return None
    check_known(words, options)
    values = {name: default for name, (_, default, _) in options.items()}
    if len(words.positional) > len(positional):
        raise UsageError(f"unexpected {words.positional[len(positional)]!r}: options are written key=value")
    typed = list(zip(positional, words.positional, strict=False))
    for name, value in [*typed, *((name, value or "") for name, value in words.options)]:
        try:
            values[name] = options[name][0](value)
        except ValueError as error:
            raise UsageError(f"{name}={value}: {_reason(options[name][0], error)}") from None
    return values


def _reason(kind: Callable[[str], Any], error: ValueError) -> str:
    reasons: dict[Any, str] = {int: "expected a whole number", float: "expected a number"}
    return reasons.get(kind, str(error))
