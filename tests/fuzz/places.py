"""Full disks, missing permissions, and two processes with one output."""

import ctypes
import os
import re
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.runner import Case, Lost, judge
from tests.fuzz.seeds import DATA, TRAINER

LIBC = ctypes.CDLL(None, use_errno=True)
CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root reads and writes what is closed
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18


def commands(base: Path) -> dict[str, list[str]]:
    """Return command lines that write to `place/out`, by name."""
    photo, mask, model = base / "pictures" / "rgb.png", base / "holes" / "mask.png", base / "model.safetensors"
    data = [f"images={base / 'images'}", f"masks={base / 'masks'}", *(word.removeprefix("data.") for word in DATA)]
    train = [*(f"data.{word}" for word in data), *TRAINER, "run.dir=place/out"]
    out = "out=place/out"
    lines: dict[str, list[Any]] = {
        "inpaint": ["inpaint", photo, mask, f"{out}.png", f"ckpt={model}", "device=cpu"],
        "inpaint folder": ["inpaint", base / "images" / "train", "masks", out, f"ckpt={model}", "device=cpu"],
        "evaluate": ["evaluate", f"pairs={base / 'pairs'}", "method=mean", out, "accelerator=cpu"],
        "compare": ["evaluate", "--compare", base / "results" / "mean", base / "results" / "model", out],
        "export folder": ["export", "safetensors", f"ckpt={model}", out],
        "export file": ["export", "safetensors", f"ckpt={model}", f"{out}.safetensors"],
        "masks make": ["masks", "make", out, "count=12"],
        "masks stats": ["masks", "stats", base / "masks", f"{out}.png", "size=32"],
        "pairs": ["pairs", out, *data],
        "show data": ["show", "data", f"{out}.png", "count=2", *data],
        "prepare": ["prepare", f"images={base / 'images'}", out, "size=36", "workers=0"],
        "pretext": ["stage=pretext", "tasks=rotation", "model.width=2", *train],
        "downstream": ["stage=downstream", f"ckpt={base / 'pretext' / 'best.ckpt'}", *train],
        "test": ["test", f"ckpt={base / 'downstream' / 'best.ckpt'}", out, "accelerator=cpu"],
        "study report": ["study", "report", base / "study", out],
    }
    return {name: [str(word) for word in words] for name, words in lines.items()}


def make_case(rng: Random, base: Path) -> Case:
    """Return one command in one trouble."""
    Path("place").mkdir()
    shutil.copytree(base / "images" / "train", "masks")  # any images: those of equal names are the masks
    name, words = rng.choice(sorted(commands(base).items()))
    trouble = rng.choice((full_disk, full_disk, closed_folder, closed_input, two_at_once))
    return Case(trouble(rng, name, words), ("place",), f"{trouble.__name__}: {name}")


def _main(words: list[str]) -> None:
    from wssl_pl.cli import main

    main(words)


def full_disk(rng: Random, name: str, words: list[str]) -> Callable[[], Any]:
    """The output is on a small disk; without the right to mount one, files may not grow."""
    size = rng.choice((0, 4, 16, 40, 100, 300, 900)) * 1024
    # What a library writes at a bad moment must not end the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if LIBC.unshare(CLONE_NEWNS) or LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return lambda: _main(words)
    if LIBC.mount(b"tmpfs", b"place", b"tmpfs", 0, f"size={max(size, 4096)}".encode()):
        raise OSError(ctypes.get_errno(), "mount")
    if not size:
        Path("place", "filling").write_bytes(bytes(4096))
    return lambda: _main(words)


def drop_rights() -> None:
    """Give up root's rights to open what is closed to all; nothing happens to other users."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if LIBC.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for number in CAPABILITIES:
        data[0] &= ~(1 << number)
    if LIBC.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def _closed(path: Path, mode: int, words: list[str]) -> Callable[[], Any]:
    """Return a function that runs a command while a path has another mode."""
    before = path.stat().st_mode

    def run() -> None:
        path.chmod(mode)
        drop_rights()
        try:
            _main(words)
        finally:
            path.chmod(before)

    return run


def closed_folder(rng: Random, name: str, words: list[str]) -> Callable[[], Any]:
    """The folder of the output may not be written, or not even be entered."""
    there = rng.random() < 0.3 and not re.search(r"out\.\w", " ".join(words))
    closed = Path("place", "out") if there else Path("place")
    closed.mkdir(exist_ok=True)
    return _closed(closed, rng.choice((0o500, 0o500, 0o400, 0o000)), words)


def closed_input(rng: Random, name: str, words: list[str]) -> Callable[[], Any]:
    """An input may not be read: a file, or a folder."""
    inputs = [number for number, word in enumerate(words) if "/seeds/" in word]
    if not inputs:
        return lambda: _main(words)
    at = rng.choice(inputs)
    key, mark, value = words[at].rpartition("=")
    source, copy = Path(value), Path("input", Path(value).name)
    copy.parent.mkdir()
    shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    words = [*words[:at], f"{key}{mark}{copy}", *words[at + 1 :]]
    files = sorted(path for path in copy.rglob("*") if path.is_file() and not path.name.startswith("."))
    return _closed(rng.choice((copy, copy.parent, *files[:4])), 0, words)


def two_at_once(rng: Random, name: str, words: list[str]) -> Callable[[], Any]:
    """Two processes with one output: one does the work, the other is refused, unless it came afterwards."""

    def run() -> None:
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                outcome = "traceback"
                try:
                    outcome, _ = judge(lambda: _main(words))
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit({"clean": 0, "one line": 2}.get(outcome, 3))
            children.append(child)
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        if 3 in codes:
            raise RuntimeError("one of the two ended with a traceback")
        repeats = name in ("prepare", "study report")
        if codes != [0, 2] and not (repeats and codes == [0, 0]):
            raise Lost(f"two at once: {name} ended with codes {codes}")

    return run
