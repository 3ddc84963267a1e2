"""Records: what JSON or YAML gives, as dataclasses, with every value checked against the type of its field."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from reprlib import repr as short
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wssl_pl.errors import WSSLError, there_are
from wssl_pl.stages import FILLING

MAX_DEPTH = 20  # of a value that may be anything; deeper ones end in a RecursionError somewhere


def read_json(path: Path, kind: Any, parameter: str, remedy: str) -> Any:
    """Return what a JSON file holds as `kind`; see `read_record`.

    Raises:
        WSSLError: it cannot be read, is not JSON, or has a value of another type; `parameter` and `remedy` are its own.
    """
    try:
        return read_record(kind, json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WSSLError(parameter, path, f"cannot be read ({reason})", remedy) from None


def read_record(kind: Any, value: Any, name: str = "") -> Any:
    """Return `value` as `kind`: a dataclass, list, dict, Literal, `X | None`, str, int, float, bool or Any.

    A field with a default may be missing, or None. Text stands for a list of one, `none` for None, and text such as
    `5e-4`, which is no number in YAML, for a float. A field's metadata may have what to give where it is missing
    (`example`).

    Args:
        kind: the type.
        value: what `json` or `yaml` gave.
        name: of the value, for messages: `arms.scratch.steps`.

    Raises:
        WSSLError: the value is of another type, or a key is missing or unknown; the latter is the error's `value`.
    """
    origin, args = get_origin(kind), get_args(kind)
    if NoneType in args:
        other = next(arg for arg in args if arg is not NoneType)
        return None if value is None or (value == "none" and other is not str) else read_record(other, value, name)
    if is_dataclass(kind):
        return _read_fields(kind, value, name)
    if kind is Any:
        return _check_plain(value, name)
    if origin is list and isinstance(value, str):
        value = [value]
    if origin is list and isinstance(value, list):
        return [read_record(args[0], item, f"{name}[{number}]") for number, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {
            read_record(args[0], key, f"{name or 'a'} key"): read_record(args[1], inner, _below(name, key))
            for key, inner in value.items()
        }
    if origin is Literal and value in args:
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind in (int, float, str) and isinstance(value, int | float | str) and not isinstance(value, bool):
        converted = _convert(kind, value)
        if converted is not None:
            return converted
    raise WSSLError(None, None, f"{name + ': ' if name else ''}{short(value)} is not {_expected(kind)}")


def _convert(kind: type, value: float | str) -> Any:
    """Return a number or text as another kind of it where nothing is lost: `0` of a key as 0, `5e-4` as 0.0005."""
    try:
        converted = kind(value)
    except (ValueError, OverflowError):
        return None
    if isinstance(converted, float) and not math.isfinite(converted):
        return None
    return None if kind is int and isinstance(value, float) and value != converted else converted


def _expected(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    names = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", list: "a list"}
    return names.get(origin or kind, "a mapping")


def _below(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _read_fields(kind: Any, value: Any, name: str) -> Any:
    known = _fields(kind)
    where = f"{name}: " if name else ""
    if not isinstance(value, dict):
        raise WSSLError(None, None, f"{where}{short(value)} is not a mapping", f"there are {', '.join(known)}")
    given = {}
    for key, inner in value.items():
        if key not in known:
            raise WSSLError(None, key, f"{where}unknown key {short(key)}", there_are(known, str(key)))
        field, hint = known[key]
        if inner is not None or not _has_default(field):
            given[field.name] = read_record(hint, inner, _below(name, key))
    for field, _ in known.values():
        if field.name not in given and not _has_default(field):
            raise WSSLError(None, None, f"{_below(name, field.name)} is required", field.metadata.get("example"))
    return kind(**given)


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


@cache
def _fields(kind: Any) -> dict[str, tuple[Field[Any], Any]]:
    """Return a dataclass's fields and their types by name."""
    hints = get_type_hints(kind)
    return {field.name: (field, hints[field.name]) for field in fields(kind)}


def _check_plain(value: Any, name: str, depth: int = 0) -> Any:
    """Return a value made of what JSON has.

    Raises:
        WSSLError: it has something else, such as a date, or is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise WSSLError(None, None, f"{name.split('.')[0]}: nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                raise WSSLError(None, None, f"{name}: the key {short(key)} is not text")
            _check_plain(inner, _below(name, key), depth + 1)
    elif value is not None and not isinstance(value, str | int | float):
        raise WSSLError(None, None, f"{name}: {short(value)} is not text, a number, a list or a mapping", "quote it")
    return value


def listed(value: Any) -> list[Any]:
    """Return a list of what is one, or was typed as one on a command line; none of None."""
    if isinstance(value, str):
        return [part.strip() for part in value.strip("[]").split(",") if part.strip()]
    return list(value or [])


def read_settings(metadata: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the settings of network and data, and the stage, from the metadata of an ONNX or a safetensors file.

    Raises:
        ValueError: the file is none of this project's.
    """
    try:
        settings, training = json.loads(metadata["hyper_parameters"]), json.loads(metadata["training"])
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from None
    except RecursionError:
        raise ValueError("its settings are nested too deeply") from None
    if not (isinstance(settings, dict) and isinstance(training, dict)):
        raise ValueError("its settings are no mappings")
    stage = metadata.get("stage", "downstream")
    if stage not in FILLING:
        raise ValueError(f"it is of stage {stage!r:.40}")
    return settings, training, stage
