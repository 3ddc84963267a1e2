"""Errors that a user can correct: the command line prints them in one line and exits with code 2."""

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

ERROR_FILE = "WSSL_ERROR_FILE"  # environment variable: the file that `write_error` writes


class WSSLError(ValueError):
    """A parameter, a file or a checkpoint that cannot be used as given, with its remedy.

    The message is made of the parts here and nowhere else, and no code reads a message: it reads the attributes.

    Args:
        parameter: what was given, by its name in Python (`width`, `images`); None if the message is about no parameter.
            The command line replaces the name by that of its option (`model.width`).
        value: the value given; None if nothing was given.
        reason: why it cannot be used ("must be at least 1").
        remedy: what to do ("name another folder"), or None if the reason says so.
        option: what else to do, by an option of the command line or of Python ("raise max_megapixels="); the pages have
            none, and do not show it.

    Example:
        >>> print(WSSLError("width", 0, "must be at least 1"))
        width=0: must be at least 1
        >>> print(WSSLError("out", "runs", "exists", "name another folder, or add --overwrite"))
        out=runs: exists: name another folder, or add --overwrite
        >>> print(WSSLError("out", None, "is required", "name the folder to write to"))
        out: is required: name the folder to write to
        >>> print(WSSLError("photo", "a.png", "is too large", "make it smaller", "raise max_megapixels="))
        photo=a.png: is too large: make it smaller, or raise max_megapixels=
    """

    def __init__(
        self, parameter: str | None, value: object, reason: str, remedy: str | None = None, option: str | None = None
    ) -> None:
        # All of it, so that a copy from another process is whole.
        super().__init__(parameter, value, reason, remedy, option)
        self.parameter, self.value, self.reason, self.remedy = parameter, value, reason, remedy
        self.option = option

    def __str__(self) -> str:
        return self.format(self.parameter)

    def format(self, parameter: str | None) -> str:
        """Return the message with `parameter` as the name of the parameter."""
        given = [] if parameter is None else [parameter + _as_typed(self.value)]
        remedy = ", or ".join(filter(None, [self.remedy, self.option]))
        return ": ".join([*given, self.reason, *([remedy] if remedy else [])])


def _as_typed(value: object) -> str:
    """Return `=value` as it is written on the command line; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"={str(value).lower()}"
    if isinstance(value, list | tuple):
        return f"=[{','.join(map(str, value))}]"
    return f"={value}"


class DataError(WSSLError):
    """A folder or a file of the data set that cannot be used; the message names it."""


class SomeFailed(WSSLError):
    """Some of many files could not be done, all others were; the message lists them."""

    exit_code = 1


class TrainingStopped(RuntimeError):
    """Training ended before its time in an orderly way; the message says how to go on."""

    exit_code = 2


class DiskFull(TrainingStopped):
    """A checkpoint could not be written."""


class Interrupted(TrainingStopped):
    """The user pressed Ctrl-C."""

    exit_code = 130


class Terminated(TrainingStopped):
    """The process received SIGTERM, or SLURM's requeue signal."""

    exit_code = 143


def there_are(known: Iterable[str], given: str) -> str:
    """Return a remedy for a name that is none of the known ones: the nearest one and all.

    Example:
        >>> there_are(["rotation", "blur"], "rotatoin")
        'did you mean rotation? there are rotation, blur'
    """
    names = list(known)
    nearest = get_close_matches(given, names, n=1)
    return (f"did you mean {nearest[0]}? " if nearest else "") + f"there are {', '.join(names)}"


def first_line(error: Exception) -> str:
    """Return the beginning of the message of a library, or the exception's name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def write_error(error: BaseException) -> None:
    """Write the error that ends this process to the file that the parent process has named.

    A study names it in `WSSL_ERROR_FILE`, torchrun, which shows the message in its own report, in
    `TORCHELASTIC_ERROR_FILE`.
    """
    known = isinstance(error, WSSLError | TrainingStopped)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    if message and (path := os.environ.get("TORCHELASTIC_ERROR_FILE")):
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": message, "timestamp": int(time.time())}))
    if path := os.environ.get(ERROR_FILE):
        parts = {name: getattr(error, name, None) for name in ("parameter", "value", "reason", "remedy")}
        parts |= {"type": type(error).__name__, "message": message}
        full = any(getattr(each, "errno", None) == errno.ENOSPC for each in (error, error.__cause__))
        parts |= {"disk_full": isinstance(error, DiskFull) or full}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps(parts, default=str))
