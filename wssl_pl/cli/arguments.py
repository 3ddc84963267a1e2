"""The parser of all commands: `key=value` beside `--key=value`, the nearest of mistyped keys, help, and errors.

A command is a typed function whose docstring is its help. jsonargparse reads its options from the signature, also from
`config=FILE` and from `WSSL_...` environment variables.
"""

import inspect
import json
import os
import re
import textwrap
from argparse import SUPPRESS, Action, ArgumentError, HelpFormatter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from wssl_pl.cli.config_files import GROUPS, find_options, load_options, load_yaml
from wssl_pl.errors import WSSLError
from wssl_pl.files import check_local

KEY_VALUE = re.compile(r"([A-Za-z_][\w.\-]*\+?)=(.*)", re.DOTALL)
NUMBER = re.compile(r"-\.?\d")
SHORT = {"c": "config", "h": "help", "o": "out"}
BARE = {"help", "print_config", "print_shtab"}  # stand alone, and must not become `--flag=true`
SIMILARITY_CUTOFF = 0.6
HELP_WIDTH, HELP_COLUMN = 100, 26
EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    PositiveInt: "a whole number of at least 1",
    NonNegativeInt: "a whole number of at least 0",
    PositiveFloat: "a positive number",
}


@dataclass
class CommandLine:
    """A command line, taken apart.

    Attributes:
        options: key and value in the order typed; a value of None is a flag that takes none, as `--help`.
        words: what is not an option.
        spelled: how each key was typed.
    """

    options: list[tuple[str, str | None]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    spelled: dict[str, str] = field(default_factory=dict)

    def get(self, key: str) -> str | None:
        """Return the value given last for `key`, or None."""
        return next(reversed(self.values(key)), None)

    def values(self, key: str) -> list[str]:
        """Return the values given for `key`, in the order typed."""
        return [value for name, value in self.options if name == key and value is not None]

    def arguments(self) -> list[str]:
        """Return the options as `--key=value`, configuration files first, so that they give way to what is typed."""
        ordered = sorted(self.options, key=lambda option: option[0] != "config")
        return [f"--{key}" if value is None else f"--{key}={value}" for key, value in ordered]


def read_line(
    args: Sequence[str], aliases: Mapping[str, str] | None = None, flags: Collection[str] = ()
) -> CommandLine:
    """Return the command line `args`, taken apart.

    `key=value`, `--key=value` and `--key value` are the same; a `--flag` alone is true; `-` and `_` are the same in
    keys. What is none of these is a word.

    Args:
        args: the command line after the command.
        aliases: long names by short ones.
        flags: keys whose next word is their value only if it is `true` or `false`.
    """
    line = CommandLine()
    rest = list(args)
    while rest:
        word = rest.pop(0)
        dashed = word.startswith("-") and not NUMBER.match(word) and word != "-"
        match = KEY_VALUE.fullmatch(word.lstrip("-") if dashed else word)
        if not match and not dashed:
            line.words.append(word)
            continue
        typed, value = match.groups() if match else (word.lstrip("-"), None)
        typed = typed.replace("-", "_")
        typed = SHORT.get(typed, typed)
        key = (aliases or {}).get(typed, typed)
        if value is None and key not in BARE:
            takes_next = bool(rest) and not _is_option(rest[0])
            if key in flags:
                takes_next = takes_next and rest[0].lower() in ("true", "false")
            value = rest.pop(0) if takes_next else None if key.endswith(".help") else "true"
        line.options.append((key, value))
        line.spelled[key] = typed
    return line


def _is_option(word: str) -> bool:
    return (word.startswith("-") and not NUMBER.match(word)) or KEY_VALUE.fullmatch(word) is not None


class CommandParser(ArgumentParser):
    """A parser whose errors are typed and whose help is short.

    Attributes:
        aliases: long names of options by short ones.
        usage_words: what the usage line shows between the command and its options.
        required: options without a default.
    """

    aliases: Mapping[str, str] = {}
    usage_words: str = ""
    required: Collection[str] = ()

    def short_names(self, named: Collection[str]) -> dict[str, str]:
        """Return the aliases of the options, by option."""
        return {option: alias for alias, option in self.aliases.items() if option in named}

    def named(self) -> dict[str, Action]:
        """Return the options by name."""
        return {
            option.removeprefix("--"): action
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--") and not option.endswith((".help", "+"))
        }

    def parse_line(self, line: CommandLine) -> Namespace:
        """Return the values of the options.

        Raises:
            WSSLError: an option is unknown, is missing, or has a value that it cannot have.
        """
        named = self.named()
        for key, _ in line.options:
            self.check_key(key, named)
        if ("help", None) in line.options:
            self.print_help()
            raise SystemExit(0)
        groups = {option.rpartition(".")[0] for option in named} - {""}
        for config in configs(line):
            load_options(config)
            for name, number, node in find_options(load_yaml(config, yaml.compose), groups):
                where = f"config={config}: line {number}: "
                # LightningCLI takes a group from another file.
                if name in groups and not (isinstance(node, yaml.ScalarNode) and Path(node.value).is_file()):
                    raise WSSLError(None, None, f"{where}{name} must be a group of options")
                self.check_key(name, named, where)
        for key, value in line.options:
            below = next((other for other, _ in line.options if other.startswith(f"{key}.")), None)
            if below and any(value in get_args(kind) for kind in _types(_hint(named.get(key)))):
                raise WSSLError(key, value, f"{below}= is given too", "give one of them")
        for position, (key, value) in enumerate(line.options):
            if value is None:
                continue
            hint = _hint(named.get(key))
            if Path in _types(hint):
                check_local(line.spelled.get(key, key), value)
            if _takes_list(hint):
                line.options[position] = (key, as_list(value))
        if "config" not in {key for key, _ in line.options}:
            for name in self.required:
                if line.get(name) is None and variable_of(name) not in os.environ:
                    raise WSSLError(name, None, "is required", named[name].help)
        try:
            values = self.parse_args(line.arguments())
        except ArgumentError as error:
            raise self._wrong_value(line, named) or WSSLError(None, None, first_lines(str(error))) from None
        except RecursionError:
            raise WSSLError("config", line.get("config"), "is nested too deeply") from None
        for name, action in named.items():
            hint = _hint(action)  # jsonargparse takes null for any type
            if expected := hint and action.default is not None and NoneType not in get_args(hint) and _expected(hint):
                if values.get(name, action.default) is None:
                    raise WSSLError(line.spelled.get(name, name), "null", f"must be {expected}")
        return values

    def check_key(self, key: str, named: Mapping[str, Action], where: str = "") -> None:
        """Raise `WSSLError` with the nearest key unless there is such an option.

        Keys below a single option (`trainer.logger.init_args.name`) are left to jsonargparse, which knows the class;
        below a group of options (`trainer`) they have to be among them.
        """
        name = key.removesuffix("+")
        groups = {option.rpartition(".")[0] for option in named}
        single = tuple(f"{option}." for option in named.keys() - groups)
        if name in named or name in BARE or name.endswith(".help") or name.startswith(single):
            return
        short = self.short_names(named)
        candidates = {option: option for option in named} | {alias: option for option, alias in short.items()}
        if "." not in name:
            # `width` for `model.width`: the last part is what people remember, of our own options first.
            ranked = sorted(named, key=lambda option: option.startswith("trainer."))
            candidates = {option.rpartition(".")[2]: option for option in reversed(ranked)} | candidates
        nearest = get_close_matches(name, candidates, n=1, cutoff=SIMILARITY_CUTOFF)
        found = candidates[nearest[0]] if nearest else ""
        remedy = f"did you mean {found if where else short.get(found, found)}?" if nearest else "see --help"
        raise WSSLError(None, None, f"{where}unknown option {key!r}", remedy)

    def _wrong_value(self, line: CommandLine, named: Mapping[str, Action]) -> WSSLError | None:
        """Return the error of the first option, typed or in a configuration, whose value is not of its type."""
        for key, value in line.options:
            if value is not None and (wrong := _what_is_wrong(key, value, named, ArgumentParser.parse_args)):
                return WSSLError(line.spelled.get(key, key), value, wrong)
        groups = {option.rpartition(".")[0] for option in named}
        for config in line.values("config"):
            root = yaml.compose(config) if (inline := "\n" in config) else load_yaml(config, yaml.compose)
            for name, number, node in find_options(root, groups):
                value = yaml.safe_load(yaml.serialize(node))
                if wrong := _what_is_wrong(name, value, named, ArgumentParser.parse_object):
                    wrong = wrong.replace("[a,b] or a,b", "[a,b]")  # typed alone it may be without brackets
                    where = "config.yaml of the resumed run" if inline else f"config={config}: line {number}"
                    return WSSLError(None, None, f"{where}: {name}={str(value)[:80]}: {wrong}")
        for name in named:
            if (text := os.environ.get(variable_of(name))) is not None:
                reasons = [_what_is_wrong(name, text, named, ArgumentParser.parse_object)]
                with suppress(yaml.YAMLError):  # jsonargparse takes it as it is, or as YAML
                    reasons.append(_what_is_wrong(name, yaml.safe_load(text), named, ArgumentParser.parse_object))
                if all(reasons) and (wrong := reasons[-1]):
                    return WSSLError(variable_of(name), text, wrong.replace("[a,b] or a,b", "[a,b]"))
        return None

    @contextmanager
    def option_names(self, line: CommandLine) -> Iterator[None]:
        """Give the parameter of a `WSSLError` the name of its option, as it was typed or as help shows it."""
        try:
            yield
        except WSSLError as error:
            options = [name for name in self.named() if name.rpartition(".")[2] == error.parameter]
            if options and error.parameter not in line.spelled.values():
                options.sort(key=lambda name: ("." in name, name.startswith("trainer.")))
                error.parameter = line.spelled.get(options[0], self.short_names(options).get(options[0], options[0]))
            raise

    def print_help(self, file: Any = None) -> None:
        """Print the help; argparse would hide that nobody reads it."""
        print(self.format_help(), end="", file=file)

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Return the help: usage, description with an example, and the options in groups, ours first."""
        named = self.named()
        short = self.short_names(named)
        groups: dict[str, list[str]] = {title: [] for title in ("Options", *GROUPS.values())}
        for name, action in named.items():
            is_group = any(other.startswith(f"{name}.") for other in named)
            if action.help != SUPPRESS and not is_group and name not in {"config", *BARE}:
                title = GROUPS.get(name.partition(".")[0] if "." in name else "", "Options")
                names = f"--{name}" if "." in name else f"{name}="
                names = f"{short[name]}=, {names}" if name in short else names
                groups[title].append(_help_entry(names, action, name in self.required))
        parts = [f"usage: {self.prog} {self.usage_words}[key=value ...]", self.description or ""]
        parts += [f"{title}:\n" + "\n".join(entries) for title, entries in groups.items() if entries]
        parts.append(
            "key=value and --key=value are the same. Also: config=FILE (YAML), --print_config, --help, and\n"
            "environment variables WSSL_OPTION, with __ for the dots."
        )
        return "\n\n".join(part for part in parts if part) + "\n"


def _hint(action: Action | None) -> Any:
    """Return the type of an option's value; None for an option that takes none."""
    return getattr(action, "_typehint", None) or getattr(action, "type", None)


def _types(hint: Any) -> list[Any]:
    """Return the types of a union but None, or the type itself."""
    return (
        [kind for kind in get_args(hint) if kind is not NoneType] if get_origin(hint) in (Union, UnionType) else [hint]
    )


def _takes_list(hint: Any) -> bool:
    """Return whether a value is a list or a tuple, and nothing else that could hold a comma."""
    kinds = {get_origin(kind) or kind for kind in _types(hint)}
    return bool({list, tuple} & kinds) and not {str, dict} & kinds


def _expected(hint: Any) -> str | None:
    """Return what a value of this type is, in words; None where that takes more than a few."""
    found = []
    for kind in _types(hint):
        if is_dataclass(kind):
            continue
        if get_origin(kind) is Literal:
            found += [str(choice) for choice in get_args(kind)]
        elif get_origin(kind) is list:
            item = _expected(get_args(kind)[0])
            found.append(f"a list, each {item}" if item else "a list, [a,b] or a,b")
        elif kind in EXPECTED:
            found.append(EXPECTED[kind])
        else:
            return None
    return " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]])) or None


def _help_entry(names: str, action: Action, required: bool) -> str:
    """Return the lines of one option: names, first sentence of its help, choices and default."""
    text = re.split(r"(?<!et al)\. (?=[A-Z])", " ".join((action.help or "").split()))[0].removesuffix(".")
    notes = []
    choices = [
        str(choice) for kind in _types(_hint(action)) if get_origin(kind) is Literal for choice in get_args(kind)
    ]
    if not all(choice in text for choice in choices):
        notes.append(", ".join(choices))
    default = action.default
    if required:
        notes.append("required")
    elif default is not None and default is not False and default != SUPPRESS and "default" not in text.lower():
        shown = json.dumps(default) if isinstance(default, list | tuple | bool) else str(default)
        notes.append(f"default: {shown}")
    entry = names.ljust(HELP_COLUMN - 3) + " " + " ".join([text, *(f"({note})" for note in notes)])
    indent = " " * HELP_COLUMN
    return textwrap.fill(entry, HELP_WIDTH, initial_indent="  ", subsequent_indent=indent, break_long_words=False)


def as_list(value: str) -> str:
    """Return `a,b` as `[a,b]`; what is a list already stays."""
    return value if value.startswith("[") or value in ("null", "None") else f"[{value}]"


def one_or_more(value: Any) -> list[Any]:
    """Return a list of what a YAML file gives as a list, a single mapping, or not at all."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def first_lines(message: str, most: int = 2) -> str:
    """Return the beginning of a message of jsonargparse, which goes on for many lines."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:most])[:400]


def configs(line: CommandLine) -> Iterator[str]:
    """Yield the configuration files; a configuration in place of its file name has several lines."""
    yield from (value for value in line.values("config") if "\n" not in value)


def variable_of(option: str) -> str:
    """Return the environment variable of an option."""
    return f"WSSL_{option.replace('.', '__')}".upper()


def _what_is_wrong(
    key: str, value: Any, named: Mapping[str, Action], parse: Callable[[ArgumentParser, Any], Any]
) -> str | None:
    """Return what the value of an option must be, if it is something else; None of what takes more than a few words."""
    hint = _hint(named.get(key))
    if key not in named and "." in key:  # a field of a dataclass that may be None, or an entry of a dict
        option, _, name = key.rpartition(".")
        for kind in _types(_hint(named.get(option))):
            if is_dataclass(kind):
                hint = get_type_hints(kind).get(name)
            elif get_origin(kind) is dict:
                hint = get_args(kind)[1]
    typed = parse is ArgumentParser.parse_args
    if hint is None or ((expected := _expected(hint)) is None and typed):
        return None
    alone = ArgumentParser(exit_on_error=False)
    alone.add_argument("--value", type=hint)
    try:
        parse(alone, [f"--value={value}"] if typed else {"value": value})
    except ArgumentError:
        return f"must be {expected}" if expected else "is not of the option's type: see --help"
    return None


def make_parser(function: Callable[..., Any], command: str) -> CommandParser:
    """Return the parser of a command: the options are the function's parameters, the help is its docstring.

    The fields of a parameter that is a dataclass and has no default are options as well. A parameter `data:
    WSSLDataModule` becomes the options `data.images`, `data.masks` and so on, each of which also has its short name
    (`images`) unless the function has an option of that name.
    """
    doc = inspect.getdoc(function) or ""
    parser = CommandParser(
        prog=f"wssl {command}",
        description=re.split(r"\n(?:Args|Returns|Raises):", doc)[0].strip(),
        exit_on_error=False,
        default_env=True,
        env_prefix="WSSL",
    )
    parser.add_argument("--config", action="config", help="YAML file of options")
    parameters = inspect.signature(function).parameters
    modules = {name for name, parameter in parameters.items() if hasattr(parameter.annotation, "prepare_data")}
    shared = {name: parameter.annotation for name, parameter in parameters.items() if _is_shared(parameter)}
    parser.add_function_arguments(function, skip={*modules, *shared})
    for options in shared.values():
        parser.add_class_arguments(options)
    plain = parser.named()
    for name in modules:
        parser.add_class_arguments(parameters[name].annotation, name)
        own = {option.removeprefix(f"{name}."): option for option in parser.named() if option.startswith(f"{name}.")}
        parser.aliases = {short: option for short, option in own.items() if short not in plain}
    parser.required = [
        name
        for name, parameter in parameters.items()
        if name in parser.named() and name not in modules and parameter.default is parameter.empty
    ]
    words = list(_positional(parameters))
    parser.usage_words = "".join(
        f"{name.upper()} " if name in parser.required else f"[{name.upper()}] " for name in words
    )
    return parser


def _positional(parameters: Mapping[str, inspect.Parameter]) -> dict[str, bool]:
    """Return the parameters that words are for, and whether each takes several."""
    return {
        name: any(get_origin(kind) is list for kind in _types(parameter.annotation))
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        and not hasattr(parameter.annotation, "prepare_data")
    }


def call(
    function: Callable[..., Any], command: str, args: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> Any:
    """Run a command's function with the options that are typed, and return what it returns.

    Words are the values of its positional parameters in turn. Options that are not its own are handed over if it takes
    `**options`.

    Args:
        function: the command.
        command: its name.
        args: the command line after the name.
        defaults: other defaults than those of the signature.

    Raises:
        WSSLError: something in the command line cannot be used as given.
    """
    parser = make_parser(function, command)
    named = parser.named()
    if defaults:  # a checkpoint's, which another version may have written
        known = {key: value for key, value in defaults.items() if key in named}
        for key, value in known.items():
            if value is not None and (wrong := _what_is_wrong(key, value, named, ArgumentParser.parse_object)):
                raise WSSLError(None, None, f"the checkpoint has {key}={str(value)[:80]}: {wrong}")
        parser.set_defaults(known)
    parameters = inspect.signature(function).parameters
    line = read_line(args, parser.aliases, {name for name, action in named.items() if _hint(action) is bool})
    _place_words(line, _positional(parameters))
    others = [parameter for parameter in parameters.values() if parameter.kind is inspect.Parameter.VAR_KEYWORD]
    passed = {key for key, _ in line.options if others and _is_foreign(key, named)}
    for key in passed:
        parser.add_argument(f"--{key}", type=others[0].annotation)
    config = parser.instantiate_classes(parser.parse_line(line))
    own = {name: parameter for name, parameter in parameters.items() if parameter not in others}
    values = {name: _value(config, name, parameter) for name, parameter in own.items()}
    with parser.option_names(line):
        return function(**values, **{key: config[key] for key in passed})


def _value(config: Namespace, name: str, parameter: inspect.Parameter) -> Any:
    """Return the value of a parameter; a dataclass is made of the options that are its fields."""
    if not _is_shared(parameter):
        return config[name]
    kind = parameter.annotation
    return kind(**{field.name: config[field.name] for field in fields(kind)})


def _is_shared(parameter: inspect.Parameter) -> bool:
    """Return whether the fields of a dataclass are options; those of one with a default have its name before theirs."""
    return is_dataclass(parameter.annotation) and parameter.default is parameter.empty


def _is_foreign(key: str, named: Mapping[str, Action]) -> bool:
    """Return whether a key belongs to another command; what resembles one of ours is mistyped."""
    known = key in named or key in BARE or key.partition(".")[0] in named
    return not known and not get_close_matches(key, named, n=1, cutoff=0.75)


def _place_words(line: CommandLine, positional: Mapping[str, bool]) -> None:
    """Make the words of a command line the values of the positional parameters."""
    words = list(line.words)
    for name, several in positional.items():
        if several and words:
            typed = [
                part for key, value in line.options if key == name for part in (value or "").strip("[]").split(",")
            ]
            line.options = [option for option in line.options if option[0] != name]
            line.options.append((name, json.dumps(typed + words)))
            words = []
        elif words and line.get(name) is None:
            line.options.append((name, words.pop(0)))
    if words:
        raise WSSLError(None, None, f"unexpected {words[0]!r}", "options are written key=value")
