"""The one policy for outputs: what exists is refused, unless `--overwrite` is given; then nothing else is replaced."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
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


def remove_files(out: Path, files: Collection[str]) -> None:
    """Remove what an earlier output has left in a folder, when the new one is there to be written."""
    with writing("out", out):
        for name in files:
            (out / name).unlink(missing_ok=True)


@contextmanager
def new_folder(out: Path, overwrite: bool, files: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder to write to, which takes the place of `out` when the block ends, see `replacing_folder`.

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
        if others := sorted(there - {*files, unfinished_name(out)}):
            raise WSSLError("out", out, f"is not empty: it holds {others[0]}", "name a new folder")
        with replacing_folder(out) as folder:
            yield folder


def unfinished_name(out: Path) -> str:
    """Return the name of the folder in which `replacing_folder` has what is to replace `out`."""
    return f".{out.resolve().name}.new"


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of `out` when the block ends and is removed when the block fails.

    It is beside `out`; where nothing can be renamed there, since `out` is mounted or the folder above it is closed, it
    is in `out`, whose contents it replaces.

    Raises:
        WSSLError: it cannot be made.
    """
    given, out = out, out.resolve()  # a link stays one
    with writing("out", given):
        # The working directory stays too: a shell would be in a folder that is gone.
        inside = out.is_dir() and (out.is_mount() or out == Path.cwd() or not os.access(out.parent, os.W_OK))
        fresh = (out if inside else out.parent) / unfinished_name(out)
        shutil.rmtree(fresh, ignore_errors=True)  # of a killed command; a link that somebody has put there stays
        fresh.mkdir(parents=True)
    try:
        yield fresh
        if inside:
            for path in [path for path in out.iterdir() if path != fresh]:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for path in list(fresh.iterdir()):
                path.rename(out / path.name)
            return
        if out.is_dir():
            shutil.rmtree(out)
        fresh.rename(out)
    except WSSLError as error:
        if error.value != fresh:
            raise
        raise WSSLError(error.parameter, given, error.reason, error.remedy) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
