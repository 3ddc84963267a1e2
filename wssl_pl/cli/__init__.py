"""The `wssl` command: finds the command, runs it, and turns errors into a few lines and an exit code."""

import errno
import importlib
import inspect
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType
from typing import Any

import wssl_pl
from wssl_pl.cli.imports import collector_at_rest, import_torch
from wssl_pl.devices import share_cores
from wssl_pl.errors import Interrupted, Terminated, TrainingStopped, WSSLError, write_error
from wssl_pl.stages import STAGES

# By command, the module whose function runs it, imported only then, and what the short help says of it.
COMMANDS = {
    "train": ("train", "train one of the two stages; the command may be omitted"),
    "runs": ("runs", "a table of the runs below a directory"),
    "test": ("test", "measure a finished model of either stage on the test split"),
    "prepare": ("data", "decode all images once into a cache"),
    "masks stats": ("data", "the hole ratios of a folder of masks"),
    "masks make": ("data", "draw masks by the recipe of QD-IMD"),
    "show data": ("pairs", "draw a batch as training gets it"),
    "pairs": ("pairs", "write fixed images and masks, for any program to run on"),
    "evaluate": ("evaluate", "measure a model, a classical method or another program's images on fixed pairs"),
    "study": ("study", "many runs with seeds and controls; resume DIR continues one"),
    "study report": ("study", "write the report of a study"),
    "study export": ("study", "write the finished runs of a study as a small folder of JSON"),
    "study import": ("study", "take finished runs of an exported study, to resume it on another machine"),
    "advise": ("advise", "recommend a way to train for your images and masks, with what was measured"),
    "inpaint": ("inpaint", "fill the holes of a photo, or of a folder of photos"),
    "restore": ("inpaint", "undo the damages of a photo, and fill its holes"),
    "diagnose": ("diagnose", "report what was done to a photo: turned, faded, blurred, ..."),
    "export onnx": ("export", "write a model as ONNX"),
    "export safetensors": ("export", "write a model as safetensors"),
    "export web": ("export", "write a page that fills photos in the browser, without a server's work"),
    "app": ("app", "a page in the browser: paint the hole of a photo and see it filled"),
    "demo": ("demo", "both stages on the synthetic dataset, and a picture of what came out"),
}
# Whose modules import Lightning.
LIGHTNING = (
    "train", "test", "show data", "pairs", "study", "study report", "study export", "study import", "advise", "demo",
)  # fmt: skip
ARGS = "args"  # the parameter of a command that parses its command line itself

HELP = """\
usage: wssl [COMMAND] [key=value ...]

WSSL: weighted self-supervised learning for image inpainting

Example:
    wssl stage=pretext 'tasks=[rotation,sharpness]' 'weights=[0.3,0.7]'
    wssl stage=downstream ckpt=runs/pretext/<run>/best.ckpt loss=wssl
    wssl test ckpt=runs/downstream/<run>/best.ckpt

Commands:
{commands}

Options of a command: wssl COMMAND --help. Of a stage: wssl stage=pretext --help, wssl stage=downstream --help.
Version: wssl --version
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command line, by default that of the process.

    Args:
        args: the command line.

    Raises:
        SystemExit: with code 2 after misuse, 1 if some items of a batch failed, 130 after Ctrl-C, 143 after SIGTERM,
            141 when the reader of the output ends first (`wssl ... | head`).
    """
    words = list(sys.argv[1:] if args is None else args)
    only_help = args is None and not {"--help", "-h"}.isdisjoint(words)
    try:
        try:
            _run(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        raise SystemExit(128 + 13) from None  # as a program that SIGPIPE ends
    except SystemExit as end:
        if end.code or not only_help:
            raise
    if only_help:
        os._exit(0)  # nothing was started; unloading the thousands of modules would take one more second


def _run(words: Sequence[str]) -> None:
    share_cores()
    try:
        run(words)
    except (WSSLError, TrainingStopped) as error:
        write_error(error)
        if message := str(error).strip():
            # In one write: several processes of a training may end at the same moment.
            print(f"error: {message}\n", end="", file=sys.stderr, flush=True)
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except Exception as error:
        write_error(error)
        if not isinstance(error, OSError) or (error.filename is None and error.errno != errno.ENOSPC):
            raise
        # What no command expects of a disk: a name that is too long, a device that has failed.
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {where}{error.strerror}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def run(args: Sequence[str]) -> Any:
    """Run a command line and return what its command returns; None for the list of commands and the version.

    Args:
        args: the command line.

    Raises:
        WSSLError: something in it cannot be used as given.
    """
    if list(args) in ([], ["--help"], ["-h"], ["help"]):
        print(HELP.format(commands=_listed(COMMANDS)))
        return None
    if list(args) == ["--version"]:
        print(f"wssl {wssl_pl.__version__}")
        return None
    command, rest = _split(args)
    if command not in COMMANDS:
        parts = {name: entry for name, entry in COMMANDS.items() if name.startswith(f"{command} ")}
        print(f"usage: wssl {command} ...\n\nCommands:\n{_listed(parts)}\n\nOptions: wssl {next(iter(parts))} --help")
        return None
    function = _import(command)
    with _terminable():  # but in a training, which ends after the step
        if next(iter(inspect.signature(function).parameters), None) == ARGS:
            return function(rest)
        from wssl_pl.cli.arguments import call

        return call(function, command, rest)


@contextmanager
def _terminable() -> Iterator[None]:
    """End at SIGTERM as at Ctrl-C, so that locks and temporary files are removed, but with its exit code."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    received, owner = [], os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked process
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        if not received:
            raise
        raise Terminated((str(error) or "interrupted").replace("interrupted", "SIGTERM received", 1)) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _listed(commands: dict[str, tuple[str, str]]) -> str:
    return "\n".join(f"  {name:<19} {summary}" for name, (_, summary) in commands.items())


def _split(args: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command and the rest of a command line; `masks`, say, where help on its commands is asked for.

    Raises:
        WSSLError: there is no such command.
    """
    first, second = (*args, "", "")[:2]
    if first.startswith("-") or "=" in first:
        return "train", list(args)
    if f"{first} {second}" in COMMANDS:
        return f"{first} {second}", list(args[2:])
    if first in COMMANDS:
        return first, list(args[1:])
    parts = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if parts and second in ("--help", "-h", "help"):
        return first, []
    typed = f"{first} {second}".strip() if parts else first
    known = parts or list(COMMANDS)
    nearest = get_close_matches(typed, known, n=1)
    if first in STAGES:
        nearest = [f"stage={first}"]
    remedy = f"did you mean wssl {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
    raise WSSLError(None, None, f"unknown command {typed!r}", remedy)


def _import(command: str) -> Callable[..., Any]:
    """Import the module of a command and return its function."""
    with collector_at_rest() as collects:
        if collects and command in LIGHTNING:
            import_torch()
        module = importlib.import_module(f"wssl_pl.cli.{COMMANDS[command][0]}")
    function: Callable[..., Any] = getattr(module, command.replace(" ", "_"))
    return function


def _reader_is_gone() -> bool:
    """Return whether nobody reads standard output any more; then what is left in its buffer is dropped."""
    try:
        descriptor = sys.stdout.fileno()
        poll = select.poll()
    except (AttributeError, OSError):
        return False  # no standard output, or something else in its place; or Windows, where nothing shows it
    poll.register(descriptor, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # Python flushes once more when it ends, and would report the same.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
    return True
