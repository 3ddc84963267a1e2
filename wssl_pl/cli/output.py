"""The one policy for outputs: what exists is refused, unless `--overwrite` is given; then nothing else is replaced."""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from wssl_pl.errors import WSSLError
from wssl_pl.files import check_writable, owned, writing

REMEDY = "name another, or add --overwrite"


def check_file(out: Path, overwrite: bool) -> Path:
    """Return the file to write, whose folder exists.

    Raises:
        WSSLError: it is a folder, it exists and may not be overwritten, or its folder does not exist or is read-only.
    """
    with writing("out", out):  # a closed folder
        if out.is_dir():
            raise WSSLError("out", out, "is a folder", "name a file")
        if out.exists() and not overwrite:
            raise WSSLError("out", out, "exists already", REMEDY)
        if not out.parent.is_dir():
            raise WSSLError("out", out, f"the folder {out.parent} does not exist")
    check_writable(out.parent, "out", out)
    return out


def check_folder(out: Path, overwrite: bool, files: Collection[str]) -> Path:
    """Return the folder to write to, which need not exist and may hold other files.

    Args:
        out: the folder.
        overwrite: whether an earlier output may be replaced.
        files: names of what is written into it.

    Raises:
        WSSLError: it is a file, holds an output that may not be overwritten, or is read-only.
    """
    with writing("out", out):  # a closed folder
        if out.exists() and not out.is_dir():
            raise WSSLError("out", out, "is a file", "name a folder")
        there = sorted(name for name in files if (out / name).exists())
    if there and not overwrite:
        raise WSSLError("out", out, f"{there[0]} exists already", REMEDY)
    check_writable(out, "out", out)
    return out


@contextmanager
def own_file(out: Path, overwrite: bool) -> Iterator[None]:
    """Hold a file to write, which no other process writes, while the block runs; see `check_file`."""
    check_file(out, overwrite)
    with owned(out, folder=False):
        check_file(out, overwrite)  # another process may have ended in between
        yield


@contextmanager
def own_folder(out: Path, overwrite: bool, files: Collection[str]) -> Iterator[None]:
    """Hold a folder to write to, of which no other process writes, while the block runs; see `check_folder`."""
    check_folder(out, overwrite, files)
    with owned(out):
        check_folder(out, overwrite, files)  # another process may have ended in between
        yield


@contextmanager
def new_folder(out: Path, overwrite: bool, files: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder to write to; with `overwrite` it takes the place of `out` when the block ends.

    No other process writes it meanwhile.

    Args:
        out: the folder, new or empty; with `overwrite` it may hold an earlier output.
        overwrite: whether an earlier output may be replaced.
        files: names of what an output consists of.

    Raises:
        WSSLError: it is a file, or holds an output that may not be overwritten, or something else.
    """
    with owned(out, folder=False):
        check_folder(out, overwrite, files)
        there = {path.name for path in out.iterdir()} if out.is_dir() else set()
        if others := sorted(there - set(files)):
            raise WSSLError("out", out, f"is not empty: it holds {others[0]}", "name a new folder")
        with replacing_folder(out) if there else nullcontext(out) as folder:
            yield folder


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of `out` when the block ends and is removed when the block fails.

    Raises:
        WSSLError: it cannot be made.
    """
    fresh = out.parent.resolve() / f".{out.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)  # of a killed command; where somebody has put a link, nothing is removed
    with writing("out", out):
        fresh.mkdir()  # nor is anything written there
    try:
        yield fresh
        if out.is_dir():
            shutil.rmtree(out)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
