"""Configuration files: what is in them, by line."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from wssl_pl.errors import WSSLError

GROUPS = {"run": "Run", "model": "Model", "data": "Data", "trainer": "Lightning's Trainer"}


def load_yaml(file: str, read: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return what a configuration file holds.

    Args:
        file: the file.
        read: `yaml.safe_load`, or `yaml.compose` for nodes with line numbers.

    Raises:
        WSSLError: it cannot be read, or is not YAML.
    """
    path = Path(file)
    if not path.is_file():
        raise WSSLError("config", file, "is not a file" if path.exists() else "does not exist")
    try:
        return read(path.read_text())
    except OSError as error:
        raise WSSLError("config", file, f"cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise WSSLError("config", file, f"line {mark.line + 1 if mark else 1}: not YAML", error.problem) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WSSLError("config", file, "not YAML", " ".join(str(error).split())[:160]) from None
    except RecursionError:
        raise WSSLError("config", file, "is nested too deeply") from None


def load_options(file: str) -> dict[str, Any]:
    """Return the options in a configuration file, nested as they are.

    Raises:
        WSSLError: it cannot be read, or holds something else.
    """
    loaded = load_yaml(file)
    if not isinstance(loaded, dict | None):
        raise WSSLError("config", file, "holds no options", "write `key: value`")
    return loaded or {}


def options_in(file: str, group: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options in a configuration file by their names, such as `run.dir`.

    Args:
        file: the file.
        group: what it holds the options of, such as `run`; by default all.
    """
    for key, value in load_options(file).items():
        name = f"{group}.{key}" if group else str(key)
        if name in GROUPS and isinstance(value, dict):
            yield from ((f"{name}.{option}", item) for option, item in value.items())
        elif name in GROUPS and isinstance(value, str) and (own := _beside(file, value)):
            yield from options_in(own, name)
        else:
            yield name, value


def _beside(file: str, name: str) -> str | None:
    """Return the file that a configuration file names, from its own folder or from the working directory."""
    paths = (Path(file).parent / name, Path(name))
    return next((str(path) for path in paths if path.is_file()), None)


def find_options(
    node: yaml.Node | None, groups: Collection[str], prefix: str = ""
) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yield the options in a YAML file by name, with line number and value; not what is below an option."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if name in groups and isinstance(value, yaml.MappingNode):
                yield from find_options(value, groups, f"{name}.")
            else:
                yield name, key.start_mark.line + 1, value
