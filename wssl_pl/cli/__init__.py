"""The `wssl` command: finds the verb, runs it, and turns errors of use into one line and exit code 2."""

import gc
import importlib
import os
import select
import sys
from collections.abc import Sequence
from types import ModuleType

from wssl_pl.devices import share_cores
from wssl_pl.errors import TrainingStopped, WSSLError, write_error

# Verb: the module that runs it, imported only then, and what the short help says of it.
VERBS = {
    "train": ("wssl_pl.cli.train", "one of the two stages; the verb may be left out"),
    "runs": ("wssl_pl.cli.runs", "a table of the runs below a directory"),
    "test": ("wssl_pl.cli.test", "a finished model of either stage on the test split"),
    "prepare": ("wssl_pl.cli.prepare", "decode all images once into a cache; --check re-hashes it"),
    "masks": ("wssl_pl.cli.masks", "stats: the hole ratios of a folder; make: draw masks in QD-IMD's way"),
    "show": ("wssl_pl.cli.show", "data: a batch as training gets it, as a picture"),
    "pairs": ("wssl_pl.cli.pairs", "a folder of fixed images and masks, for any program to run on"),
    "evaluate": ("wssl_pl.cli.evaluate", "a model, a classical method or other programs' pictures on fixed pairs"),
    "study": ("wssl_pl.cli.study", "many runs with seeds and controls; resume DIR, report DIR"),
    "inpaint": ("wssl_pl.cli.inpaint", "fill the holes of a photo, or of a folder of them"),
    "export": ("wssl_pl.cli.export", "onnx or safetensors: a trained model for use elsewhere"),
    "app": ("wssl_pl.cli.app", "a page in the browser: paint the hole of a photo and see it filled"),
    "demo": ("wssl_pl.cli.demo", "both stages on the synthetic dataset, and a picture of what came out"),
}

# Verbs whose modules import Lightning.
LIGHTNING = ("train", "test", "pairs", "study", "demo")

HELP = """\
WSSL: weighted self-supervised learning for image inpainting

  python train.py stage=pretext 'tasks=[rotation,sharpness]' 'weights=[0.3,0.7]'
  python train.py stage=downstream ckpt=runs/pretext/<run>/best.ckpt loss=wssl
  python train.py test ckpt=runs/downstream/<run>/best.ckpt
  python train.py resume=runs/downstream/<run>/last.ckpt

Verbs:
{verbs}

key=value and --key=value are the same. Every option of a stage:
  python train.py stage=pretext --help          and          stage=downstream --help
"""


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line `args`, by default the process's own.

    Raises:
        SystemExit: with code 2 after an error of use, 130 after Ctrl-C, 143 after SIGTERM, 141 when the reader of the
            output ends first (`wssl ... | head`).
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
        os._exit(0)  # nothing was started; to take the thousands of modules apart would take a second more


def _run(words: list[str]) -> None:
    if words in ([], ["--help"], ["-h"]):
        print(HELP.format(verbs="\n".join(f"  {name:<10} {what}" for name, (_, what) in VERBS.items())))
        return
    verb = words.pop(0) if words[0] in VERBS else "train"
    share_cores()
    try:
        _load(verb).run(words)
    except (WSSLError, TrainingStopped) as error:
        write_error(error)
        # A worker process of the loader puts its whole traceback into the message; the cause is its last line.
        line = str(error).strip().splitlines()[-1] if "Traceback" in str(error) else str(error).strip()
        if line:
            print(f"error: {line}", file=sys.stderr, flush=True)
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except Exception as error:
        write_error(error)
        raise


def _load(verb: str) -> ModuleType:
    """Import the module of a verb.

    Lightning brings four thousand modules, which are there to stay. The garbage collector would search them again and
    again while they are imported, and once more when the process ends: a quarter of the time of a short command.
    """
    if not gc.isenabled() or "torch" in sys.modules:
        return importlib.import_module(VERBS[verb][0])
    gc.disable()
    try:
        if verb in LIGHTNING:
            importlib.import_module("torch")
            # Before Triton is imported, which reports its modules as leaks where they are never collected.
            gc.freeze()
        return importlib.import_module(VERBS[verb][0])
    finally:
        gc.enable()


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
